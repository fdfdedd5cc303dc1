//! The other end of a connection: a socket, or a simulated one.
//!
//! Whatever waits for it takes the lane, so nobody waits for a client while holding a ticket. Time limits are moments on
//! the lane's clock.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::task::Poll;

use drystone_base::Result;
use drystone_core::lane::Lane;
use drystone_sys::{Closer, Receiver, Sender};

/// What a client sends.
pub(super) trait Source: 'static {
    /// Receives into the start of `into` (not empty); 0 at the end of what the client sends. Nothing is lost if the future
    /// is dropped while it waits for the client.
    async fn recv(&mut self, lane: &mut Lane, into: &mut [u8], until_ns: Option<u64>) -> Result<usize>;
}

/// The way to a client.
pub(super) trait Sink: 'static {
    /// Sends the start of `pieces` (not empty) without waiting; `None` if the client takes nothing at the moment.
    fn try_send(&self, pieces: &[IoSlice<'_>]) -> Result<Option<usize>>;

    /// Waits until [`Self::try_send`] is worth another attempt.
    async fn writable(&self, lane: &mut Lane, until_ns: Option<u64>) -> Result<()>;

    /// Ends the connection in both directions.
    fn close(&self);
}

/// The way to a client at the other end of a socket.
pub(super) struct SocketSink {
    pub(super) sender: Sender,
    pub(super) closer: Closer,
}

impl Source for Receiver {
    async fn recv(&mut self, lane: &mut Lane, into: &mut [u8], until_ns: Option<u64>) -> Result<usize> {
        self.set_deadline(until_ns);
        Self::recv(self, lane, into).await
    }
}

impl Sink for SocketSink {
    fn try_send(&self, pieces: &[IoSlice<'_>]) -> Result<Option<usize>> {
        self.sender.try_send(pieces)
    }

    async fn writable(&self, lane: &mut Lane, until_ns: Option<u64>) -> Result<()> {
        self.sender.writable(lane, until_ns).await
    }

    fn close(&self) {
        self.closer.close();
    }
}

/// The output of `wanted`, unless `other` ends before it. For futures that can be dropped because they hold nothing: they
/// wait for a client, a gate or a moment.
pub(super) async fn unless<T>(wanted: impl Future<Output = T>, other: impl Future<Output = ()>) -> Option<T> {
    let (mut wanted, mut other) = (pin!(wanted), pin!(other));
    poll_fn(|cx| match wanted.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => other.as_mut().poll(cx).map(|()| None),
    })
    .await
}
