//! [`answer`]: one value on its way from one task to another, on whatever threads they are.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Both ends of a value that is yet to come.
#[must_use]
pub fn answer<T>() -> (AnswerSender<T>, Answer<T>) {
    let shared = Arc::new(Shared(Mutex::new(State { value: None, waker: None, is_gone: false })));
    (AnswerSender(Arc::clone(&shared)), Answer(shared))
}

/// Where the value comes from. Dropped without one, it lets the other end go.
pub struct AnswerSender<T>(Arc<Shared<T>>);

/// Where the value arrives.
pub struct Answer<T>(Arc<Shared<T>>);

struct Shared<T>(Mutex<State<T>>);

struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
    is_gone: bool,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Answer<T> {
    /// Waits for the value; `None` if there will be none.
    pub async fn wait(mut self) -> Option<T> {
        poll_fn(|cx| self.poll(cx)).await
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.state();
        match state.value.take() {
            Some(value) => Poll::Ready(Some(value)),
            None if state.is_gone => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> AnswerSender<T> {
    /// Sends the value.
    pub fn send(self, value: T) {
        self.0.state().value = Some(value);
    }
}

impl<T> Drop for AnswerSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.state();
            state.is_gone = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
