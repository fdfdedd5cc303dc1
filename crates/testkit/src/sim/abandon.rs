//! [`abandon_after`]: a caller that loses interest.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Awaits `future`, but drops it once it has been polled `polls` times without an answer; then the result is `None`.
///
/// With every number from 0 on until the result is `Some`, a future is dropped at each of its awaits in turn.
pub fn abandon_after<F: Future>(polls: u64, future: F) -> Abandon<F> {
    Abandon { future: Some(Box::pin(future)), polls_left: polls }
}

/// See [`abandon_after`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct Abandon<F> {
    future: Option<Pin<Box<F>>>,
    polls_left: u64,
}

impl<F: Future> Future for Abandon<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.polls_left > 0
            && let Some(future) = &mut this.future
        {
            this.polls_left -= 1;
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                this.future = None;
                return Poll::Ready(Some(output));
            }
        }
        if this.polls_left == 0 {
            this.future = None;
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}
