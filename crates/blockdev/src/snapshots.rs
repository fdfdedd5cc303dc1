//! Internal snapshots of an image in the graph: found by name, changed with nobody else inside.
//!
//! Not here: how a format keeps them ([`drystone_core::snapshots`]).

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{Demand, Plan, PrivateIo, Task};
use drystone_core::graph::node::NodeId;
use drystone_core::snapshots::{InternalSnapshots, NewSnapshot, SnapshotInfo};

/// What to do with the internal snapshots of an image.
#[derive(Debug, Clone)]
pub enum SnapshotChange {
    /// Take one.
    Create(NewSnapshot),
    /// Make the disk what it was.
    Apply(Which),
    /// Forget one.
    Delete(Which),
    /// Have a read-only node show what the disk was.
    Show(Which),
}

/// Which snapshot is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one with this identifier; if there is none, the first with this name.
    IdOrName(Vec<u8>),
    /// The first with this name.
    Name(Vec<u8>),
    /// The one with this identifier.
    Id(Vec<u8>),
    /// The one with this identifier, and this name.
    Both {
        /// The identifier.
        id: Vec<u8>,
        /// The name.
        name: Vec<u8>,
    },
}

impl Which {
    /// The snapshot in `list`.
    #[must_use]
    pub fn find<'s>(&self, list: &'s [SnapshotInfo]) -> Option<&'s SnapshotInfo> {
        let by_id = |id: &[u8]| list.iter().find(|snapshot| snapshot.id == id);
        let by_name = |name: &[u8]| list.iter().find(|snapshot| snapshot.name == name);
        match self {
            Self::IdOrName(either) => by_id(either).or_else(|| by_name(either)),
            Self::Name(name) => by_name(name),
            Self::Id(id) => by_id(id),
            Self::Both { id, name } => {
                list.iter().find(|snapshot| snapshot.id == *id && snapshot.name == *name)
            }
        }
    }

    fn missing(&self) -> Error {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let text = match self {
            Self::IdOrName(either) => format!("there is no internal snapshot '{}'", shown(either)),
            Self::Name(name) => format!("there is no internal snapshot with the name '{}'", shown(name)),
            Self::Id(id) => format!("there is no internal snapshot with the identifier '{}'", shown(id)),
            Self::Both { id, name } => {
                let (id, name) = (shown(id), shown(name));
                format!("there is no internal snapshot with the identifier '{id}' and the name '{name}'")
            }
        };
        Error::new(Kind::NotFound, text)
    }
}

/// Changes the internal snapshots of the image `node`. Returns what was taken, applied, forgotten or shown.
///
/// # Errors
/// [`Kind::Unsupported`] for a format that has none; [`Kind::NotFound`]; those of the driver.
pub async fn change_snapshots(
    task: &mut Task<'_>,
    node: NodeId,
    what: &SnapshotChange,
) -> Result<SnapshotInfo> {
    with_private(task, node, async |private| {
        let io = private.io();
        let driver = snapshots_of(private)?;
        let id_of = async |which: &Which| {
            let list = driver.list(io).await?;
            which.find(&list).cloned().ok_or_else(|| which.missing())
        };
        match what {
            SnapshotChange::Create(new) => driver.create(io, new).await,
            SnapshotChange::Delete(which) => {
                let snapshot = id_of(which).await?;
                driver.delete(io, &snapshot.id).await?;
                Ok(snapshot)
            }
            SnapshotChange::Apply(which) => {
                let snapshot = id_of(which).await?;
                private.publish_len(driver.apply(io, &snapshot.id).await?);
                Ok(snapshot)
            }
            SnapshotChange::Show(which) => {
                let snapshot = id_of(which).await?;
                private.publish_len(driver.show(io, &snapshot.id).await?);
                Ok(snapshot)
            }
        }
    })
    .await
}

/// The internal snapshots of the image `node`; none if its format has none.
///
/// # Errors
/// Those of the driver.
pub async fn list_snapshots(task: &mut Task<'_>, node: NodeId) -> Result<Vec<SnapshotInfo>> {
    with_private(task, node, async |private| match private.io().node().driver().snapshots() {
        Some(driver) => driver.list(private.io()).await,
        None => Ok(Vec::new()),
    })
    .await
}

fn snapshots_of<'a>(private: &'a PrivateIo<'_>) -> Result<&'a dyn InternalSnapshots> {
    let driver = private.io().node().driver();
    driver.snapshots().ok_or_else(|| {
        let text = format!("driver '{}' has no internal snapshots", driver.format_name());
        Error::new(Kind::Unsupported, text)
    })
}

/// Does something with an image while nobody else is inside, if no job works on it.
async fn with_private<T>(
    task: &mut Task<'_>,
    node: NodeId,
    work: impl AsyncFnOnce(&PrivateIo<'_>) -> Result<T>,
) -> Result<T> {
    let mut plan = Plan::new();
    plan.demand(node, Demand::NoJob);
    plan.hold(node);
    let checked = plan.check(task.gs()).map_err(|(_plan, error)| error)?;
    let staged = task.stage(checked).await?;
    let change = task.admit(staged).await?;
    let done = match change.private(node) {
        Ok(private) => {
            let done = work(&private).await;
            done.map_err(|error| error.on_node(private.io().node().name()))
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(value) => {
            change.settle().await?.commit().finish().await;
            Ok(value)
        }
        Err(error) => {
            change.abort().await;
            Err(error)
        }
    }
}
