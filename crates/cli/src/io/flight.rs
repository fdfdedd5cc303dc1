//! Requests that a command has begun and does not wait for.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use drystone_core::runtime::{LocalRef, yield_now};

/// The requests in flight. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Flights(Rc<State>);

#[derive(Default)]
struct State {
    count: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
    /// Why the program is to end.
    end: RefCell<Option<String>>,
}

impl Flights {
    /// Begins a request, and comes back when it first waits for something.
    pub(super) async fn begin(&self, local: &LocalRef, request: impl Future<Output = ()> + 'static) {
        let flight = Flight(self.clone());
        self.0.count.set(self.0.count.get() + 1);
        local.spawn(Box::pin(async move {
            request.await;
            drop(flight);
        }));
        yield_now().await;
    }

    /// The program is to end.
    pub(super) fn end(&self, why: String) {
        self.0.end.replace(Some(why));
    }

    /// Why the program is to end, if it is; told once.
    pub(super) fn take_end(&self) -> Option<String> {
        self.0.end.take()
    }

    /// Waits until none is left.
    pub(super) async fn land(&self) {
        poll_fn(|cx| {
            if self.0.count.get() == 0 {
                return Poll::Ready(());
            }
            self.0.waiting.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// One of them.
struct Flight(Flights);

impl Drop for Flight {
    fn drop(&mut self) {
        let state = &self.0.0;
        state.count.set(state.count.get() - 1);
        if state.count.get() == 0
            && let Some(waiting) = state.waiting.take()
        {
            waiting.wake();
        }
    }
}
