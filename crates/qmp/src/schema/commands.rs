//! Every command: its name, its arguments, what it returns.

use serde_json::Value;

use super::Qapi;
use super::introspect::SchemaInfo;
use super::types::bitmap::{BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, BlockDirtyBitmapSha256};
use super::types::blockdev::BlockdevOptions;
use super::types::common::Empty;
use super::types::control::{CommandInfo, QmpCapabilities, VersionInfo};
use super::types::export::{
    BlockDirtyBitmap, BlockExportDel, BlockExportInfo, BlockExportOptions, NbdServerAddOptions,
    NbdServerOptionsLegacy, NbdServerRemove,
};
use super::types::graph::{
    BlockResize, BlockdevDel, BlockdevReopen, BlockdevSnapshot, BlockdevSnapshotDeleteInternal,
    BlockdevSnapshotInternal, BlockdevSnapshotSync, ChangeBackingFile, Transaction, XDbgBlockGraph,
};
use super::types::info::{BlockDeviceInfo, BlockInfo, QueryNamedBlockNodes, SnapshotInfo};
use super::types::job::{
    BlockJobCancel, BlockJobChangeOptions, BlockJobDevice, BlockJobInfo, BlockJobSetSpeed, BlockStream,
    JobId, JobInfo,
};
use super::types::object::{
    ObjectDel, ObjectOptions, ObjectPropertyInfo, ObjectTypeInfo, QomGet, QomList, QomListProperties,
    QomListTypes, QomSet,
};
use super::types::stats::{BlockStats, QueryBlockstats};

/// Ties an answer to its command.
pub trait Call {
    /// What the command takes.
    type Arguments: Qapi;
    /// What it returns.
    type Returns: Qapi;
    /// Its name on the wire.
    const NAME: &'static str;
}

qapi_commands! {
    /// Ends the negotiation. Sessions answer it themselves.
    QmpCapabilities = "qmp_capabilities"(QmpCapabilities);
    /// Who is there.
    QueryVersion = "query-version"(Empty) -> VersionInfo;
    /// What commands there are.
    QueryCommands = "query-commands"(Empty) -> Vec<CommandInfo>;
    /// What they take and return.
    QueryQmpSchema = "query-qmp-schema"(Empty) -> Vec<SchemaInfo>;
    /// Ends the program.
    Quit = "quit"(Empty);

    /// Opens nodes.
    BlockdevAdd = "blockdev-add"(Box<BlockdevOptions>);
    /// Closes a node that nobody uses.
    BlockdevDel = "blockdev-del"(BlockdevDel);
    /// Changes options of open nodes, all or none.
    BlockdevReopen = "blockdev-reopen"(BlockdevReopen);
    /// Puts an open node above another.
    BlockdevSnapshot = "blockdev-snapshot"(BlockdevSnapshot) ["allow-write-only-overlay"];
    /// Makes or opens an image and puts it above a node.
    BlockdevSnapshotSync = "blockdev-snapshot-sync"(BlockdevSnapshotSync);
    /// Keeps a disk as it is inside of its image.
    BlockdevSnapshotInternalSync = "blockdev-snapshot-internal-sync"(BlockdevSnapshotInternal);
    /// Forgets what an image keeps.
    BlockdevSnapshotDeleteInternalSync = "blockdev-snapshot-delete-internal-sync"(BlockdevSnapshotDeleteInternal) -> SnapshotInfo;
    /// Does several things, or none of them.
    Transaction = "transaction"(Transaction);
    /// Makes a dirty bitmap.
    BlockDirtyBitmapAdd = "block-dirty-bitmap-add"(BlockDirtyBitmapAdd);
    /// Removes a dirty bitmap, from its image too.
    BlockDirtyBitmapRemove = "block-dirty-bitmap-remove"(BlockDirtyBitmap);
    /// Makes everything clean in a dirty bitmap.
    BlockDirtyBitmapClear = "block-dirty-bitmap-clear"(BlockDirtyBitmap);
    /// Lets a dirty bitmap follow writes.
    BlockDirtyBitmapEnable = "block-dirty-bitmap-enable"(BlockDirtyBitmap);
    /// Keeps a dirty bitmap as it is.
    BlockDirtyBitmapDisable = "block-dirty-bitmap-disable"(BlockDirtyBitmap);
    /// Merges dirty bitmaps into another.
    BlockDirtyBitmapMerge = "block-dirty-bitmap-merge"(BlockDirtyBitmapMerge);
    /// Tells the checksum of a dirty bitmap.
    XDebugBlockDirtyBitmapSha256 = "x-debug-block-dirty-bitmap-sha256"(BlockDirtyBitmap) -> BlockDirtyBitmapSha256 ["unstable"];
    /// Changes the length of a disk.
    BlockResize = "block_resize"(BlockResize);
    /// Changes what an image names as its backing file, not what is below it.
    ChangeBackingFile = "change-backing-file"(ChangeBackingFile);
    /// Draws the graph.
    XDebugQueryBlockGraph = "x-debug-query-block-graph"(Empty) -> XDbgBlockGraph ["unstable"];

    /// Tells about devices.
    QueryBlock = "query-block"(Empty) -> Vec<BlockInfo>;
    /// Tells about nodes.
    QueryNamedBlockNodes = "query-named-block-nodes"(QueryNamedBlockNodes) -> Vec<BlockDeviceInfo>;
    /// Tells what devices or nodes did.
    QueryBlockstats = "query-blockstats"(QueryBlockstats) -> Vec<BlockStats>;

    /// Starts the NBD server.
    NbdServerStart = "nbd-server-start"(NbdServerOptionsLegacy);
    /// Stops the NBD server, and all NBD exports with it.
    NbdServerStop = "nbd-server-stop"(Empty);
    /// Adds an NBD export of its device's name.
    NbdServerAdd = "nbd-server-add"(NbdServerAddOptions) ["deprecated"];
    /// Removes an NBD export.
    NbdServerRemove = "nbd-server-remove"(NbdServerRemove) ["deprecated"];
    /// Adds an export.
    BlockExportAdd = "block-export-add"(BlockExportOptions);
    /// Asks an export to go away.
    BlockExportDel = "block-export-del"(BlockExportDel);
    /// Tells about exports.
    QueryBlockExports = "query-block-exports"(Empty) -> Vec<BlockExportInfo>;

    /// Makes an object.
    ObjectAdd = "object-add"(ObjectOptions);
    /// Removes an object.
    ObjectDel = "object-del"(ObjectDel);
    /// Tells what an object has.
    QomList = "qom-list"(QomList) -> Vec<ObjectPropertyInfo>;
    /// Reads a property.
    QomGet = "qom-get"(QomGet) -> Value;
    /// Writes a property.
    QomSet = "qom-set"(QomSet);
    /// Tells what kinds of objects there are.
    QomListTypes = "qom-list-types"(QomListTypes) -> Vec<ObjectTypeInfo>;
    /// Tells what objects of a kind have.
    QomListProperties = "qom-list-properties"(QomListProperties) -> Vec<ObjectPropertyInfo>;

    /// Tells about jobs.
    QueryJobs = "query-jobs"(Empty) -> Vec<JobInfo>;
    /// Pauses a job.
    JobPause = "job-pause"(JobId);
    /// Lets a paused job go on.
    JobResume = "job-resume"(JobId);
    /// Ends a job before its time.
    JobCancel = "job-cancel"(JobId);
    /// Lets a ready job do its last step.
    JobComplete = "job-complete"(JobId);
    /// Lets a pending job change the graph.
    JobFinalize = "job-finalize"(JobId);
    /// Forgets a concluded job.
    JobDismiss = "job-dismiss"(JobId);

    /// Copies what is below an image into it.
    BlockStream = "block-stream"(Box<BlockStream>);
    /// Tells about jobs on nodes.
    QueryBlockJobs = "query-block-jobs"(Empty) -> Vec<BlockJobInfo>;
    /// Limits a job.
    BlockJobSetSpeed = "block-job-set-speed"(BlockJobSetSpeed);
    /// Ends a job before its time.
    BlockJobCancel = "block-job-cancel"(BlockJobCancel);
    /// Pauses a job.
    BlockJobPause = "block-job-pause"(BlockJobDevice);
    /// Lets a paused job go on.
    BlockJobResume = "block-job-resume"(BlockJobDevice);
    /// Lets a ready job do its last step.
    BlockJobComplete = "block-job-complete"(BlockJobDevice);
    /// Lets a pending job change the graph.
    BlockJobFinalize = "block-job-finalize"(JobId);
    /// Forgets a concluded job.
    BlockJobDismiss = "block-job-dismiss"(JobId);
    /// Changes options of a running job.
    BlockJobChange = "block-job-change"(BlockJobChangeOptions);
}

/// The answer to `query-commands`.
#[must_use]
pub fn names() -> Vec<CommandInfo> {
    Command::NAMES.iter().map(|&name| CommandInfo { name: name.to_owned() }).collect()
}
