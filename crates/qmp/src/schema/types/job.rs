//! Jobs and what they tell.

use super::common::Empty;
use super::info::BlockDeviceIoStatus;

qapi_enum! {
    /// Kinds of jobs.
    pub enum JobType {
        Commit,
        Stream,
        Mirror,
        Backup,
        Create,
        Amend,
        SnapshotLoad,
        SnapshotSave,
        SnapshotDelete,
    }
}

qapi_enum! {
    /// States of a job's life. The first and the last are never seen.
    pub enum JobStatus {
        Undefined,
        Created,
        Running,
        Paused,
        Ready,
        Standby,
        Waiting,
        Pending,
        Aborting,
        Concluded,
        Null,
    }
}

qapi_struct! {
    /// A job.
    pub struct JobInfo {
        id: String,
        r#type: JobType,
        status: JobStatus,
        current_progress: i64,
        /// May grow and shrink.
        total_progress: i64,
        error: Option<String>,
    }
}

qapi_union! {
    /// A job on nodes, as older commands tell it. Lengths and speeds are in bytes.
    pub struct BlockJobInfo {
        device: String,
        len: i64,
        offset: i64,
        busy: bool,
        paused: bool,
        speed: i64,
        io_status: BlockDeviceIoStatus,
        ready: bool,
        status: JobStatus,
        auto_finalize: bool,
        auto_dismiss: bool,
        error: Option<String>,
    }
    /// What kind of job, and what only it tells.
    r#type: JobType => pub enum BlockJobInfoData {
        Commit(Empty),
        Stream(Empty),
        Mirror(BlockJobInfoMirror),
        Backup(Empty),
        Create(Empty),
        Amend(Empty),
        SnapshotLoad(Empty),
        SnapshotSave(Empty),
        SnapshotDelete(Empty),
    }
}

qapi_struct! {
    /// What only a mirror tells.
    pub struct BlockJobInfoMirror { actively_synced: bool }
}

qapi_struct! {
    /// The name of a job: the argument of `job-pause`, `job-resume`, `job-cancel`, `job-complete`, `job-finalize` and
    /// `job-dismiss`.
    pub struct JobId { id: String }
}

qapi_struct! {
    /// The name of a job: the argument of `block-job-pause`, `block-job-resume` and `block-job-complete`.
    pub struct BlockJobDevice { device: String }
}

qapi_struct! {
    /// Arguments of `block-job-cancel`.
    pub struct BlockJobCancel { device: String, force: Option<bool> }
}

qapi_struct! {
    /// Arguments of `block-job-set-speed`.
    pub struct BlockJobSetSpeed {
        device: String,
        /// In bytes per second; 0 is no limit.
        speed: i64,
    }
}

qapi_enum! {
    /// How a mirror copies new writes.
    pub enum MirrorCopyMode { Background, WriteBlocking }
}

qapi_struct! {
    /// What can be changed of a mirror.
    pub struct BlockJobChangeOptionsMirror { copy_mode: MirrorCopyMode }
}

qapi_union! {
    /// Arguments of `block-job-change`.
    pub struct BlockJobChangeOptions { id: String }
    /// The kind of job, and what is changed.
    r#type: JobType => pub enum BlockJobChangeOptionsData {
        Commit(Empty),
        Stream(Empty),
        Mirror(BlockJobChangeOptionsMirror),
        Backup(Empty),
        Create(Empty),
        Amend(Empty),
        SnapshotLoad(Empty),
        SnapshotSave(Empty),
        SnapshotDelete(Empty),
    }
}

qapi_enum! {
    /// What a job does when a request fails.
    pub enum BlockdevOnError { Report, Ignore, Enospc, Stop, Auto }
}

qapi_struct! {
    /// Arguments of `block-stream`. At most one of `base`, `base_node` and `bottom` is said.
    pub struct BlockStream {
        job_id: Option<String>,
        device: String,
        /// The file name of the image that is not copied.
        base: Option<String>,
        /// The node that is not copied.
        base_node: Option<String>,
        /// What the image names as its backing file afterwards.
        backing_file: Option<String>,
        backing_mask_protocol: Option<bool>,
        /// The lowest node that is copied.
        bottom: Option<String>,
        /// In bytes per second; 0 is no limit.
        speed: Option<i64>,
        on_error: Option<BlockdevOnError>,
        filter_node_name: Option<String>,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    }
}

qapi_enum! {
    /// Which kind of request failed.
    pub enum IoOperationType { Read, Write }
}

qapi_enum! {
    /// What was done about a failed request.
    pub enum BlockErrorAction { Ignore, Report, Stop }
}
