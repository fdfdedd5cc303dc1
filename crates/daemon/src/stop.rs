//! [`Stop`]: the end: who asks for it, and waiting for that.
//!
//! | asked by | first time | again |
//! |---|---|---|
//! | SIGINT, SIGTERM, SIGHUP | a clean end | the process ends at once, with the status that the shell knows |
//! | `quit` | a clean end | |
//!
//! SIGUSR1 asks what waits for what: whoever finds the daemon stuck gets the answer on standard error.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use drystone_core::lane::Lane;
use drystone_sys::{Signal, Signals};

/// Somebody asks for the end, others wait for it. One thread; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Stop(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    is_asked: bool,
    waiting: Vec<Waker>,
}

impl Stop {
    /// Asks for the end. Whether nobody had before.
    pub(crate) fn ask(&self) -> bool {
        let mut state = self.0.borrow_mut();
        let is_first = !std::mem::replace(&mut state.is_asked, true);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        is_first
    }

    /// Whether somebody has asked.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.borrow().is_asked
    }

    /// Waits until somebody has asked.
    pub(crate) async fn asked(&self) {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.is_asked {
                return Poll::Ready(());
            }
            state.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The output of `wanted`, unless the end is asked for before. For futures that can be dropped because they wait for
    /// a peer only.
    pub(crate) async fn unless_asked<T>(&self, wanted: impl Future<Output = T>) -> Option<T> {
        let (mut wanted, mut asked) = (pin!(wanted), pin!(self.asked()));
        poll_fn(|cx| match wanted.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => asked.as_mut().poll(cx).map(|()| None),
        })
        .await
    }
}

/// Turns signals into a clean end, and the second one into an end at once; or into an answer of `explain`.
pub(crate) async fn watch(mut signals: Signals, mut lane: Lane, stop: Stop, explain: impl AsyncFn()) {
    while let Ok(signal) = signals.wait(&mut lane).await {
        let number = match signal {
            Signal::Explain => {
                explain().await;
                continue;
            }
            Signal::HangUp => 1,
            Signal::Interrupt => 2,
            Signal::Terminate => 15,
        };
        if !stop.ask() {
            std::process::exit(128 + number);
        }
    }
}
