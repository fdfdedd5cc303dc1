//! Threads that may block, so that I/O threads need not.
//!
//! ```text
//!   I/O thread --call--> queue (one per file) --at most N at a time--> ready jobs --> pool threads
//!              <--finished + wake of the reaper---------------------------------------'
//! ```
//! Every file has a queue of its own with a bound on its calls under way; calls past the bound wait in the queue, so a
//! file that hangs (a dead NFS server) takes a few threads, not all, and never an I/O thread. Threads are started when
//! a call finds none idle and end after a while without work. A program that has one thing to do at a time makes its calls
//! where it is, and takes their results as if they came from elsewhere.
//!
//! Invariants: a call handed in is finished exactly once, also if it panics or no thread can be started; results go to
//! the thread that asked.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use drystone_base::{Error, Kind, Result};

use crate::file::job::FileJob;
use crate::slots::Key;
use crate::task::Task;

/// How many threads of one pool may block at the same time.
const THREADS_MAX: usize = 128;
/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// The calls of one file or peer that may block, in order of arrival, with a bound on how many run at a time. Calls past
/// the bound wait; the threads that made them do not. Clones are the same queue.
#[derive(Clone)]
pub struct BlockingQueue(Arc<Mutex<QueueState>>);

struct QueueState {
    running: usize,
    running_max: NonZeroUsize,
    waiting: VecDeque<Job>,
}

/// What a pool thread does.
pub(crate) enum Work {
    /// One operation of a file.
    File(FileJob),
    /// Anything else.
    Call(Box<dyn FnOnce() + Send>),
}

/// Work, and where its result goes.
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) queue: BlockingQueue,
    /// The reaper of the thread that asked.
    pub(crate) home: Arc<Task>,
    pub(crate) key: Key,
}

/// Work that is done.
pub(crate) struct Finished {
    pub(crate) key: Key,
    /// The operation and its result, if it was one of a file.
    pub(crate) file: Option<(FileJob, Result<()>)>,
}

/// Where calls that may block are made. Clones are the same pool.
#[derive(Clone)]
pub(crate) enum Pool {
    /// On a stock of threads, which end with the last clone.
    Threads(Arc<Handle>),
    /// On the thread that asks, at once.
    Here,
}

pub(crate) struct Handle(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work_came: Condvar,
}

struct State {
    ready: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl BlockingQueue {
    /// A queue of which at most `running_max` calls run at a time.
    #[must_use]
    pub fn new(running_max: NonZeroUsize) -> Self {
        Self(Arc::new(Mutex::new(QueueState { running: 0, running_max, waiting: VecDeque::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `job` back if it may run now, else keeps it.
    fn admit(&self, job: Job) -> Option<Job> {
        let mut queue = self.lock();
        if queue.running < queue.running_max.get() {
            queue.running += 1;
            return Some(job);
        }
        queue.waiting.push_back(job);
        None
    }

    /// One call has ended: who runs in its place.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        let next = queue.waiting.pop_front();
        if next.is_none() {
            queue.running -= 1;
        }
        next
    }
}

impl Job {
    fn run(self) {
        let Self { work, queue, home, key } = self;
        let file = match work {
            Work::File(mut job) => {
                let result = job.steps.run_blocking(&job.file);
                Some((job, result))
            }
            Work::Call(call) => {
                // A panic has been printed by its hook; whoever awaits the call finds no result.
                let _ = catch_unwind(AssertUnwindSafe(call));
                None
            }
        };
        drop(queue);
        Finished { key, file }.deliver(&home);
    }

    /// Ends the job without running it.
    fn refuse(self) {
        let file = match self.work {
            Work::File(job) => {
                Some((job, Err(Error::new(Kind::TooLarge, "no thread can be started for blocking calls"))))
            }
            Work::Call(_) => None,
        };
        Finished { key: self.key, file }.deliver(&self.home);
    }
}

impl Finished {
    fn deliver(self, home: &Arc<Task>) {
        home.home().add_finished(self);
        home.wake_ref();
    }
}

impl Pool {
    pub(crate) fn new() -> Self {
        let state = State { ready: VecDeque::new(), idle: 0, threads: 0, closed: false };
        Self::Threads(Arc::new(Handle(Arc::new(Shared {
            state: Mutex::new(state),
            work_came: Condvar::new(),
        }))))
    }

    /// Runs `job` on a thread of the pool as soon as its queue allows. Never blocks, unless the pool is `Here`.
    pub(crate) fn submit(&self, job: Job) {
        let Self::Threads(handle) = self else { return job.run() };
        let queue = job.queue.clone();
        if let Some(job) = queue.admit(job) {
            handle.0.start(job);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work_came.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, job: Job) {
        let mut state = self.lock();
        state.ready.push_back(job);
        if state.ready.len() <= state.idle || state.threads >= THREADS_MAX {
            drop(state);
            self.work_came.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(self);
        if thread::Builder::new().name("drystone-block".into()).spawn(move || shared.work()).is_err() {
            self.could_not_start();
        }
    }

    /// With no thread at all nobody would ever run what is queued.
    fn could_not_start(&self) {
        let mut state = self.lock();
        state.threads -= 1;
        let stranded = if state.threads == 0 { std::mem::take(&mut state.ready) } else { VecDeque::new() };
        drop(state);
        for job in stranded {
            let mut next = job.queue.next();
            job.refuse();
            while let Some(job) = next {
                next = job.queue.next();
                job.refuse();
            }
        }
    }

    /// The life of one thread.
    fn work(self: Arc<Self>) {
        while let Some(job) = self.take() {
            let queue = job.queue.clone();
            job.run();
            if let Some(next) = queue.next() {
                self.lock().ready.push_back(next);
                self.work_came.notify_one();
            }
        }
    }

    /// The next job, or `None` when the thread shall end.
    fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        let mut timed_out = false;
        loop {
            if let Some(job) = state.ready.pop_front() {
                return Some(job);
            }
            if state.closed || timed_out {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let (guard, timeout) =
                self.work_came.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            timed_out = timeout.timed_out();
        }
    }
}
