//! The table of jobs: what is known of each, and every change of it, under one lock, with the events in order.
//!
//! Not here: code of jobs (`run`), their last steps (`ending`), what users say (`jobs`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::{Error, Kind, Result};
use drystone_core::control::Control;
use drystone_core::job::JobHandle;

use crate::ending::Ending;
use crate::event::{Events, Happening, JobEvent, JobType, Progress};
use crate::jobs::Threads;
use crate::limit::RateLimit;
use crate::policy::IoStatus;
use crate::state::Status;

/// Names one job of a table for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobKey(pub(crate) u64);

/// What a job that is ready was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Complete, with everything that this means for the graph.
    Complete,
    /// End well, but leave the graph alone (`block-job-cancel` of a ready job).
    Leave,
}

/// What all parts share.
pub(crate) struct Shared {
    table: Mutex<Table>,
    pub(crate) control: Control,
    pub(crate) threads: Box<dyn Threads>,
    pub(crate) events: Box<dyn Events>,
}

#[derive(Default)]
pub(crate) struct Table {
    /// Oldest first.
    pub(crate) jobs: Vec<Entry>,
    next: u64,
    watchers: Vec<Waker>,
}

/// One job.
pub(crate) struct Entry {
    pub(crate) key: JobKey,
    pub(crate) id: String,
    pub(crate) job_type: JobType,
    pub(crate) status: Status,
    pub(crate) group: u64,
    pub(crate) auto_finalize: bool,
    pub(crate) auto_dismiss: bool,
    pub(crate) current: u64,
    pub(crate) total: u64,
    pub(crate) limit: RateLimit,
    pub(crate) io_status: IoStatus,
    /// A user, or an error that stops, has paused it.
    pub(crate) user_paused: bool,
    /// How often it is paused for other reasons.
    pub(crate) internal_pauses: u32,
    /// Its code is running, rather than waiting for a timer or the end of a pause.
    pub(crate) busy: bool,
    pub(crate) asked: Option<Asked>,
    /// Somebody waits for `asked`.
    pub(crate) asker: Option<Waker>,
    /// Its code was started, and has ended.
    pub(crate) started: bool,
    pub(crate) ended: bool,
    pub(crate) error: Option<Error>,
    /// The last step of its group has begun.
    pub(crate) ending_now: bool,
    pub(crate) handle: JobHandle,
    /// Its last step; lent out while it runs.
    pub(crate) ending: Option<Box<dyn Ending>>,
}

impl Entry {
    pub(crate) fn progress(&self) -> Progress {
        Progress { total: self.total, current: self.current, speed: self.limit.speed() }
    }

    /// Whether its code is not running, and will not.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.ended || !self.started
    }

    /// Whether something was asked of it that it does without being asked again: to go on, or its last step.
    pub(crate) fn is_about_to_change(&self) -> bool {
        let stands_still = matches!(self.status, Status::Paused | Status::Standby);
        let is_released = !self.user_paused && self.internal_pauses == 0;
        (stands_still && is_released) || (self.ending_now && self.status != Status::Concluded)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.error.is_some() || self.handle.is_cancelled()
    }
}

impl Shared {
    pub(crate) fn new(control: Control, threads: Box<dyn Threads>, events: Box<dyn Events>) -> Self {
        Self { table: Mutex::default(), control, threads, events }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, entry: &Entry, what: Happening) {
        self.events.happened(JobEvent { id: entry.id.clone(), job_type: entry.job_type, what });
    }

    /// Goes to another status.
    ///
    /// # Panics
    /// If the table of states has no such way.
    pub(crate) fn go(&self, entry: &mut Entry, status: Status) {
        assert!(
            entry.status.leads_to(status),
            "job '{}' cannot go from {} to {status}",
            entry.id,
            entry.status
        );
        entry.status = status;
        self.tell(entry, Happening::Status(status));
    }

    /// Does something with an entry that is there.
    pub(crate) fn with<T>(&self, key: JobKey, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.table().find(key).map(change)
    }

    /// Waits until `reached` says so, which is asked whenever a job ends or goes on after a pause.
    pub(crate) async fn until(&self, reached: impl Fn(&Table) -> bool) {
        std::future::poll_fn(|cx| {
            let mut table = self.table();
            if reached(&table) {
                return Poll::Ready(());
            }
            table.watchers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The end of a job: tells how it went. A job that nobody has to dismiss is gone.
    pub(crate) fn conclude(&self, key: JobKey) {
        let mut table = self.table();
        let Some(entry) = table.find(key) else { return };
        if entry.started {
            let progress = entry.progress();
            let what = match &entry.error {
                Some(error) if error.kind() == Kind::Cancelled => Happening::Cancelled(progress),
                error => Happening::Completed(progress, error.as_ref().map(Error::report)),
            };
            self.tell(entry, what);
        }
        self.go(entry, Status::Concluded);
        if entry.auto_dismiss || !entry.started {
            self.forget(&mut table, key);
        }
        table.wake_watchers();
    }

    /// Takes a job out of the table.
    pub(crate) fn forget(&self, table: &mut Table, key: JobKey) {
        if let Some(entry) = table.find(key) {
            self.go(entry, Status::Null);
        }
        table.jobs.retain(|entry| entry.key != key);
    }
}

impl Table {
    pub(crate) fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn wake_watchers(&mut self) {
        self.watchers.drain(..).for_each(Waker::wake);
    }

    pub(crate) fn find(&mut self, key: JobKey) -> Option<&mut Entry> {
        self.jobs.iter_mut().find(|entry| entry.key == key)
    }

    pub(crate) fn named(&mut self, id: &str) -> Result<&mut Entry> {
        let found = self.jobs.iter_mut().find(|entry| entry.id == id);
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no job '{id}'")))
    }

    /// The members of a group that have not ended, oldest first.
    pub(crate) fn members(&self, group: u64) -> impl Iterator<Item = &Entry> {
        let is_member = move |entry: &&Entry| entry.group == group && entry.status != Status::Concluded;
        self.jobs.iter().filter(is_member)
    }
}

/// What a job ends with that was told to.
pub(crate) fn cancelled() -> Error {
    Error::new(Kind::Cancelled, "the job was cancelled")
}
