//! The end of a session: who asks for it, and waiting for that.
//!
//! | asked by | first time | again |
//! |---|---|---|
//! | SIGINT, SIGTERM, SIGHUP | a clean end | the process ends at once, with the status that the shell knows |
//! | key `q`, a broken server | a clean end | nothing more |

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use drystone_core::lane::Lane;
use drystone_sys::{Signal, Signals};

/// Somebody asks for the end, somebody waits for it. One thread; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Stop(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    is_asked: bool,
    waiting: Option<Waker>,
}

impl Stop {
    /// Asks for the end. Whether nobody had before.
    pub(super) fn ask(&self) -> bool {
        let mut state = self.0.borrow_mut();
        let is_first = !std::mem::replace(&mut state.is_asked, true);
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        is_first
    }

    /// Waits until somebody has asked.
    pub(super) async fn asked(&self) {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.is_asked {
                return Poll::Ready(());
            }
            state.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Turns signals into a clean end, and the second one into an end at once, before which `at_once` is called.
pub(super) async fn watch(mut signals: Signals, mut lane: Lane, stop: Stop, at_once: impl Fn()) {
    while let Ok(signal) = signals.wait(&mut lane).await {
        if !stop.ask() {
            at_once();
            eprintln!("drystone: stopped at once; what was not flushed may be lost");
            std::process::exit(128 + number(signal));
        }
    }
}

const fn number(signal: Signal) -> i32 {
    match signal {
        Signal::HangUp => 1,
        Signal::Interrupt => 2,
        Signal::Terminate => 15,
    }
}
