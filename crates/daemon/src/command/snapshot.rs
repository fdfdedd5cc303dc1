//! Snapshots, alone and several at once.
//!
//! All actions of a transaction are put into one draft, in their order, and happen in one moment; `abort` is a step that
//! fails.

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::draft::{self, Draft, OverlayMode, SnapshotSync};
use drystone_blockdev::snapshots::{Which, delete_of_root};
use drystone_core::control::{Plan, Task};
use drystone_core::snapshots::NewSnapshot;
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::graph::{
    ActionCompletionMode, BlockdevSnapshot, BlockdevSnapshotDeleteInternal, BlockdevSnapshotInternal,
    BlockdevSnapshotSync, NewImageMode, Transaction, TransactionAction, TransactionActionData,
};
use drystone_qmp::schema::types::info::SnapshotInfo;
use drystone_sys::time_of_day;

use super::bitmap::BitmapStep;
use super::node::named;
use super::{Outcome, done};
use crate::daemon::Daemon;
use crate::error::to_qmp;

/// `blockdev-snapshot`.
pub(super) async fn snapshot(daemon: &Daemon, typed: BlockdevSnapshot) -> Outcome<Empty> {
    done(apply(daemon, vec![Action::Snapshot(typed)]).await)
}

/// `blockdev-snapshot-sync`.
pub(super) async fn sync(daemon: &Daemon, typed: BlockdevSnapshotSync) -> Outcome<Empty> {
    done(apply(daemon, vec![Action::Sync(typed)]).await)
}

/// `blockdev-snapshot-internal-sync`.
pub(super) async fn internal(daemon: &Daemon, typed: BlockdevSnapshotInternal) -> Outcome<Empty> {
    done(apply(daemon, vec![Action::Internal(typed)]).await)
}

/// `blockdev-snapshot-delete-internal-sync`.
pub(super) async fn delete_internal(
    daemon: &Daemon,
    typed: BlockdevSnapshotDeleteInternal,
) -> Outcome<SnapshotInfo> {
    let bytes = String::into_bytes;
    let which = match (typed.id.map(bytes), typed.name.map(bytes)) {
        (Some(id), Some(name)) => Which::Both { id, name },
        (Some(id), None) => Which::Id(id),
        (None, Some(name)) => Which::Name(name),
        (None, None) => {
            let text = "neither an identifier nor a name says which internal snapshot is meant";
            return Err(to_qmp(&Error::new(Kind::InvalidInput, text).in_option("id")));
        }
    };
    let deleted = daemon.on_control(async move |task: &mut Task<'_>| {
        let node = Plan::new().find(task.gs(), &typed.device)?;
        delete_of_root(task, node, &which).await
    });
    deleted.await.map(info).map_err(|error| to_qmp(&error))
}

/// An internal snapshot as clients are told of it.
fn info(snapshot: drystone_core::snapshots::SnapshotInfo) -> SnapshotInfo {
    const NS: u64 = 1_000_000_000;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    SnapshotInfo {
        id: String::from_utf8_lossy(&snapshot.id).into_owned(),
        name: String::from_utf8_lossy(&snapshot.name).into_owned(),
        vm_state_size: number(snapshot.vm_state_bytes),
        date_sec: i64::from(snapshot.date_s),
        date_nsec: i64::from(snapshot.date_ns),
        vm_clock_sec: number(snapshot.vm_clock_ns / NS),
        vm_clock_nsec: number(snapshot.vm_clock_ns % NS),
        icount: snapshot.icount.map(number),
    }
}

/// `transaction`.
pub(super) async fn transaction(daemon: &Daemon, typed: Transaction) -> Outcome<Empty> {
    let mode = typed.properties.and_then(|properties| properties.completion_mode);
    let actions: Vec<Action> = typed.actions.into_iter().map(Action::of).collect();
    if mode == Some(ActionCompletionMode::Grouped) && !actions.is_empty() {
        let text = "none of the actions starts a job that could end together with others";
        return done(Err(Error::new(Kind::Unsupported, text).in_option("completion-mode")));
    }
    done(apply(daemon, actions).await)
}

/// One step.
enum Action {
    Abort,
    Snapshot(BlockdevSnapshot),
    Sync(BlockdevSnapshotSync),
    Internal(BlockdevSnapshotInternal),
    Bitmap(BitmapStep),
}

async fn apply(daemon: &Daemon, actions: Vec<Action>) -> Result<()> {
    let opener = daemon.opener.clone();
    let work = async move |task: &mut Task<'_>| {
        draft::change(task, &opener, async |draft, task| {
            for action in actions {
                action.put(draft, task).await?;
            }
            Ok(())
        })
        .await
    };
    daemon.on_control(work).await
}

impl Action {
    fn of(typed: TransactionAction) -> Self {
        match typed.r#type {
            TransactionActionData::Abort(_) => Self::Abort,
            TransactionActionData::BlockDirtyBitmapAdd(add) => Self::Bitmap(BitmapStep::Add(add.data)),
            TransactionActionData::BlockDirtyBitmapRemove(which) => {
                Self::Bitmap(BitmapStep::Remove(which.data))
            }
            TransactionActionData::BlockDirtyBitmapClear(which) => {
                Self::Bitmap(BitmapStep::Clear(which.data))
            }
            TransactionActionData::BlockDirtyBitmapEnable(which) => {
                Self::Bitmap(BitmapStep::Record(which.data, true))
            }
            TransactionActionData::BlockDirtyBitmapDisable(which) => {
                Self::Bitmap(BitmapStep::Record(which.data, false))
            }
            TransactionActionData::BlockDirtyBitmapMerge(merge) => {
                Self::Bitmap(BitmapStep::Merge(merge.data))
            }
            TransactionActionData::BlockdevSnapshot(snapshot) => Self::Snapshot(snapshot.data),
            TransactionActionData::BlockdevSnapshotInternalSync(snapshot) => Self::Internal(snapshot.data),
            TransactionActionData::BlockdevSnapshotSync(snapshot) => Self::Sync(snapshot.data),
        }
    }

    async fn put(self, draft: &mut Draft, task: &mut Task<'_>) -> Result<()> {
        match self {
            Self::Abort => Err(Error::new(Kind::Cancelled, "the transaction was told to abort")),
            Self::Bitmap(step) => step.put(draft, task),
            Self::Snapshot(snapshot) => draft.snapshot(task, &snapshot.node, &snapshot.overlay),
            Self::Internal(snapshot) => {
                let now = time_of_day();
                let new = NewSnapshot {
                    name: snapshot.name.into_bytes(),
                    date_s: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
                    date_ns: now.subsec_nanos(),
                    // There is no machine whose clock it could be.
                    vm_clock_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
                    icount: None,
                };
                draft.snapshot_internal(task, &snapshot.device, new)
            }
            Self::Sync(snapshot) => {
                let snapshot = SnapshotSync {
                    node: named(snapshot.device, snapshot.node_name)?,
                    file: snapshot.snapshot_file.into(),
                    node_name: snapshot.snapshot_node_name,
                    format: snapshot.format,
                    mode: match snapshot.mode.unwrap_or(NewImageMode::AbsolutePaths) {
                        NewImageMode::Existing => OverlayMode::Existing,
                        NewImageMode::AbsolutePaths => OverlayMode::AbsolutePaths,
                    },
                };
                draft.snapshot_sync(task, snapshot).await.map(drop)
            }
        }
    }
}
