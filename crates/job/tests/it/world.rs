//! A graph with jobs on a simulated process, and a record of what they tell.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::Result;
use drystone_core::control::Task;
use drystone_job::{Events, Happening, IoWork, JobEvent, Jobs, Threads};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

/// Work on its way to I/O thread 1.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<InboxState>>);

#[derive(Default)]
struct InboxState {
    work: VecDeque<IoWork>,
    waker: Option<Waker>,
    is_closed: bool,
}

impl Inbox {
    fn change(&self, change: impl FnOnce(&mut InboxState)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    async fn next(&self) -> Option<IoWork> {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
struct SimThreads(Inbox);

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

/// Everything that jobs have told.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<JobEvent>>>);

impl Events for Record {
    fn happened(&self, event: JobEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl Record {
    /// What job `id` has told, in words.
    pub(crate) fn of(&self, id: &str) -> Vec<String> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| event.id == id).map(|event| word(&event.what)).collect()
    }
}

fn word(what: &Happening) -> String {
    match what {
        Happening::Status(status) => status.to_string(),
        Happening::Ready(_) => "READY".to_owned(),
        Happening::Pending => "PENDING".to_owned(),
        Happening::Completed(_, None) => "COMPLETED".to_owned(),
        Happening::Completed(_, Some(_)) => "FAILED".to_owned(),
        Happening::Cancelled(_) => "CANCELLED".to_owned(),
        Happening::Error(operation, action) => format!("{operation:?}:{action:?}").to_lowercase(),
    }
}

pub(crate) struct World<'s> {
    pub(crate) sim: &'s Sim,
    pub(crate) graph: SimGraph<'s>,
    pub(crate) jobs: Jobs,
    pub(crate) record: Record,
}

impl<'s> World<'s> {
    pub(crate) fn new(sim: &'s Sim) -> Self {
        let graph = SimGraph::start(sim);
        let (inbox, record) = (Inbox::default(), Record::default());
        let jobs = Jobs::new(graph.control().clone(), SimThreads(inbox.clone()), record.clone());
        let local = sim.io(1);
        sim.spawn(&local.clone(), "job threads", async move {
            while let Some(work) = inbox.next().await {
                local.spawn(work(local.clone()));
            }
        });
        Self { sim, graph, jobs, record }
    }

    pub(crate) fn call<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> T + Send + 'static,
    {
        self.graph.call(work)
    }

    /// Runs until job `id` has ended.
    pub(crate) fn wait(&self, id: &str) {
        self.sim.block_on(&self.sim.control(), self.jobs.ended(id)).unwrap();
    }

    /// Ends everything; nothing may be left that waits.
    pub(crate) fn end(self) {
        let Self { sim, graph, jobs, .. } = self;
        jobs.cancel_all();
        sim.block_on(&sim.control(), jobs.all_ended()).unwrap();
        drop(jobs);
        drop(graph);
        sim.run_to_end().unwrap();
    }
}
