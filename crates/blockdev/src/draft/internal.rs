//! Internal snapshots as a part of a draft.
//!
//! ```text
//!   plan ─► checked ─► staged ─► admitted: nobody is inside ─► snapshots, one after the other ─► settled ─► committed
//!                                                                 └─ one fails: those before it are forgotten
//! ```
//! So all snapshots of a draft are of one moment, also those of several disks.
//!
//! Not here: how an image keeps them ([`mod@crate::snapshots`]).

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{Change, Demand, Plan, Task};
use drystone_core::graph::node::NodeId;
use drystone_core::snapshots::NewSnapshot;

use super::Draft;
use crate::alone::with_private;
use crate::snapshots::{forget_within, take_within};

impl Draft {
    /// `blockdev-snapshot-internal-sync`: keeps the disk as it is inside of its image.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without the node; [`Kind::InvalidInput`] without a name for the snapshot. When the draft is applied:
    /// [`Kind::InUse`] while a job works on the node or nodes stand on it, [`Kind::AlreadyExists`] for a name that another
    /// snapshot has, [`Kind::Unsupported`], [`Kind::ReadOnly`].
    pub fn snapshot_internal(&mut self, task: &Task<'_>, node: &str, new: NewSnapshot) -> Result<()> {
        let node = self.find(task, node)?;
        if new.name.is_empty() {
            return Err(
                Error::new(Kind::InvalidInput, "the internal snapshot needs a name").in_option("name")
            );
        }
        self.plan.demand(node, Demand::NoJob);
        self.plan.demand(node, Demand::NoParent);
        self.plan.hold(node);
        self.internal.push((node, new));
        Ok(())
    }
}

/// Applies a plan, and takes internal snapshots in the middle of it.
pub(super) async fn apply(
    task: &mut Task<'_>,
    plan: Plan,
    snapshots: &[(NodeId, NewSnapshot)],
) -> Result<()> {
    let checked = match plan.check(task.gs()) {
        Ok(checked) => checked,
        Err((plan, error)) => {
            plan.close().await;
            return Err(error);
        }
    };
    let staged = task.stage(checked).await?;
    let change = task.admit(staged).await?;
    let mut taken = Vec::new();
    if let Err(error) = take(&change, snapshots, &mut taken).await {
        for (node, id) in taken.iter().rev() {
            // The image is whole with it, too; what led here says more.
            if let Ok(private) = change.private(*node) {
                let _ = forget_within(&private, id).await;
            }
        }
        change.abort().await;
        return Err(error);
    }
    match change.settle().await {
        Ok(settled) => {
            settled.commit().finish().await;
            Ok(())
        }
        Err(error) => {
            for (node, id) in taken.iter().rev() {
                let _ = with_private(task, *node, async |private| forget_within(private, id).await).await;
            }
            Err(error)
        }
    }
}

async fn take(
    change: &Change<'_>,
    snapshots: &[(NodeId, NewSnapshot)],
    taken: &mut Vec<(NodeId, Vec<u8>)>,
) -> Result<()> {
    for (node, new) in snapshots {
        let private = change.private(*node)?;
        let id = take_within(&private, new).await;
        taken.push((*node, id.map_err(|error| error.on_node(private.io().node().name()))?));
    }
    Ok(())
}
