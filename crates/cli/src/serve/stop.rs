//! The end of a session: who asks for it, and waiting for that.
//!
//! | asked by | first time | again |
//! |---|---|---|
//! | SIGINT, SIGTERM, SIGHUP | a clean end | the process ends at once, with the status that the shell knows |
//! | key `q`, a broken server | a clean end | nothing more |
//!
//! SIGUSR1 asks what waits for what.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use drystone_core::control::{Control, Task};
use drystone_core::lane::Lane;
use drystone_sys::{Signal, Signals};

use crate::console;

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
pub(super) async fn watch(
    (mut signals, mut lane): (Signals, Lane),
    stop: Stop,
    control: Control,
    at_once: impl Fn(),
) {
    while let Ok(signal) = signals.wait(&mut lane).await {
        let number = match signal {
            Signal::Explain => {
                let waits = control.call(async |task: &mut Task<'_>| task.gs().waits().report()).await;
                console::note(format!("drystone: these wait:\n{}", waits.unwrap_or_default()));
                continue;
            }
            Signal::HangUp => 1,
            Signal::Interrupt => 2,
            Signal::Terminate => 15,
        };
        if !stop.ask() {
            at_once();
            console::note("drystone: stopped at once; what was not flushed may be lost");
            std::process::exit(128 + number);
        }
    }
}
