//! [`DiskClient`]: operations on a device as awaitable calls, for tests of devices and of what lies directly on them.

use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Disk, DiskOp, Preallocation};
use drystone_core::runtime::LocalRef;

/// A device, used from one thread.
#[derive(Clone)]
pub struct DiskClient {
    disk: Arc<dyn Disk>,
    local: LocalRef,
}

impl DiskClient {
    /// Uses `disk` on the thread `local`.
    #[must_use]
    pub fn new(disk: impl Disk, local: &LocalRef) -> Self {
        Self { disk: Arc::new(disk), local: Rc::clone(local) }
    }

    async fn run(&self, op: DiskOp) -> Result<Option<Buf>> {
        let done = self.disk.submit(&self.local, op).await;
        done.result.map(|()| done.buf)
    }

    /// Reads `len` bytes.
    pub async fn read(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        let buf = Buf::zeroed(crate::index(len));
        let buf = self.run(DiskOp::Read { at, buf }).await?;
        Ok(buf.map(|buf| buf.as_slice().to_vec()).unwrap_or_default())
    }

    /// Writes `bytes`.
    pub async fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.run(DiskOp::Write { at, buf: Buf::copy_of(bytes), fua: false }).await.map(drop)
    }

    /// Writes `bytes`, which are durable then.
    pub async fn write_fua(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.run(DiskOp::Write { at, buf: Buf::copy_of(bytes), fua: true }).await.map(drop)
    }

    /// Makes durable what was done before.
    pub async fn flush(&self) -> Result<()> {
        self.run(DiskOp::Flush).await.map(drop)
    }

    /// Gives the contents of `range` up.
    pub async fn discard(&self, range: GuestRange) -> Result<()> {
        self.run(DiskOp::Discard(range)).await.map(drop)
    }

    /// Zeroes `range`.
    pub async fn write_zeroes(&self, range: GuestRange, may_unmap: bool) -> Result<()> {
        self.run(DiskOp::WriteZeroes { range, may_unmap, fast_only: false }).await.map(drop)
    }

    /// Sets the length.
    pub async fn truncate(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        self.run(DiskOp::Truncate { len, preallocation }).await.map(drop)
    }
}
