//! [`Mailbox`]: how a request gets to a slot, and is begun there without a detour.
//!
//! ```text
//!   reader --deliver(job)--> polls the slot's worker at once      done already? the next job finds it still warm
//!                            |
//!                            '-- it waits for a device: the slot's own task goes on when it is woken
//! ```
//! A worker is polled with the waker of its own task whoever polls it, so it makes no difference to it. Requests that
//! memory can answer thus cost neither a wake-up nor a change of tasks, and all of them are run by one slot.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use drystone_buf::Buf;
use drystone_core::runtime::LocalFuture;
use drystone_nbd::Request;

use super::bell::Bell;
use super::load::Cost;

/// One request for a slot.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) payload: Option<Buf>,
    pub(super) cost: Cost,
}

/// A slot as the reader sees it.
#[derive(Default)]
pub(super) struct Mailbox {
    job: Cell<Option<Job>>,
    /// Where the worker waits for a job, or at a gate for the end of the connection.
    pub(super) bell: Bell,
    worker: RefCell<Option<LocalFuture<'static, ()>>>,
    /// Of the slot's own task, once that has run.
    waker: RefCell<Option<Waker>>,
}

impl Mailbox {
    /// The slot's task: runs `worker` to its end.
    pub(super) async fn drive(&self, worker: LocalFuture<'static, ()>) {
        *self.worker.borrow_mut() = Some(worker);
        poll_fn(|cx| {
            if self.waker.borrow().is_none() {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
            }
            self.step(cx)
        })
        .await;
    }

    fn step(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut worker = self.worker.borrow_mut();
        let Some(running) = worker.as_mut() else { return Poll::Ready(()) };
        let polled = running.as_mut().poll(cx);
        if polled.is_ready() {
            *worker = None;
        }
        polled
    }

    /// Gives an idle slot a job, and begins it unless the slot's task has yet to start.
    pub(super) fn deliver(&self, job: Job) {
        self.job.set(Some(job));
        if let Some(waker) = &*self.waker.borrow()
            && self.step(&mut Context::from_waker(waker)).is_ready()
        {
            // The connection broke meanwhile. The task has to see that its worker is gone.
            waker.wake_by_ref();
        }
    }

    /// The next job; none when `is_over` says so. For the worker.
    pub(super) async fn next_job(&self, is_over: impl Fn() -> bool) -> Option<Job> {
        self.bell
            .until(|| match self.job.take() {
                Some(job) => Some(Some(job)),
                None => is_over().then_some(None),
            })
            .await
    }
}
