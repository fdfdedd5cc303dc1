//! [`Bell`]: how the tasks of one connection wake each other. One thread, so no locks.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Wakes the one task that waits at it.
#[derive(Default)]
pub(super) struct Bell(RefCell<Option<Waker>>);

impl Bell {
    /// Wakes whoever waits. It looks again at what it waits for, so ringing once too often does no harm.
    #[inline]
    pub(super) fn ring(&self) {
        let waker = self.0.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until `look`, which is asked now and after each ring, has an answer.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| self.poll(cx, &mut look)).await
    }

    /// As [`Self::until`], for a caller that waits for something else, too.
    #[inline]
    pub(super) fn poll<T>(&self, cx: &Context<'_>, look: &mut impl FnMut() -> Option<T>) -> Poll<T> {
        if let Some(value) = look() {
            return Poll::Ready(value);
        }
        let mut known = self.0.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *known = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
