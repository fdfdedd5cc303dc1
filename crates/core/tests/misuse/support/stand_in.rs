//! What the programs of the catalogue take from outside `core`, in the shapes that it has there.

use std::future::Future;

use drystone_buf::Buf;
use drystone_core::lane::Lane;

/// A client of an export. Whoever waits for it borrows the lane, as with the sockets and rings of `sys`.
pub struct Socket;

impl Socket {
    /// Waits for the bytes of a request.
    pub async fn receive(&self, _lane: &mut Lane) -> Buf {
        Buf::empty()
    }

    /// Waits until the client has taken `bytes`.
    pub async fn send(&self, _lane: &mut Lane, bytes: Buf) {
        drop(bytes);
    }
}

/// Starts a task on an I/O thread, in a lane that is made there.
pub fn spawn_io<F>(task: F)
where
    F: AsyncFnOnce(Lane) + Send + 'static,
{
    drop(task);
}

/// Waits for both.
pub async fn join<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    (a.await, b.await)
}
