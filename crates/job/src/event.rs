//! What jobs tell: the events, in the order in which they happen, and who hears them.

use crate::state::Status;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobType {
    /// Lower layers go into the top of a chain.
    Stream,
    /// Something of the embedding program's own; never seen in QMP.
    Other(&'static str),
}

impl JobType {
    /// Its name in QMP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Other(name) => name,
        }
    }
}

/// Which kind of request of a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading, or copying in order to read.
    Read,
    /// Writing.
    Write,
}

/// What a job does about a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorAction {
    /// It goes on with the rest.
    Ignore,
    /// It ends.
    Report,
    /// It pauses until a user resumes it, and tries again.
    Stop,
}

/// How far a job is, for the events that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Total work, in bytes for all jobs that copy.
    pub total: u64,
    /// Of which is done.
    pub current: u64,
    /// Bytes per second; 0 for no limit.
    pub speed: u64,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEvent {
    /// The job.
    pub id: String,
    /// What it does.
    pub job_type: JobType,
    /// What happened.
    pub what: Happening,
}

/// What can happen to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// `JOB_STATUS_CHANGE`.
    Status(Status),
    /// `BLOCK_JOB_READY`.
    Ready(Progress),
    /// `BLOCK_JOB_PENDING`: it waits for `job-finalize`.
    Pending,
    /// `BLOCK_JOB_COMPLETED`: with an error's text if it failed.
    Completed(Progress, Option<String>),
    /// `BLOCK_JOB_CANCELLED`.
    Cancelled(Progress),
    /// `BLOCK_JOB_ERROR`: a request failed.
    Error(Operation, ErrorAction),
}

/// Who hears of what happens.
///
/// Called from any thread, for all jobs of one [`crate::Jobs`] one at a time and in order, with the table of jobs locked:
/// must not wait and must not ask the table. Queue it.
pub trait Events: Send + Sync + 'static {
    /// Something happened.
    fn happened(&self, event: JobEvent);
}

impl<F: Fn(JobEvent) + Send + Sync + 'static> Events for F {
    fn happened(&self, event: JobEvent) {
        self(event);
    }
}
