//! [`Events`]: what all clients are told of, in the order in which it happened.
//!
//! ```text
//!   any thread: emit ──► queue ──► the control thread hands it to every client      before the next reply, or soon
//! ```
//! Invariant: an event that was emitted before a command answered reaches its client before that answer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use drystone_qmp::schema::events::Event;
/// Tells the time of day, since the beginning of 1970. Any thread.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Events that were not handed to clients yet. Clones are the same queue. Any thread.
#[derive(Clone)]
pub(crate) struct Events {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Event, Duration)>,
    pump: Option<Waker>,
}

impl Events {
    /// Nothing has happened yet.
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has just happened.
    pub(crate) fn emit(&self, event: Event) {
        let mut state = self.state();
        state.queue.push_back((event, (self.clock)()));
        let pump = state.pump.take();
        drop(state);
        if let Some(pump) = pump {
            pump.wake();
        }
    }

    /// What has happened, and when.
    pub(crate) fn take(&self) -> VecDeque<(Event, Duration)> {
        std::mem::take(&mut self.state().queue)
    }

    /// Waits until something has happened.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = self.state();
            if !state.queue.is_empty() {
                return Poll::Ready(());
            }
            state.pump = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
