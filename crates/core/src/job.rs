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

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use drystone_base::{Error, Kind, Result};

use crate::backend::{Backend, Mode};
use crate::control::{Control, PlainData, Task};
use crate::lane::{Lane, Ticket};
use crate::runtime::{Local, LocalRef};

/// A job's capabilities, on the I/O thread that runs it. Not `Clone`, not `Send`.
pub struct JobCtx {
    lanes: Vec<Lane>,
    control: Control,
    signals: Arc<Signals>,
    local: LocalRef,
}

/// The other end: pauses and cancels the job. Any thread; there before the job is, so that none of its requests is missed.
#[derive(Clone, Default)]
pub struct JobHandle(Arc<Signals>);

/// Whether the job is asked to pause or to end, for its workers: they borrow the lanes, and the context is theirs again
/// when they have stopped.
#[derive(Clone)]
pub struct Interrupt(Arc<Signals>);

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
    /// Sleeps end.
    nudged: bool,
    wakers: Vec<Waker>,
}

impl SignalState {
    fn interrupts(&self) -> bool {
        self.cancelled || self.pauses > 0
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
    }
}

impl JobCtx {
    /// A job with `lanes` lanes on the thread of `local`, and its handle.
    #[must_use]
    pub fn new(local: LocalRef, lanes: usize, control: Control) -> (Self, JobHandle) {
        let handle = JobHandle::default();
        (Self::with_handle(&handle, local, lanes, control), handle)
    }

    /// As [`Self::new`], for a handle that is there already and belongs to no other job.
    #[must_use]
    pub fn with_handle(handle: &JobHandle, local: LocalRef, lanes: usize, control: Control) -> Self {
        let lanes = (0..lanes).map(|_| Lane::new(local.clone())).collect();
        Self { lanes, control, signals: Arc::clone(&handle.0), local }
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

    /// The job's lanes for several workers, and what tells them to stop.
    pub fn workers(&mut self) -> (&mut [Lane], Interrupt) {
        (&mut self.lanes, Interrupt(Arc::clone(&self.signals)))
    }

    /// The thread that the job runs on.
    #[must_use]
    pub fn local(&self) -> &dyn Local {
        &*self.local
    }

    /// What tells the job that it is asked to pause or to end.
    #[must_use]
    pub fn interrupt(&self) -> Interrupt {
        Interrupt(Arc::clone(&self.signals))
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
            state.wait(cx);
            Poll::Pending
        })
        .await
    }

    /// Waits until `at_ns` of [`Local::now_ns`]. A pause is noticed at once and does not shorten the sleep; an end of the
    /// job does.
    pub async fn sleep_until(&mut self, at_ns: u64) -> Result<()> {
        while self.rest_until(at_ns).await {
            self.pause_point().await?;
            if self.local.now_ns() >= at_ns {
                return Ok(());
            }
        }
        self.pause_point().await
    }

    /// Waits until `at_ns` of [`Local::now_ns`], or until the job is asked to pause or to end or is nudged
    /// ([`JobHandle::nudge`]): whether that came first.
    pub async fn rest_until(&mut self, at_ns: u64) -> bool {
        let mut sleep = self.local.sleep_until(at_ns);
        poll_fn(|cx| {
            let mut state = self.signals.state();
            if std::mem::take(&mut state.nudged) || state.interrupts() {
                return Poll::Ready(true);
            }
            state.wait(cx);
            drop(state);
            sleep.as_mut().poll(cx).map(|()| false)
        })
        .await
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
        let wakers = {
            let mut state = self.state();
            change(&mut state);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
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

    /// Ends the rest that the job takes, or the next one: something that it depends on is different now.
    pub fn nudge(&self) {
        self.0.change(|state| state.nudged = true);
    }

    /// Whether [`Self::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.state().cancelled
    }
}

impl Interrupt {
    /// Whether the job is asked to pause or to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.state().interrupts()
    }

    /// Ready once the job is asked to pause or to end; wakes the caller then.
    pub fn poll_set(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.interrupts() {
            return Poll::Ready(());
        }
        state.wait(cx);
        Poll::Pending
    }

    /// Enters the graph, unless the job is asked to pause or to end first: a job that waits at a closed gate can do both.
    pub async fn enter<'l, M: Mode>(
        &self,
        lane: &'l mut Lane,
        backend: &Backend<M>,
    ) -> Option<Ticket<'l, M>> {
        let mut entering = pin!(lane.enter(backend));
        poll_fn(|cx| {
            if self.poll_set(cx).is_ready() {
                return Poll::Ready(None);
            }
            entering.as_mut().poll(cx).map(Some)
        })
        .await
    }
}
