//! [`hurrying`]: the control thread waits for requests, and has drivers hurry them up when it has waited for long.
//!
//! ```text
//!   0 s        30 s         1 min             2 min      ...            9 h
//!   wait ──────► hurry ──────► hurry ──────────► hurry ─ ... ─ the last one
//! ```
//! Users of a disk may wait for a device as long as they like. Who changes the graph waits for them, and a device behind a
//! peer that says nothing must not keep a node for ever: its driver ends the requests that the peer does not answer.
//!
//! Invariants: it hurries a bounded number of times, so a wait without an end is still one in which nothing happens; what is
//! waited for is looked at when it was woken, never because time has passed, so a wake-up that somebody forgets is found out.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::graph::node::Node;
use crate::runtime::{LocalFuture, LocalRef};

/// The first time that drivers are asked to hurry. Each later one comes when twice as much time has passed.
const PATIENCE_NS: u64 = 30_000_000_000;
/// So many times drivers are asked.
const HURRIES_MAX: u32 = 11;

/// When drivers are asked next.
#[derive(Default)]
struct Patience {
    hurries: u32,
    since_ns: u64,
    timer: Option<LocalFuture<'static, ()>>,
}

/// Waits for `work`. While that takes long, asks the drivers of `nodes`, which it waits for, to hurry.
pub(crate) async fn hurrying<T>(
    local: &LocalRef,
    work: impl Future<Output = T>,
    nodes: impl Fn() -> Vec<Arc<Node>>,
) -> T {
    let (mut work, mut patience) = (pin!(work), Patience::default());
    let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), behind: Mutex::new(Waker::noop().clone()) });
    let waker = Waker::from(Arc::clone(&bell));
    poll_fn(|cx| {
        bell.behind().clone_from(cx.waker());
        if bell.has_rung.swap(false, Ordering::AcqRel)
            && let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return Poll::Ready(done);
        }
        patience.poll(local, cx, &nodes);
        Poll::Pending
    })
    .await
}

/// Knows whether the work was woken, and wakes whoever waits for it.
struct Bell {
    has_rung: AtomicBool,
    behind: Mutex<Waker>,
}

impl Bell {
    fn behind(&self) -> MutexGuard<'_, Waker> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        let behind = self.behind().clone();
        behind.wake();
    }
}

impl Patience {
    fn poll(&mut self, local: &LocalRef, cx: &mut Context<'_>, nodes: &impl Fn() -> Vec<Arc<Node>>) {
        while self.hurries < HURRIES_MAX {
            let timer = match &mut self.timer {
                Some(timer) => timer,
                None => {
                    if self.hurries == 0 {
                        self.since_ns = local.now_ns();
                    }
                    let at_ns = self.since_ns.saturating_add(PATIENCE_NS << self.hurries);
                    self.timer.insert(local.sleep_until(at_ns))
                }
            };
            if timer.as_mut().poll(cx) == Poll::Pending {
                return;
            }
            self.timer = None;
            self.hurries += 1;
            let waited_ns = local.now_ns().saturating_sub(self.since_ns);
            nodes().iter().for_each(|node| node.driver().hurry(waited_ns));
        }
    }
}
