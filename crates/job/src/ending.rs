//! The end of jobs: the last step of each, which changes the graph, and that of a group, all together or none.
//!
//! ```text
//!   code returns ok ─► waiting ─ all of the group ─► pending ─ finalize ─► prepare each ─► commit each ─► concluded
//!   code fails, or a cancel ─► aborting, the others are cancelled ─ all at rest ─► abort each ──────────► concluded
//!                                                  '── a prepare fails ──────────────────────┘
//! ```
//! Last steps run as a control task that nobody can abort by going away. They wait for no job: all code of the group has
//! ended before.

use std::sync::Arc;

use drystone_base::Result;
use drystone_core::control::Task;
use drystone_core::runtime::LocalFuture;

use crate::event::Happening;
use crate::state::Status;
use crate::table::{JobKey, Shared, Table, cancelled};

/// The last step of a job, on the control thread. Exactly one of `commit` and `abort` is called, also if the job's code was
/// never started.
pub trait Ending: Send + 'static {
    /// Does what can fail. What it did, `abort` takes back if it must not stay; it is called also after a failure in here.
    fn prepare<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, Result<()>> {
        let _ = task;
        Box::pin(async { Ok(()) })
    }

    /// Every job of the group is prepared.
    fn commit<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, ()> {
        let _ = task;
        Box::pin(async {})
    }

    /// The job ends without success: gives up what it had in the graph.
    fn abort<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, ()>;
}

/// What the last steps of a group shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Finalize,
    Abort,
}

impl Shared {
    /// The code of a job has returned, or will never run.
    pub(crate) fn code_ended(self: &Arc<Self>, key: JobKey, result: Result<()>) {
        let mut table = self.table();
        let Some(entry) = table.find(key) else { return };
        (entry.ended, entry.busy) = (true, false);
        // A thread that ends drops its jobs wherever they are.
        match entry.status {
            Status::Paused => self.go(entry, Status::Running),
            Status::Standby => self.go(entry, Status::Ready),
            _ => {}
        }
        entry.error = match result {
            Err(error) => Some(error),
            Ok(()) if entry.handle.is_cancelled() => Some(cancelled()),
            Ok(()) => None,
        };
        let (group, failed) = (entry.group, entry.error.is_some());
        if failed {
            self.fail_group(&mut table, group);
        } else {
            self.go(entry, Status::Waiting);
        }
        self.advance(&mut table, group);
        table.wake_watchers();
    }

    /// A member of the group has failed or was cancelled: the others end, too.
    pub(crate) fn fail_group(&self, table: &mut Table, group: u64) {
        for entry in &mut table.jobs {
            if entry.group != group || matches!(entry.status, Status::Aborting | Status::Concluded) {
                continue;
            }
            entry.handle.cancel();
            if entry.is_at_rest() {
                entry.error.get_or_insert_with(cancelled);
                self.go(entry, Status::Aborting);
            }
        }
    }

    /// Takes the group as far as its members let it.
    pub(crate) fn advance(self: &Arc<Self>, table: &mut Table, group: u64) {
        let has_failed = table.members(group).any(|entry| entry.has_failed());
        if has_failed {
            if table.members(group).all(|entry| entry.status == Status::Aborting) {
                self.end_group(table, group, Course::Abort);
            }
            return;
        }
        if !table.members(group).all(|entry| entry.status == Status::Waiting) {
            return;
        }
        let mut is_manual = false;
        for entry in table.jobs.iter_mut().filter(|entry| entry.group == group) {
            if entry.status != Status::Waiting {
                continue;
            }
            self.go(entry, Status::Pending);
            if !entry.auto_finalize {
                is_manual = true;
                self.tell(entry, Happening::Pending);
            }
        }
        if !is_manual {
            self.finalize_group(table, group);
        }
    }

    /// Begins the last steps of a group whose members are all pending, once.
    pub(crate) fn finalize_group(self: &Arc<Self>, table: &mut Table, group: u64) {
        self.end_group(table, group, Course::Finalize);
    }

    fn end_group(self: &Arc<Self>, table: &mut Table, group: u64, course: Course) {
        let mut keys = Vec::new();
        for entry in table.jobs.iter_mut().filter(|entry| entry.group == group) {
            if entry.status != Status::Concluded && !std::mem::replace(&mut entry.ending_now, true) {
                keys.push(entry.key);
            }
        }
        if keys.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        self.control.spawn(async move |task: &mut Task<'_>| match course {
            Course::Finalize => shared.finalize(task, &keys).await,
            Course::Abort => shared.abort(task, &keys).await,
        });
    }

    async fn finalize(&self, task: &mut Task<'_>, keys: &[JobKey]) {
        for key in keys {
            let Some(mut ending) = self.take_ending(*key) else { continue };
            let result = ending.prepare(task).await;
            self.with(*key, |entry| entry.ending = Some(ending));
            if let Err(error) = result {
                self.fail_prepared(keys, *key, error);
                return self.abort(task, keys).await;
            }
        }
        for key in keys {
            if let Some(mut ending) = self.take_ending(*key) {
                ending.commit(task).await;
            }
        }
        keys.iter().for_each(|key| self.conclude(*key));
    }

    fn fail_prepared(&self, keys: &[JobKey], failed: JobKey, error: drystone_base::Error) {
        let mut error = Some(error);
        let mut table = self.table();
        for key in keys {
            let Some(entry) = table.find(*key) else { continue };
            entry.error = if *key == failed { error.take() } else { Some(cancelled()) };
            self.go(entry, Status::Aborting);
        }
    }

    async fn abort(&self, task: &mut Task<'_>, keys: &[JobKey]) {
        for key in keys {
            if let Some(mut ending) = self.take_ending(*key) {
                ending.abort(task).await;
            }
        }
        keys.iter().for_each(|key| self.conclude(*key));
    }

    fn take_ending(&self, key: JobKey) -> Option<Box<dyn Ending>> {
        self.with(key, |entry| entry.ending.take()).flatten()
    }
}
