//! Commands that change or draw the graph.

use super::bitmap::{BlockDirtyBitmapAdd, BlockDirtyBitmapMerge};
use super::blockdev::BlockdevOptions;
use super::common::{Data, Empty, wrapped};
use super::export::BlockDirtyBitmap;

qapi_struct! {
    /// Arguments of `blockdev-del`.
    pub struct BlockdevDel { node_name: String }
}

qapi_struct! {
    /// Arguments of `blockdev-reopen`.
    pub struct BlockdevReopen {
        /// All of them or none are applied.
        options: Vec<BlockdevOptions>,
    }
}

qapi_struct! {
    /// Puts an open node above another.
    pub struct BlockdevSnapshot {
        node: String,
        overlay: String,
    }
}

qapi_enum! {
    /// Where the image of a snapshot comes from.
    pub enum NewImageMode {
        /// It is there.
        Existing,
        /// It is made, and names its backing file by an absolute path.
        AbsolutePaths,
    }
}

qapi_struct! {
    /// Makes or opens an image and puts it above a node. One of `device` and `node_name` is said.
    pub struct BlockdevSnapshotSync {
        device: Option<String>,
        node_name: Option<String>,
        snapshot_file: String,
        snapshot_node_name: Option<String>,
        /// qcow2 if not said.
        format: Option<String>,
        mode: Option<NewImageMode>,
    }
}

qapi_struct! {
    /// Keeps a disk as it is inside of its image.
    pub struct BlockdevSnapshotInternal {
        /// The node; or a device, of which there are none.
        device: String,
        /// That of the snapshot.
        name: String,
    }
}

qapi_struct! {
    /// Arguments of `blockdev-snapshot-delete-internal-sync`. At least one of `id` and `name` is said.
    pub struct BlockdevSnapshotDeleteInternal {
        device: String,
        id: Option<String>,
        name: Option<String>,
    }
}

wrapped!(Empty "AbortWrapper", BlockDirtyBitmapAdd "BlockDirtyBitmapAddWrapper", BlockDirtyBitmap "BlockDirtyBitmapWrapper", BlockDirtyBitmapMerge "BlockDirtyBitmapMergeWrapper", BlockdevSnapshot "BlockdevSnapshotWrapper", BlockdevSnapshotInternal "BlockdevSnapshotInternalWrapper", BlockdevSnapshotSync "BlockdevSnapshotSyncWrapper");

qapi_enum! {
    /// What a transaction can do.
    pub enum TransactionActionKind {
        Abort,
        BlockDirtyBitmapAdd,
        BlockDirtyBitmapRemove,
        BlockDirtyBitmapClear,
        BlockDirtyBitmapEnable,
        BlockDirtyBitmapDisable,
        BlockDirtyBitmapMerge,
        BlockdevSnapshot,
        BlockdevSnapshotInternalSync,
        BlockdevSnapshotSync,
    }
}

qapi_union! {
    /// One step of a transaction.
    pub struct TransactionAction {}
    /// What it does.
    r#type: TransactionActionKind => pub enum TransactionActionData {
        Abort(Data<Empty>),
        BlockDirtyBitmapAdd(Data<BlockDirtyBitmapAdd>),
        BlockDirtyBitmapRemove(Data<BlockDirtyBitmap>),
        BlockDirtyBitmapClear(Data<BlockDirtyBitmap>),
        BlockDirtyBitmapEnable(Data<BlockDirtyBitmap>),
        BlockDirtyBitmapDisable(Data<BlockDirtyBitmap>),
        BlockDirtyBitmapMerge(Data<BlockDirtyBitmapMerge>),
        BlockdevSnapshot(Data<BlockdevSnapshot>),
        BlockdevSnapshotInternalSync(Data<BlockdevSnapshotInternal>),
        BlockdevSnapshotSync(Data<BlockdevSnapshotSync>),
    }
}

qapi_enum! {
    /// Whether the jobs of a transaction end together.
    pub enum ActionCompletionMode { Individual, Grouped }
}

qapi_struct! {
    /// Properties of a transaction.
    pub struct TransactionProperties {
        /// Individual if not said.
        completion_mode: Option<ActionCompletionMode>,
    }
}

qapi_struct! {
    /// Arguments of `transaction`.
    pub struct Transaction {
        actions: Vec<TransactionAction>,
        properties: Option<TransactionProperties>,
    }
}

qapi_struct! {
    /// Arguments of `block_resize`. One of `device` and `node_name` is said.
    pub struct BlockResize {
        device: Option<String>,
        node_name: Option<String>,
        /// In bytes.
        size: i64,
    }
}

qapi_struct! {
    /// Arguments of `change-backing-file`.
    pub struct ChangeBackingFile {
        device: String,
        image_node_name: String,
        backing_file: String,
    }
}

qapi_enum! {
    /// What a vertex of the drawn graph is.
    pub enum XDbgBlockGraphNodeType { BlockBackend, BlockJob, BlockDriver }
}

qapi_struct! {
    /// A vertex of the drawn graph.
    pub struct XDbgBlockGraphNode { id: u64, r#type: XDbgBlockGraphNodeType, name: String }
}

qapi_enum! {
    /// What a user of a node may do, or lets others do.
    pub enum BlockPermission { ConsistentRead, Write, WriteUnchanged, Resize }
}

qapi_struct! {
    /// An edge of the drawn graph.
    pub struct XDbgBlockGraphEdge {
        parent: u64,
        child: u64,
        name: String,
        perm: Vec<BlockPermission>,
        shared_perm: Vec<BlockPermission>,
    }
}

qapi_struct! {
    /// The drawn graph.
    pub struct XDbgBlockGraph { nodes: Vec<XDbgBlockGraphNode>, edges: Vec<XDbgBlockGraphEdge> }
}
