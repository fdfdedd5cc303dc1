//! [`Jobs`]: what users see of jobs and say to them.

use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{Control, Task};
use drystone_core::job::JobHandle;
use drystone_core::runtime::{LocalFuture, LocalRef};

use crate::ending::Ending;
use crate::event::{Events, JobType, Progress};
use crate::limit::RateLimit;
use crate::policy::IoStatus;
use crate::run::{Created, Running};
use crate::state::{Status, Verb};
use crate::table::{Asked, Entry, JobKey, Shared, Table};

/// A piece of work for an I/O thread.
pub type IoWork = Box<dyn FnOnce(LocalRef) -> LocalFuture<'static, ()> + Send>;

/// The I/O threads that jobs run on.
pub trait Threads: Send + Sync + 'static {
    /// Runs `work` on one of them, to its end. May drop it instead if the thread is ending.
    ///
    /// # Errors
    /// Whatever keeps it from running; `work` is dropped then.
    fn spawn(&self, work: IoWork) -> Result<()>;
}

/// Jobs run on the control thread itself: for tools that have no other.
impl Threads for Control {
    fn spawn(&self, work: IoWork) -> Result<()> {
        Control::spawn(self, async move |task: &mut Task<'_>| work(task.local_ref().clone()).await);
        Ok(())
    }
}

/// All jobs of one graph. Any thread; clones are the same table.
#[derive(Clone)]
pub struct Jobs(Arc<Shared>);

/// Jobs that complete all or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group(u64);

/// What a new job is like.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// Its name: a letter, then letters, digits, `-`, `.` and `_`; not that of another job.
    pub id: String,
    /// What it does.
    pub job_type: JobType,
    /// Bytes per second, not negative; 0 for no limit.
    pub speed: i64,
    /// Its last step is done as soon as it can be; else `finalize` is waited for.
    pub auto_finalize: bool,
    /// It is forgotten when it has ended; else `dismiss` is waited for.
    pub auto_dismiss: bool,
    /// How much work there is in all, as far as that is known before it begins ([`Meter::set_total`](crate::Meter::set_total) later).
    pub total: u64,
    /// How many requests it makes at a time.
    pub lanes: usize,
    /// Whom it completes with.
    pub group: Option<Group>,
}

impl JobSpec {
    /// A job that needs nobody to end, without a rate limit, with one lane.
    #[must_use]
    pub fn new(id: impl Into<String>, job_type: JobType) -> Self {
        Self {
            id: id.into(),
            job_type,
            speed: 0,
            auto_finalize: true,
            auto_dismiss: true,
            total: 0,
            lanes: 1,
            group: None,
        }
    }
}

/// One job, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobInfo {
    /// Its name.
    pub id: String,
    /// What it does.
    pub job_type: JobType,
    /// Where it is in its life.
    pub status: Status,
    /// How far it is, and its speed.
    pub progress: Progress,
    /// Its code is running at this moment.
    pub busy: bool,
    /// It is, or shall be, paused.
    pub paused: bool,
    /// Whether an error has stopped it.
    pub io_status: IoStatus,
    /// See [`JobSpec::auto_finalize`].
    pub auto_finalize: bool,
    /// See [`JobSpec::auto_dismiss`].
    pub auto_dismiss: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// How a job is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// It ends without success (`job-cancel`).
    Force,
    /// A job that is ready ends well, but leaves the graph alone; others end without success. Refused of a job that a user
    /// has paused (`block-job-cancel`).
    Soft,
}

impl Jobs {
    /// No jobs, for the graph of `control`. `threads` run their code, and `events` hears of what happens.
    #[must_use]
    pub fn new(control: Control, threads: impl Threads, events: impl Events) -> Self {
        Self(Arc::new(Shared::new(control, Box::new(threads), Box::new(events))))
    }

    /// A new, empty group.
    #[must_use]
    pub fn group(&self) -> Group {
        Group(self.0.table().next())
    }

    /// Enters a job into the table; [`Created::launch`] starts it. `ending` is its last step.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] for a malformed id or speed, [`Kind::AlreadyExists`] for a taken id.
    pub fn create(&self, spec: JobSpec, ending: impl Ending) -> Result<Created> {
        demand_well_formed(&spec.id)?;
        let mut table = self.0.table();
        self.demand_free_in(&table, &spec.id)?;
        let key = JobKey(table.next());
        let group = spec.group.as_ref().map_or(key.0, |group| group.0);
        table.jobs.push(new_entry(&spec, (key, group), Box::new(ending)));
        let Some(entry) = table.find(key) else { unreachable!("it was added just now") };
        self.0.go(entry, Status::Created);
        match u64::try_from(spec.speed) {
            Ok(speed) => entry.limit.set_speed(speed),
            Err(_) => {
                self.0.forget(&mut table, key);
                return Err(negative_speed());
            }
        }
        let handle = table.find(key).map(|entry| entry.handle.clone()).unwrap_or_default();
        Ok(Created::new(Arc::clone(&self.0), key, handle, spec.lanes))
    }

    /// Fails unless a job could be called `id`.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn demand_free(&self, id: &str) -> Result<()> {
        demand_well_formed(id)?;
        self.demand_free_in(&self.0.table(), id)
    }

    fn demand_free_in(&self, table: &Table, id: &str) -> Result<()> {
        if table.jobs.iter().any(|entry| entry.id == id) {
            return Err(Error::new(Kind::AlreadyExists, format!("job ID '{id}' already in use")));
        }
        Ok(())
    }

    /// Every job, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<JobInfo> {
        self.0.table().jobs.iter().rev().map(info).collect()
    }

    /// One job.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn info(&self, id: &str) -> Result<JobInfo> {
        self.0.table().named(id).map(|entry| info(entry))
    }

    fn verb<T>(&self, id: &str, verb: Verb, act: impl FnOnce(&mut Entry) -> Result<T>) -> Result<T> {
        let mut table = self.0.table();
        let entry = table.named(id)?;
        entry.status.demand(id, verb)?;
        act(entry)
    }

    /// Asks a job to stand still. It does at its next pause point; its requests in flight end before.
    ///
    /// # Errors
    /// As for all verbs: [`Kind::NotFound`], or [`Kind::InvalidInput`] if it makes no sense now.
    pub fn pause(&self, id: &str) -> Result<()> {
        self.verb(id, Verb::Pause, |entry| {
            if entry.user_paused {
                return Err(Error::new(Kind::InvalidInput, format!("job '{id}' is already paused")));
            }
            entry.user_paused = true;
            entry.handle.pause();
            Ok(())
        })
    }

    /// Takes back [`Self::pause`], or what an error did that stopped the job.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn resume(&self, id: &str) -> Result<()> {
        self.verb(id, Verb::Resume, |entry| {
            if !entry.user_paused {
                return Err(Error::new(Kind::InvalidInput, format!("job '{id}' is not paused")));
            }
            (entry.user_paused, entry.io_status) = (false, IoStatus::Ok);
            entry.handle.resume();
            Ok(())
        })
    }

    /// Pauses a job for a reason of the program's own. Counts; users do not see or undo it.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn hold(&self, id: &str) -> Result<()> {
        self.verb(id, Verb::Pause, |entry| {
            entry.internal_pauses += 1;
            entry.handle.pause();
            Ok(())
        })
    }

    /// Takes back one [`Self::hold`]; nothing if the job has gone on to its end.
    pub fn release(&self, id: &str) {
        let mut table = self.0.table();
        if let Ok(entry) = table.named(id)
            && entry.internal_pauses > 0
        {
            entry.internal_pauses -= 1;
            entry.handle.resume();
        }
    }

    /// Sets the bytes per second; 0 for no limit. Takes effect at once.
    ///
    /// # Errors
    /// As [`Self::pause`]; also if `speed` is negative.
    pub fn set_speed(&self, id: &str, speed: i64) -> Result<()> {
        self.verb(id, Verb::SetSpeed, |entry| {
            let speed = u64::try_from(speed).map_err(|_| negative_speed())?;
            entry.limit.set_speed(speed);
            entry.handle.nudge();
            Ok(())
        })
    }

    /// Ends a job that is ready.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn complete(&self, id: &str) -> Result<()> {
        self.verb(id, Verb::Complete, |entry| {
            ask(entry, Asked::Complete);
            Ok(())
        })
    }

    /// Cancels a job, and with it its group. It may be too late: then the job succeeds.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn cancel(&self, id: &str, how: Cancel) -> Result<()> {
        let mut table = self.0.table();
        let entry = table.named(id)?;
        entry.status.demand(id, Verb::Cancel)?;
        if how == Cancel::Soft && entry.user_paused {
            return Err(Error::new(Kind::InvalidInput, format!("job '{id}' is currently paused")));
        }
        if how == Cancel::Soft && entry.status.is_ready() && !entry.handle.is_cancelled() {
            ask(entry, Asked::Leave);
            return Ok(());
        }
        self.cancel_entry(&mut table, id)
    }

    fn cancel_entry(&self, table: &mut Table, id: &str) -> Result<()> {
        let entry = table.named(id)?;
        if entry.ending_now {
            return Ok(());
        }
        entry.handle.cancel();
        let group = entry.group;
        if entry.is_at_rest() {
            self.0.fail_group(table, group);
            self.0.advance(table, group);
        }
        Ok(())
    }

    /// Lets a job that is pending, and its group, do the last step.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn finalize(&self, id: &str) -> Result<()> {
        let mut table = self.0.table();
        let entry = table.named(id)?;
        entry.status.demand(id, Verb::Finalize)?;
        let group = entry.group;
        self.0.finalize_group(&mut table, group);
        Ok(())
    }

    /// Forgets a job that has ended.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub fn dismiss(&self, id: &str) -> Result<()> {
        let mut table = self.0.table();
        let entry = table.named(id)?;
        entry.status.demand(id, Verb::Dismiss)?;
        let key = entry.key;
        self.0.forget(&mut table, key);
        Ok(())
    }

    /// Cancels every job that can be cancelled.
    pub fn cancel_all(&self) {
        let mut table = self.0.table();
        let cancellable = table.jobs.iter().filter(|entry| entry.status.accepts(Verb::Cancel));
        for id in cancellable.map(|entry| entry.id.clone()).collect::<Vec<_>>() {
            // A job of the same group may have ended it already.
            let _ = self.cancel_entry(&mut table, &id);
        }
    }

    /// Waits until the job has ended, well or not, or is gone. Not from inside the last step of a job.
    pub async fn ended(&self, id: &str) {
        let is_over = |entry: &Entry| matches!(entry.status, Status::Concluded | Status::Null);
        self.0.until(|table| table.jobs.iter().filter(|entry| entry.id == id).all(is_over)).await;
    }

    /// Waits until a job has followed what was asked of it and needs no work of its own: it goes on after a pause, or it
    /// has ended, if its last step has begun. At once for any other, and for none. Not from inside the last step of a job.
    pub async fn followed(&self, id: &str) {
        let is_about_to = |entry: &Entry| entry.id == id && entry.is_about_to_change();
        self.0.until(|table| !table.jobs.iter().any(is_about_to)).await;
    }

    /// Waits until no job is left that has not ended.
    pub async fn all_ended(&self) {
        self.0.until(|table| table.jobs.iter().all(|entry| entry.status == Status::Concluded)).await;
    }

    /// Runs `work` as the code of a job; see [`Created::launch`].
    ///
    /// # Errors
    /// As [`Self::create`] and [`Created::launch`].
    pub fn start<F>(&self, spec: JobSpec, ending: impl Ending, work: F) -> Result<()>
    where
        F: for<'a, 'c> AsyncFnOnce(&'a mut Running<'c>) -> Result<()> + Send + 'static,
    {
        self.create(spec, ending)?.launch(work)
    }
}

fn ask(entry: &mut Entry, asked: Asked) {
    entry.asked.get_or_insert(asked);
    if let Some(waker) = entry.asker.take() {
        waker.wake();
    }
}

fn negative_speed() -> Error {
    Error::new(Kind::InvalidInput, "it cannot be negative").in_option("speed")
}

fn demand_well_formed(id: &str) -> Result<()> {
    let mut chars = id.chars();
    let is_well_formed = chars.next().is_some_and(|first| first.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if is_well_formed {
        return Ok(());
    }
    Err(Error::new(Kind::InvalidInput, format!("invalid job ID '{id}'")).in_option("job-id"))
}

fn new_entry(spec: &JobSpec, (key, group): (JobKey, u64), ending: Box<dyn Ending>) -> Entry {
    Entry {
        key,
        id: spec.id.clone(),
        job_type: spec.job_type,
        status: Status::Undefined,
        group,
        auto_finalize: spec.auto_finalize,
        auto_dismiss: spec.auto_dismiss,
        current: 0,
        total: spec.total,
        limit: RateLimit::default(),
        io_status: IoStatus::Ok,
        user_paused: false,
        internal_pauses: 0,
        busy: false,
        asked: None,
        asker: None,
        started: false,
        ended: false,
        error: None,
        ending_now: false,
        handle: JobHandle::default(),
        ending: Some(ending),
    }
}

fn info(entry: &Entry) -> JobInfo {
    JobInfo {
        id: entry.id.clone(),
        job_type: entry.job_type,
        status: entry.status,
        progress: entry.progress(),
        busy: entry.busy,
        paused: entry.user_paused || entry.internal_pauses > 0,
        io_status: entry.io_status,
        auto_finalize: entry.auto_finalize,
        auto_dismiss: entry.auto_dismiss,
        error: entry.error.as_ref().map(Error::report),
    }
}
