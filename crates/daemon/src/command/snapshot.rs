//! Snapshots, alone and several at once.
//!
//! All actions of a transaction are put into one draft, in their order, and happen in one moment; `abort` is a step that
//! fails.

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::draft::{self, Draft, OverlayMode, SnapshotSync};
use drystone_core::control::Task;
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::graph::{
    ActionCompletionMode, BlockdevSnapshot, BlockdevSnapshotSync, NewImageMode, Transaction,
    TransactionAction, TransactionActionData,
};

use super::bitmap::BitmapStep;
use super::node::named;
use super::{Outcome, done};
use crate::daemon::Daemon;

/// `blockdev-snapshot`.
pub(super) async fn snapshot(daemon: &Daemon, typed: BlockdevSnapshot) -> Outcome<Empty> {
    done(apply(daemon, vec![Action::Snapshot(typed)]).await)
}

/// `blockdev-snapshot-sync`.
pub(super) async fn sync(daemon: &Daemon, typed: BlockdevSnapshotSync) -> Outcome<Empty> {
    done(apply(daemon, vec![Action::Sync(typed)]).await)
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
            TransactionActionData::BlockdevSnapshotSync(snapshot) => Self::Sync(snapshot.data),
        }
    }

    async fn put(self, draft: &mut Draft, task: &mut Task<'_>) -> Result<()> {
        match self {
            Self::Abort => Err(Error::new(Kind::Cancelled, "the transaction was told to abort")),
            Self::Bitmap(step) => step.put(draft, task),
            Self::Snapshot(snapshot) => draft.snapshot(task, &snapshot.node, &snapshot.overlay),
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
