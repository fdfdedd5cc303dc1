//! Every event, and how often a client is told of it.

use super::types::job::{BlockErrorAction, IoOperationType, JobStatus, JobType};

qapi_events! {
    /// A job went on in its life.
    JobStatusChange = "JOB_STATUS_CHANGE";
    /// A job ended; `error` says why if it failed.
    BlockJobCompleted = "BLOCK_JOB_COMPLETED";
    /// A job was ended before its time.
    BlockJobCancelled = "BLOCK_JOB_CANCELLED";
    /// A request of a job failed.
    BlockJobError = "BLOCK_JOB_ERROR";
    /// A job may do its last step.
    BlockJobReady = "BLOCK_JOB_READY";
    /// A job waits to be finalized.
    BlockJobPending = "BLOCK_JOB_PENDING";
    /// An export is gone.
    BlockExportDeleted = "BLOCK_EXPORT_DELETED";
    /// A request of a device failed.
    BlockIoError = "BLOCK_IO_ERROR";
    /// An image is corrupt.
    BlockImageCorrupted = "BLOCK_IMAGE_CORRUPTED";
}

qapi_struct! {
    /// Data of `JOB_STATUS_CHANGE`.
    pub struct JobStatusChange { id: String, status: JobStatus }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_COMPLETED`. Lengths and speeds are in bytes.
    pub struct BlockJobCompleted {
        r#type: JobType,
        device: String,
        len: i64,
        offset: i64,
        speed: i64,
        error: Option<String>,
    }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_CANCELLED`. Lengths and speeds are in bytes.
    pub struct BlockJobCancelled { r#type: JobType, device: String, len: i64, offset: i64, speed: i64 }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_ERROR`.
    pub struct BlockJobError { device: String, operation: IoOperationType, action: BlockErrorAction }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_READY`. Lengths and speeds are in bytes.
    pub struct BlockJobReady { r#type: JobType, device: String, len: i64, offset: i64, speed: i64 }
}

qapi_struct! {
    /// Data of `BLOCK_JOB_PENDING`.
    pub struct BlockJobPending { r#type: JobType, id: String }
}

qapi_struct! {
    /// Data of `BLOCK_EXPORT_DELETED`.
    pub struct BlockExportDeleted { id: String }
}

qapi_struct! {
    /// Data of `BLOCK_IO_ERROR`.
    pub struct BlockIoError {
        qom_path: String,
        device: String,
        node_name: Option<String>,
        operation: IoOperationType,
        action: BlockErrorAction,
        nospace: Option<bool>,
        reason: String,
    }
}

qapi_struct! {
    /// Data of `BLOCK_IMAGE_CORRUPTED`.
    pub struct BlockImageCorrupted {
        device: String,
        node_name: Option<String>,
        msg: String,
        /// In bytes.
        offset: Option<i64>,
        /// In bytes.
        size: Option<i64>,
        /// The image cannot be used any more.
        fatal: bool,
    }
}
