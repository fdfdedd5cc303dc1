//! [`hurrying`]: the control thread waits for requests, and has drivers hurry them up when it has waited for long.
//!
//! ```text
//!   0 s        30 s         1 min             2 min      ...            9 h
//!   wait ──────► hurry ──────► hurry ──────────► hurry ─ ... ─ the last one
//! ```
//! Users of a disk may wait for a device as long as they like. Who changes the graph waits for them, and a device behind a
//! peer that says nothing must not keep a node for ever: its driver ends the requests that the peer does not answer.
//!
//! Invariant: it hurries a bounded number of times, so a wait without an end is still one in which nothing happens.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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
    poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            patience.poll(local, cx, &nodes);
        }
        polled
    })
    .await
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
