//! Dirty bitmaps: commands, and steps of transactions.

use drystone_base::Result;
use drystone_blockdev::bitmap;
use drystone_blockdev::draft::{self, Draft};
use drystone_core::bitmap::action::{BitmapAction, MergeSource};
use drystone_core::control::Task;
use drystone_qmp::schema::types::bitmap::{
    BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, BlockDirtyBitmapSha256,
};
use drystone_qmp::schema::types::common::Empty;
use drystone_qmp::schema::types::export::{BlockDirtyBitmap, BlockDirtyBitmapOrStr};

use super::{Outcome, done};
use crate::daemon::Daemon;
use crate::error::to_qmp;

/// What is done to a bitmap.
pub(super) enum BitmapStep {
    Add(BlockDirtyBitmapAdd),
    Remove(BlockDirtyBitmap),
    Clear(BlockDirtyBitmap),
    Record(BlockDirtyBitmap, bool),
    Merge(BlockDirtyBitmapMerge),
}

impl BitmapStep {
    /// Puts it into a draft.
    ///
    /// # Errors
    /// Of names and granularities. Whether it is possible is checked when the draft is applied.
    pub(super) fn put(self, draft: &mut Draft, task: &Task<'_>) -> Result<()> {
        let (node, action) = match self {
            Self::Add(add) => {
                let node = draft.find(task, &add.node)?;
                let bytes = add.granularity.map(u64::from);
                let found = draft.plan().node(task.gs(), node);
                let granularity = match found {
                    Some(found) => bitmap::granularity(&found, bytes)?,
                    None => return Ok(()),
                };
                let (persistent, recording) = (add.persistent == Some(true), add.disabled != Some(true));
                (node, BitmapAction::Add { name: add.name, granularity, persistent, recording })
            }
            Self::Remove(which) => {
                (draft.find(task, &which.node)?, BitmapAction::Remove { name: which.name })
            }
            Self::Clear(which) => (draft.find(task, &which.node)?, BitmapAction::Clear { name: which.name }),
            Self::Record(which, recording) => {
                (draft.find(task, &which.node)?, BitmapAction::Record { name: which.name, recording })
            }
            Self::Merge(merge) => return put_merge(merge, draft, task),
        };
        draft.plan().change_bitmap(node, action);
        Ok(())
    }
}

fn put_merge(merge: BlockDirtyBitmapMerge, draft: &mut Draft, task: &Task<'_>) -> Result<()> {
    let target = draft.find(task, &merge.node)?;
    if merge.bitmaps.is_empty() {
        // The target has to be there, and free, all the same.
        let source = MergeSource::Bitmap { node: target, name: merge.target.clone() };
        draft.plan().change_bitmap(target, BitmapAction::Merge { name: merge.target, source });
        return Ok(());
    }
    for source in merge.bitmaps {
        let (node, name) = match source {
            BlockDirtyBitmapOrStr::Local(name) => (target, name),
            BlockDirtyBitmapOrStr::External(which) => (draft.find(task, &which.node)?, which.name),
        };
        let source = MergeSource::Bitmap { node, name };
        draft.plan().change_bitmap(target, BitmapAction::Merge { name: merge.target.clone(), source });
    }
    Ok(())
}

/// A command that does one thing.
pub(super) async fn one(daemon: &Daemon, step: BitmapStep) -> Outcome<Empty> {
    let opener = daemon.opener.clone();
    let changed = daemon.on_control(async move |task: &mut Task<'_>| {
        draft::change(task, &opener, async |draft, task| step.put(draft, task)).await
    });
    done(changed.await)
}

/// `x-debug-block-dirty-bitmap-sha256`.
pub(super) async fn sha256(daemon: &Daemon, which: BlockDirtyBitmap) -> Outcome<BlockDirtyBitmapSha256> {
    let look = async move |task: &mut Task<'_>| {
        let node = task.gs().find(&which.node)?;
        let node = task.gs().with(|graph| graph.node_handle(node));
        let bits =
            node.map(|node| node.bitmaps().bits(&which.name).map_err(|error| error.on_node(&which.node)));
        bits.unwrap_or_else(|| {
            Ok(drystone_core::bitmap::Bits::new(drystone_core::bitmap::Granularity::FINEST, 0))
        })
    };
    let bits = daemon.on_control(look).await.map_err(|error| to_qmp(&error))?;
    Ok(BlockDirtyBitmapSha256 { sha256: bitmap::sha256(&bits) })
}
