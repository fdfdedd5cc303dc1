//! A task's place in the simulated process, its waker, and how it is listed.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use drystone_core::runtime::{LocalFuture, Shard};

/// Numbers tasks in the order of their births; never used twice.
pub(super) type TaskId = u64;

/// A task that has not ended.
pub(super) struct Task {
    pub(super) shard: Shard,
    pub(super) name: String,
    pub(super) polls: u64,
    /// How many tasks it has spawned, for their names.
    pub(super) children: u64,
    pub(super) waker: Arc<TaskWaker>,
    /// `None` while it is being polled, and for the task of `block_on`, whose future stays with the caller.
    pub(super) future: Option<LocalFuture<'static, ()>>,
}

/// A task that has not ended, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingTask {
    /// Its name.
    pub name: String,
    /// The thread that it belongs to.
    pub shard: Shard,
    /// How many times it was polled.
    pub polls: u64,
}

impl fmt::Display for PendingTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}: {} (polled {} times)", self.shard.index(), self.name, self.polls)
    }
}

/// One line per task and then one per explanation, each with a newline before it.
pub(super) fn list(pending: &[PendingTask], waits: &[String]) -> String {
    let tasks = pending.iter().map(|task| format!("\n  {task}"));
    tasks.chain(waits.iter().map(|wait| format!("\n{wait}"))).collect()
}

/// The tasks that were woken since the scheduler last looked. Wakers are `Send`, so this is behind a lock.
#[derive(Default)]
pub(super) struct Woken(Mutex<Vec<TaskId>>);

impl Woken {
    /// Takes the tasks that were woken, in the order in which they were.
    pub(super) fn take(&self) -> Vec<TaskId> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Puts one task on the list of woken ones, at most once between two polls.
pub(super) struct TaskWaker {
    id: TaskId,
    is_queued: AtomicBool,
    woken: Arc<Woken>,
}

impl TaskWaker {
    pub(super) fn new(id: TaskId, woken: &Arc<Woken>) -> Arc<Self> {
        Arc::new(Self { id, is_queued: AtomicBool::new(false), woken: Arc::clone(woken) })
    }

    /// The task is about to be polled: from now on, waking it queues it again.
    pub(super) fn begin_poll(&self) {
        self.is_queued.store(false, Ordering::SeqCst);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::SeqCst) {
            self.woken.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}
