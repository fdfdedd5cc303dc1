//! Threads and sockets that a simulation plays, all of them on the one thread that the simulation runs on.
//!
//! ```text
//!   thread(local) ──► ThreadHandle          spawn, call ──► letters ──► a task of `local` ──► local.spawn
//!   starter(handles) ──► ThreadStarter      start ──► the next of the handles
//!   PlayedNetwork ──► Network               listen ──► Door ◄── connect     End ══ two Ways ══ End
//! ```
//! | module | what |
//! |---|---|
//! | `thread` | work on its way to a thread that is played |
//! | `network` | [`PlayedNetwork`]: which addresses somebody listens at |
//! | `pipe` | both ends of a connection |
//! | `dice`, `waiting` | what the seed decides; who is woken when something is ready |
//!
//! A `local` is anything that implements the core's `Local`, such as a thread of the test kit's seeded scheduler. Whoever
//! waits here is woken by whoever changes what is waited for, and by nobody else, so that a forgotten wake-up elsewhere
//! stays one.
//!
//! Invariants: equal seeds and equal calls give equal answers; a way holds no more bytes than its room.
//! Not here: when a client stops to listen or goes, which its task says by itself.

mod dice;
mod network;
mod pipe;
mod thread;
mod waiting;

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use drystone_base::{Error, Kind, Result};
use drystone_core::runtime::{Local, LocalRef};
use rustix::io::Errno;
use rustix::net::Shutdown;

use crate::engine::Interest;
use crate::threads::{ThreadHandle, ThreadStarter};

pub use dice::WireOptions;
pub(crate) use network::Door;
pub use network::PlayedNetwork;
pub(crate) use thread::PlayedThread;

/// The thread that `local` is, as others see it. It ends when the last clone of the handle is gone; what has been spawned
/// by then runs on.
#[must_use]
pub fn thread(local: &LocalRef) -> ThreadHandle {
    ThreadHandle::played(PlayedThread::new(local))
}

/// What "starts" `threads`, the last one first, and then no more.
#[must_use]
pub fn starter(threads: Vec<ThreadHandle>) -> ThreadStarter {
    ThreadStarter::played(threads)
}

/// What a played socket does. Every answer comes at once, as from one that does not block.
pub(crate) trait PlayedWire: Send + Sync {
    fn recv(&self, into: &mut [u8]) -> Result<usize, Errno>;
    fn send(&self, parts: &[IoSlice<'_>]) -> Result<usize, Errno>;
    fn accept(&self) -> Result<Arc<dyn PlayedWire>, Errno>;
    fn shutdown(&self, how: Shutdown);

    /// Whether it is ready. If not, `cx` is woken when it has become so; `number` is its place among those who wait.
    fn poll_ready(&self, interest: Interest, number: &mut Option<u64>, cx: &Context<'_>) -> Poll<()>;
    /// Whoever has this place waits no more.
    fn forget(&self, interest: Interest, number: u64);
    /// How many times whoever finds it ready lets others run first.
    fn lateness(&self) -> u64;
}

/// Waits until `wire` is ready; [`Kind::TimedOut`] at `until_ns`.
pub(crate) async fn when_ready(
    wire: &Arc<dyn PlayedWire>,
    local: &dyn Local,
    interest: Interest,
    until_ns: Option<u64>,
) -> Result<()> {
    let mut ready = Ready { wire, interest, number: None, late: wire.lateness() };
    let mut late = pin!(local.sleep_until(until_ns.unwrap_or(u64::MAX)));
    poll_fn(|cx| match Pin::new(&mut ready).poll(cx) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => late.as_mut().poll(cx).map(|()| Err(Error::new(Kind::TimedOut, "the time is over"))),
    })
    .await
}

/// Resolves when a wire is ready. Dropped before, it is not woken any more.
struct Ready<'w> {
    wire: &'w Arc<dyn PlayedWire>,
    interest: Interest,
    number: Option<u64>,
    late: u64,
}

impl Future for Ready<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { wire, interest, number, late } = &mut *self;
        if wire.poll_ready(*interest, number, cx).is_pending() {
            return Poll::Pending;
        }
        if *late == 0 {
            return Poll::Ready(());
        }
        *late -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.wire.forget(self.interest, number);
        }
    }
}
