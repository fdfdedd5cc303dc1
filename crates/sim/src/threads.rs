//! The I/O thread that jobs run on, played by the simulation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::Result;
use drystone_job::{IoWork, Threads};
use drystone_testkit::sim::Sim;

/// Work on its way to an I/O thread.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    work: VecDeque<IoWork>,
    waker: Option<Waker>,
    is_closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.lock();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn next(&self) -> Option<IoWork> {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            match state.work.pop_front() {
                Some(work) => Poll::Ready(Some(work)),
                None if state.is_closed => Poll::Ready(None),
                None => {
                    state.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// The sender's end. Dropping it ends the receiver.
pub(crate) struct SimThreads(Inbox);

impl SimThreads {
    /// Work for I/O thread 1 of `sim`.
    pub(crate) fn start(sim: &Sim) -> Self {
        let inbox = Inbox::default();
        let (receiver, local) = (inbox.clone(), sim.io(1));
        sim.spawn(&local.clone(), "job threads", async move {
            while let Some(work) = receiver.next().await {
                local.spawn(work(local.clone()));
            }
        });
        Self(inbox)
    }
}

impl Threads for SimThreads {
    fn spawn(&self, work: IoWork) -> Result<()> {
        self.0.change(|state| state.work.push_back(work));
        Ok(())
    }
}

impl Drop for SimThreads {
    fn drop(&mut self) {
        self.0.change(|state| state.is_closed = true);
    }
}
