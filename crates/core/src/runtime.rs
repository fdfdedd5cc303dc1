//! What the core asks of the thread that it runs on.
//!
//! The core knows no executor, clock or timer. Whoever runs it (the I/O threads of `sys`, the seeded scheduler of
//! `testkit`, somebody's own event loop) implements [`Local`] once per thread.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The number of an I/O thread of one graph, from 0; the control thread has one, too.
///
/// It is a parameter, not a thread-local, so that a simulator can play many threads on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u16);

impl Shard {
    /// The most I/O threads that a graph can have.
    pub const COUNT_MAX: u16 = 256;

    /// Thread number `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Self::COUNT_MAX`].
    #[must_use]
    pub const fn new(index: u16) -> Self {
        assert!(index < Self::COUNT_MAX);
        Self(index)
    }

    /// The number.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A future that stays on its thread, owned by a box.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// One I/O thread, as the core and the drivers see it. Reached through a lane, a ticket or an `Io`; never sent.
pub trait Local: 'static {
    /// Which thread of the graph this is. Constant; two threads of one graph have different numbers.
    fn shard(&self) -> Shard;

    /// Runs `task` to its end on this thread. A thread does not end before its tasks have.
    fn spawn(&self, task: LocalFuture<'static, ()>);

    /// Monotonic time in nanoseconds since some moment before the graph was made.
    fn now_ns(&self) -> u64;

    /// Resolves once [`Self::now_ns`] has reached `at_ns`.
    fn sleep_until(&self, at_ns: u64) -> LocalFuture<'static, ()>;

    /// Whether a task that passes a [`sim_point`] shall let others run first. Real threads answer `false`.
    fn yields_here(&self) -> bool {
        false
    }

    /// The implementation itself, for protocol drivers that know which runtime they are made for.
    fn as_any(&self) -> &dyn Any;
}

/// A counted handle of the thread that the holder runs on.
pub type LocalRef = Rc<dyn Local>;

/// Makes what contains it neither `Send` nor `Sync`, by a name that the compiler's message repeats.
pub(crate) struct StaysOnItsThread(std::marker::PhantomData<*mut ()>);

/// Lets the simulator run other tasks here. Nothing unless the crate is built with the feature `sim`.
#[inline]
pub async fn sim_point(local: &dyn Local) {
    if cfg!(feature = "sim") && local.yields_here() {
        yield_now().await;
    }
}

/// Gives way to other tasks of the thread once.
pub async fn yield_now() {
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if self.0 {
                return Poll::Ready(());
            }
            self.0 = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
    Yield(false).await;
}
