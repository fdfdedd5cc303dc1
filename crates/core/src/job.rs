//! [`JobCtx`]: what a job's code is given.
//!
//! A job submits I/O through its lanes and reaches the control thread through closures; it never holds the global state.
//! Whatever waits for something other than I/O takes `&mut JobCtx`, and a ticket borrows one of its lanes, so no ticket is
//! alive across a pause point, a sleep or a hop to the control thread. A drain needs no co-operation of a job: its
//! requests wait at their gate.
//!
//! ```text
//!   JobCtx::new ----> ctx.show(state) ----> JobLink     the filter's view: the whole state, while the job lives
//!                \--> ctx.run(work) -----> what the job returns, and no context any more
//! ```
//! A filter that works for a job is made of a [`JobLink`], and a link is made of a job with its lanes and its whole state:
//! no request meets a job that is half built. The context is lent to the job's code, so nothing of it survives the job.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::{Error, Kind, Result};

use crate::control::{Control, PlainData, Task};
use crate::lane::Lane;
use crate::runtime::LocalRef;

/// A job's capabilities, on the I/O thread that runs it. Not `Clone`, not `Send`.
pub struct JobCtx {
    lanes: Vec<Lane>,
    control: Control,
    signals: Arc<Signals>,
    local: LocalRef,
}

/// The other end: pauses and cancels the job. Any thread.
#[derive(Clone)]
pub struct JobHandle(Arc<Signals>);

/// What a filter sees of the job that it works for. Any thread.
pub struct JobLink<S> {
    state: Arc<S>,
    signals: Arc<Signals>,
}

#[derive(Default)]
struct Signals {
    state: Mutex<SignalState>,
    has_ended: AtomicBool,
}

#[derive(Default)]
struct SignalState {
    pauses: u32,
    cancelled: bool,
    waker: Option<Waker>,
}

impl JobCtx {
    /// A job with `lanes` lanes on the thread of `local`, and its handle.
    #[must_use]
    pub fn new(local: LocalRef, lanes: usize, control: Control) -> (Self, JobHandle) {
        let signals = Arc::new(Signals::default());
        let lanes = (0..lanes).map(|_| Lane::new(local.clone())).collect();
        (Self { lanes, control, signals: Arc::clone(&signals), local }, JobHandle(signals))
    }

    /// Shows `state` to the job's filter until the job ends. Whatever the filter needs is in it from the first moment.
    #[must_use]
    pub fn show<S: Send + Sync + 'static>(&self, state: S) -> JobLink<S> {
        JobLink { state: Arc::new(state), signals: Arc::clone(&self.signals) }
    }

    /// Runs the job: `work` is lent the context, and the job has ended when this returns.
    pub async fn run<T, F>(mut self, work: F) -> T
    where
        F: AsyncFnOnce(&mut Self) -> T,
    {
        work(&mut self).await
    }

    /// The job's lanes, for entering the graph; several workers take one each.
    pub fn lanes(&mut self) -> &mut [Lane] {
        &mut self.lanes
    }

    /// Waits while the job is paused. Fails with [`Kind::Cancelled`] once it is cancelled.
    pub async fn pause_point(&mut self) -> Result<()> {
        poll_fn(|cx| {
            let mut state = self.signals.state();
            if state.cancelled {
                return Poll::Ready(Err(Error::new(Kind::Cancelled, "the job was cancelled")));
            }
            if state.pauses == 0 {
                return Poll::Ready(Ok(()));
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits until `at_ns` of [`crate::runtime::Local::now_ns`], then for the end of a pause.
    pub async fn sleep_until(&mut self, at_ns: u64) -> Result<()> {
        self.local.sleep_until(at_ns).await;
        self.pause_point().await
    }

    /// Runs `work` as a control task and returns the plain data that it returns.
    pub async fn on_control<T, F>(&mut self, work: F) -> Result<T>
    where
        T: PlainData,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> T + Send + 'static,
    {
        self.control.call(work).await
    }
}

impl Drop for JobCtx {
    fn drop(&mut self) {
        self.signals.has_ended.store(true, Ordering::Release);
    }
}

impl<S> JobLink<S> {
    /// The job's state; `None` once the job has ended.
    #[must_use]
    pub fn state(&self) -> Option<&S> {
        (!self.signals.has_ended.load(Ordering::Acquire)).then_some(&*self.state)
    }
}

impl<S> Clone for JobLink<S> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), signals: Arc::clone(&self.signals) }
    }
}

impl Signals {
    fn state(&self) -> std::sync::MutexGuard<'_, SignalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut SignalState)) {
        let waker = {
            let mut state = self.state();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl JobHandle {
    /// Asks the job to stop at its next pause point. Counts.
    pub fn pause(&self) {
        self.0.change(|state| state.pauses += 1);
    }

    /// Takes back one [`Self::pause`].
    pub fn resume(&self) {
        self.0.change(|state| state.pauses = state.pauses.saturating_sub(1));
    }

    /// Ends the job at its next pause point, paused or not.
    pub fn cancel(&self) {
        self.0.change(|state| state.cancelled = true);
    }
}
