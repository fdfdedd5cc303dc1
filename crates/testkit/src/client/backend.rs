//! [`BackendClient`]: requests through the graph.

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{Status, WriteFlags, ZeroFlags};
use drystone_core::lane::Lane;
use drystone_core::runtime::{LocalRef, sim_point};

use super::Target;

/// A lane that enters one backend, a ticket for each request.
pub struct BackendClient {
    lane: Lane,
    backend: Backend<ReadWrite>,
    /// The next compressed write is made in two steps.
    presses_first: bool,
}

impl BackendClient {
    /// Uses `backend` on the thread `local`.
    #[must_use]
    pub fn new(backend: &Backend<ReadWrite>, local: &LocalRef) -> Self {
        Self { lane: Lane::new(LocalRef::clone(local)), backend: backend.clone(), presses_first: true }
    }

    /// Writes `bytes` at `at`, compressed: in two steps every other time, if that is possible.
    pub async fn write_compressed(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let flags = WriteFlags { compressed: true, ..WriteFlags::default() };
        let (at, mut buf) = (GuestOffset::new(at), Buf::copy_of(bytes));
        self.presses_first = !self.presses_first;
        let mut pressed = None;
        if !self.presses_first {
            pressed = self.lane.enter(&self.backend).await.press(at, buf.as_mut_slice());
            // Anything may happen between the steps.
            sim_point(self.lane.local()).await;
        }
        let mut ticket = self.lane.enter(&self.backend).await;
        match pressed {
            Some(pressed) => ticket.write_pressed(pressed, buf, flags).await.0,
            None => ticket.write(at, buf, flags).await.0,
        }
    }

    /// Sets the length, with space for what is new.
    pub async fn resize_with(&mut self, len: u64, preallocation: Preallocation) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.resize(len, preallocation).await
    }

    /// Bytes of the state of a machine.
    pub async fn read_state(&mut self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut ticket = self.lane.enter(&self.backend).await;
        let (result, buf) = ticket.read_state(at, Buf::zeroed(len)).await;
        result.map(|()| buf.as_slice().to_vec())
    }

    /// Stores bytes in the state of a machine.
    pub async fn write_state(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.write_state(at, Buf::copy_of(bytes)).await.0
    }

    /// How the first part of `range` is allocated, through all layers.
    pub async fn status(&mut self, range: GuestRange) -> Result<Status> {
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.status(range, u32::MAX).await
    }
}

impl Target for BackendClient {
    async fn read(&mut self, range: GuestRange) -> Result<Vec<u8>> {
        let buf = Buf::zeroed(crate::index(range.len()));
        let mut ticket = self.lane.enter(&self.backend).await;
        let (result, buf) = ticket.read(range.start(), buf).await;
        result.map(|()| buf.as_slice().to_vec())
    }

    async fn write(&mut self, at: u64, bytes: &[u8], fua: bool) -> Result<()> {
        let flags = WriteFlags { fua, ..WriteFlags::default() };
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.write(GuestOffset::new(at), Buf::copy_of(bytes), flags).await.0
    }

    async fn write_zeroes(&mut self, range: GuestRange, may_unmap: bool) -> Result<()> {
        let flags = ZeroFlags { may_unmap, ..ZeroFlags::default() };
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.write_zeroes(range, flags).await
    }

    async fn discard(&mut self, range: GuestRange) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.discard(range).await
    }

    async fn flush(&mut self) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.flush().await
    }

    async fn resize(&mut self, len: u64) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.resize(len, Preallocation::Off).await
    }
}
