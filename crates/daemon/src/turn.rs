//! [`Turn`]: one after the other, in the order of asking. One thread.
//!
//! For families of commands whose steps wait in between and must not meet halfway: adding an export while its server
//! stops.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// One at a time.
#[derive(Default)]
pub(crate) struct Turn(RefCell<State>);

#[derive(Default)]
struct State {
    next: u64,
    now: u64,
    waiting: VecDeque<(u64, Waker)>,
}

/// It is somebody's turn, until this is dropped.
pub(crate) struct Taken<'t>(&'t Turn);

impl Turn {
    /// Waits for the turn. A future that is polled once must be polled to its end, or nobody else gets a turn.
    pub(crate) async fn take(&self) -> Taken<'_> {
        let number = {
            let mut state = self.0.borrow_mut();
            state.next += 1;
            state.next - 1
        };
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.now == number {
                return Poll::Ready(());
            }
            state.waiting.retain(|(other, _)| *other != number);
            state.waiting.push_back((number, cx.waker().clone()));
            Poll::Pending
        })
        .await;
        Taken(self)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.borrow_mut();
        state.now += 1;
        let now = state.now;
        let next = state.waiting.iter().position(|(number, _)| *number == now);
        let waker = next.and_then(|index| state.waiting.remove(index));
        drop(state);
        if let Some((_, waker)) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn turns_are_taken_in_the_order_of_asking() {
        let turn = Turn::default();
        let mut cx = Context::from_waker(Waker::noop());
        let (mut first, mut second, mut third) = (pin!(turn.take()), pin!(turn.take()), pin!(turn.take()));
        let Poll::Ready(taken) = first.as_mut().poll(&mut cx) else { panic!("nobody is there") };
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert!(third.as_mut().poll(&mut cx).is_pending());
        drop(taken);
        assert!(third.as_mut().poll(&mut cx).is_pending());
        let Poll::Ready(taken) = second.as_mut().poll(&mut cx) else { panic!("it is its turn") };
        drop(taken);
        assert!(third.as_mut().poll(&mut cx).is_ready());
    }
}
