//! Waiting for what another task of the same thread does.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};

/// Something that tasks of one thread share and wait for.
pub(crate) struct Shared<T> {
    value: RefCell<T>,
    waiting: RefCell<Vec<Waker>>,
}

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: RefCell::new(value), waiting: RefCell::default() }
    }

    pub(crate) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.value.borrow())
    }

    /// Changes it, and wakes whoever waits.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value.borrow_mut());
        self.waiting.take().into_iter().for_each(Waker::wake);
        result
    }

    /// Waits until `take`, which is asked now and after each change, has an answer. It may change the value in a way that
    /// nobody waits for.
    pub(crate) async fn until<R>(&self, mut take: impl FnMut(&mut T) -> Option<R>) -> R {
        poll_fn(|cx| match take(&mut self.value.borrow_mut()) {
            Some(result) => Poll::Ready(result),
            None => {
                self.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// The output of `wanted`, unless `other` ends before it.
pub(crate) async fn unless<T>(wanted: impl Future<Output = T>, other: impl Future<Output = ()>) -> Option<T> {
    let (mut wanted, mut other) = (pin!(wanted), pin!(other));
    poll_fn(|cx| match wanted.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => other.as_mut().poll(cx).map(|()| None),
    })
    .await
}
