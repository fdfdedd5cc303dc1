//! Jobs: `block-stream`, and what can be asked of any job by its name.
//!
//! | commands | a job that there is not |
//! |---|---|
//! | `job-*`, `block-job-finalize`, `block-job-dismiss` | `GenericError` |
//! | other `block-job-*` | `DeviceNotActive`, as in release 10.0 |

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::query::filename;
use drystone_core::control::{GraphView, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_job::stream::{BackingNames, StreamBase, StreamOptions, start};
use drystone_job::{
    Cancel, ErrorAction, Happening, IoStatus, IoWork, JobEvent, JobInfo, JobType, Jobs, OnError, Operation,
    Progress, Status, Threads,
};
use drystone_qmp::schema::events::{
    BlockJobCancelled, BlockJobCompleted, BlockJobError, BlockJobPending, BlockJobReady, Event,
    JobStatusChange,
};
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::info::BlockDeviceIoStatus;
use drystone_qmp::schema::types::job as schema;
use drystone_qmp::{ErrorClass, QmpError};
use drystone_sys::ThreadHandle;

use super::{Outcome, done};
use crate::daemon::Daemon;
use crate::error::to_qmp;

/// The threads that jobs run on: those that serve exports, in turn.
pub(crate) struct JobThreads {
    threads: Vec<ThreadHandle>,
    next: AtomicUsize,
}

impl JobThreads {
    /// These threads, of which there is one at least.
    pub(crate) fn new(threads: Vec<ThreadHandle>) -> Self {
        Self { threads, next: AtomicUsize::new(0) }
    }
}

impl Threads for JobThreads {
    fn spawn(&self, work: IoWork) -> Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let index = number.checked_rem(self.threads.len()).unwrap_or(0);
        let thread = self.threads.get(index);
        let thread = thread.ok_or_else(|| Error::new(Kind::Cancelled, "there are no I/O threads"))?;
        thread.spawn(work)
    }
}

/// What clients are told of what happens to a job.
pub(crate) fn event(event: JobEvent) -> Option<Event> {
    let JobEvent { id, job_type, what } = event;
    let r#type = type_of(job_type)?;
    let device = || id.clone();
    Some(match what {
        Happening::Status(status) => JobStatusChange { id, status: status_of(status) }.into(),
        Happening::Ready(at) => {
            let (len, offset, speed) = numbers(at);
            BlockJobReady { r#type, device: device(), len, offset, speed }.into()
        }
        Happening::Pending => BlockJobPending { r#type, id }.into(),
        Happening::Completed(at, error) => {
            let (len, offset, speed) = numbers(at);
            BlockJobCompleted { r#type, device: device(), len, offset, speed, error }.into()
        }
        Happening::Cancelled(at) => {
            let (len, offset, speed) = numbers(at);
            BlockJobCancelled { r#type, device: device(), len, offset, speed }.into()
        }
        Happening::Error(operation, action) => BlockJobError {
            device: device(),
            operation: match operation {
                Operation::Read => schema::IoOperationType::Read,
                Operation::Write => schema::IoOperationType::Write,
            },
            action: match action {
                ErrorAction::Ignore => schema::BlockErrorAction::Ignore,
                ErrorAction::Report => schema::BlockErrorAction::Report,
                ErrorAction::Stop => schema::BlockErrorAction::Stop,
            },
        }
        .into(),
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Length, offset, speed.
fn numbers(at: Progress) -> (i64, i64, i64) {
    (signed(at.total), signed(at.current), signed(at.speed))
}

fn type_of(job_type: JobType) -> Option<schema::JobType> {
    match job_type {
        JobType::Stream => Some(schema::JobType::Stream),
        JobType::Other(_) => None,
    }
}

const fn status_of(status: Status) -> schema::JobStatus {
    match status {
        Status::Undefined => schema::JobStatus::Undefined,
        Status::Created => schema::JobStatus::Created,
        Status::Running => schema::JobStatus::Running,
        Status::Paused => schema::JobStatus::Paused,
        Status::Ready => schema::JobStatus::Ready,
        Status::Standby => schema::JobStatus::Standby,
        Status::Waiting => schema::JobStatus::Waiting,
        Status::Pending => schema::JobStatus::Pending,
        Status::Aborting => schema::JobStatus::Aborting,
        Status::Concluded => schema::JobStatus::Concluded,
        Status::Null => schema::JobStatus::Null,
    }
}

/// `query-jobs`.
pub(super) fn list(daemon: &Daemon) -> Vec<schema::JobInfo> {
    let info = |job: JobInfo| {
        Some(schema::JobInfo {
            r#type: type_of(job.job_type)?,
            status: status_of(job.status),
            current_progress: signed(job.progress.current),
            total_progress: signed(job.progress.total),
            error: job.error,
            id: job.id,
        })
    };
    daemon.jobs.list().into_iter().filter_map(info).collect()
}

/// `query-block-jobs`.
pub(super) fn block_list(daemon: &Daemon) -> Vec<schema::BlockJobInfo> {
    let info = |job: JobInfo| {
        let r#type = match job.job_type {
            JobType::Stream => schema::BlockJobInfoData::Stream(Empty {}),
            JobType::Other(_) => return None,
        };
        let (len, offset, speed) = numbers(job.progress);
        Some(schema::BlockJobInfo {
            device: job.id,
            len,
            offset,
            busy: job.busy,
            paused: job.paused,
            speed,
            io_status: match job.io_status {
                IoStatus::Ok => BlockDeviceIoStatus::Ok,
                IoStatus::Failed => BlockDeviceIoStatus::Failed,
                IoStatus::NoSpace => BlockDeviceIoStatus::Nospace,
            },
            ready: job.status.is_ready(),
            status: status_of(job.status),
            auto_finalize: job.auto_finalize,
            auto_dismiss: job.auto_dismiss,
            error: job.error,
            r#type,
        })
    };
    daemon.jobs.list().into_iter().filter_map(info).collect()
}

/// A verb of `job-*`. What it makes a job do at once is done when it is answered: scripts take images away after
/// `job-finalize`.
pub(super) async fn verb(
    daemon: &Daemon,
    id: &str,
    verb: impl FnOnce(&Jobs, &str) -> Result<()>,
) -> Outcome<Empty> {
    let result = verb(&daemon.jobs, id);
    if result.is_ok() {
        daemon.jobs.followed(id).await;
    }
    done(result)
}

/// A verb of `block-job-*`, which says of a job that there is not that it is not active.
pub(super) async fn block_verb(
    daemon: &Daemon,
    id: &str,
    verb: impl FnOnce(&Jobs, &str) -> Result<()>,
) -> Outcome<Empty> {
    match daemon.jobs.info(id) {
        Ok(_) => self::verb(daemon, id, verb).await,
        Err(error) => Err(QmpError::new(ErrorClass::DeviceNotActive, error.report())),
    }
}

/// `block-job-cancel`.
pub(super) async fn block_cancel(daemon: &Daemon, which: &schema::BlockJobCancel) -> Outcome<Empty> {
    let how = if which.force == Some(true) { Cancel::Force } else { Cancel::Soft };
    block_verb(daemon, &which.device, |jobs, id| jobs.cancel(id, how)).await
}

/// `block-job-change`: no job of this build has an option that can change.
pub(super) async fn block_change(daemon: &Daemon, change: &schema::BlockJobChangeOptions) -> Outcome<Empty> {
    verb(daemon, &change.id, |jobs, id| {
        jobs.info(id)?;
        let text = "this job has no option that can be changed";
        Err(Error::new(Kind::Unsupported, text))
    })
    .await
}

/// Images are named as users would open them.
struct Names;

impl BackingNames for Names {
    fn name_of(&self, graph: &GraphView<'_>, base: NodeId) -> Result<String> {
        Ok(filename::of(graph, base).text())
    }
}

/// `block-stream`.
pub(super) async fn stream(daemon: &Daemon, typed: schema::BlockStream) -> Outcome<Empty> {
    let jobs = daemon.jobs.clone();
    let work = async move |task: &mut Task<'_>| {
        let options = stream_options(task, typed)?;
        start(&jobs, task, options).await
    };
    daemon.on_control(work).await.map(|()| Empty {}).map_err(|error| to_qmp(&error))
}

fn stream_options(task: &Task<'_>, typed: schema::BlockStream) -> Result<StreamOptions> {
    let top = task.gs().find(&typed.device)?;
    let id = typed.job_id.clone().ok_or_else(|| {
        // Without one it would be the name of the device, which there are none of here.
        Error::new(Kind::InvalidInput, "it is missing").in_option("job-id")
    })?;
    Ok(StreamOptions {
        base: base(task, top, &typed)?,
        backing_file: typed.backing_file,
        mask_protocol: typed.backing_mask_protocol.unwrap_or(false),
        speed: typed.speed.unwrap_or(0),
        on_error: match typed.on_error {
            None | Some(schema::BlockdevOnError::Report) => OnError::Report,
            Some(schema::BlockdevOnError::Ignore) => OnError::Ignore,
            Some(schema::BlockdevOnError::Enospc) => OnError::Enospc,
            Some(schema::BlockdevOnError::Stop) => OnError::Stop,
            Some(schema::BlockdevOnError::Auto) => OnError::Auto,
        },
        filter_node_name: typed.filter_node_name,
        auto_finalize: typed.auto_finalize.unwrap_or(true),
        auto_dismiss: typed.auto_dismiss.unwrap_or(true),
        ..StreamOptions::new(id, top, Arc::new(Names))
    })
}

fn base(task: &Task<'_>, top: NodeId, typed: &schema::BlockStream) -> Result<StreamBase> {
    let clash = |text| Err(Error::new(Kind::InvalidInput, text));
    match (&typed.base, &typed.base_node, &typed.bottom) {
        (None, None, None) => Ok(StreamBase::None),
        (None, Some(node), None) => Ok(StreamBase::Base(task.gs().find(node)?)),
        (None, None, Some(node)) => Ok(StreamBase::Bottom(task.gs().find(node)?)),
        (Some(file), None, None) => {
            let found = task.gs().with(|graph| image_called(graph, top, file));
            let text = || format!("there is no image '{file}' behind it");
            found.map(StreamBase::Base).ok_or_else(|| Error::new(Kind::NotFound, text()).in_option("base"))
        }
        (Some(_), Some(_), _) => clash("'base' and 'base-node' say the same: give one"),
        _ => clash("'bottom' says where it ends, as 'base' and 'base-node' do: give one"),
    }
}

/// The image behind `top` that is opened by this name.
fn image_called(graph: &GraphView<'_>, top: NodeId, file: &str) -> Option<NodeId> {
    let below = |node: &NodeId| {
        let is_filter = graph.node(*node).is_some_and(|info| info.format_name == "copy-on-read");
        let filtered = || is_filter.then(|| graph.child(*node, ChildKey::File)).flatten();
        graph.child(*node, ChildKey::Backing).or_else(filtered)
    };
    let mut images = std::iter::successors(below(&top), below);
    images.find(|image| filename::of(graph, *image).text() == file)
}
