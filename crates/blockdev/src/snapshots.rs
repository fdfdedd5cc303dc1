//! Internal snapshots of an image in the graph: found by name, changed with nobody else inside.
//!
//! Not here: how a format keeps them ([`drystone_core::snapshots`]).

use drystone_base::{Error, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Demand, Plan, PrivateIo, RootSpec, Task};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::snapshots::{InternalSnapshots, NewSnapshot, SnapshotInfo};

use crate::alone::{alone_in, with_private, within};

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
    match what {
        SnapshotChange::Create(new) => {
            with_private(task, node, async |private| snapshots_of(private)?.create(private.io(), new).await)
                .await
        }
        SnapshotChange::Delete(which) => {
            with_private(task, node, async |private| {
                let snapshot = find(private, which).await?;
                snapshots_of(private)?.delete(private.io(), &snapshot.id).await?;
                Ok(snapshot)
            })
            .await
        }
        SnapshotChange::Apply(which) => apply(task, node, which).await,
        SnapshotChange::Show(which) => {
            with_private(task, node, async |private| {
                let snapshot = find(private, which).await?;
                private.publish_len(snapshots_of(private)?.show(private.io(), &snapshot.id).await?);
                Ok(snapshot)
            })
            .await
        }
    }
}

/// Forgets an internal snapshot of the image `node`, on which nothing but users stands. Returns what was forgotten.
///
/// # Errors
/// As [`change_snapshots`]; [`Kind::InUse`] if nodes stand on it; [`Kind::ReadOnly`].
pub async fn delete_of_root(task: &mut Task<'_>, node: NodeId, which: &Which) -> Result<SnapshotInfo> {
    let mut plan = alone_in(node);
    plan.demand(node, Demand::NoParent);
    within(task, node, plan, async |private| {
        demand_writable(private)?;
        let snapshot = find(private, which).await?;
        snapshots_of(private)?.delete(private.io(), &snapshot.id).await?;
        Ok(snapshot)
    })
    .await
}

/// Takes an internal snapshot in the middle of a change, and returns its identifier. Names are used once.
pub(crate) async fn take_within(private: &PrivateIo<'_>, new: &NewSnapshot) -> Result<Vec<u8>> {
    demand_writable(private)?;
    let driver = snapshots_of(private)?;
    if driver.list(private.io()).await?.iter().any(|snapshot| snapshot.name == new.name) {
        let text = format!("there is an internal snapshot '{}' already", String::from_utf8_lossy(&new.name));
        return Err(Error::new(Kind::AlreadyExists, text));
    }
    Ok(driver.create(private.io(), new).await?.id)
}

/// Forgets, in the middle of a change, what was taken there.
pub(crate) async fn forget_within(private: &PrivateIo<'_>, id: &[u8]) -> Result<()> {
    snapshots_of(private)?.delete(private.io(), id).await
}

fn demand_writable(private: &PrivateIo<'_>) -> Result<()> {
    match private.io().node().is_read_only() {
        true => Err(Error::new(Kind::ReadOnly, "the node is read-only")),
        false => Ok(()),
    }
}

/// Makes the disk what it was. Users that do not expect another length keep that from happening.
async fn apply(task: &mut Task<'_>, node: NodeId, which: &Which) -> Result<SnapshotInfo> {
    let list = list_snapshots(task, node).await?;
    let len_now = task.gs().with(|graph| graph.node(node).map_or(0, |node| node.len));
    let len = which.find(&list).and_then(|snapshot| snapshot.len_guest).unwrap_or(len_now);
    let mut plan = alone_in(node);
    let resizer = (len != len_now).then(|| {
        let grant = Grant { perm: Perm::WRITE.with(Perm::RESIZE), shared: Perm::ALL };
        let spec = RootSpec { name: "an internal snapshot".to_owned(), grant, stays: false };
        let user: Backend<ReadWrite> = plan.attach_root(task.gs(), node, spec);
        user
    });
    let applied = within(task, node, plan, async |private| {
        let (io, snapshot) = (private.io(), find(private, which).await?);
        let is_expected = snapshot.len_guest.unwrap_or(io.len()) == len && io.len() == len_now;
        if !is_expected {
            return Err(Error::new(Kind::InUse, "the length of the disk has changed meanwhile"));
        }
        private.publish_len(snapshots_of(private)?.apply(io, &snapshot.id).await?);
        Ok(snapshot)
    })
    .await?;
    if let Some(user) = resizer {
        let mut plan = Plan::new();
        plan.detach_root(user.id());
        task.apply(plan).await?;
    }
    Ok(applied)
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

async fn find(private: &PrivateIo<'_>, which: &Which) -> Result<SnapshotInfo> {
    let list = snapshots_of(private)?.list(private.io()).await?;
    which.find(&list).cloned().ok_or_else(|| which.missing())
}

fn snapshots_of<'a>(private: &'a PrivateIo<'_>) -> Result<&'a dyn InternalSnapshots> {
    let driver = private.io().node().driver();
    driver.snapshots().ok_or_else(|| {
        let text = format!("driver '{}' has no internal snapshots", driver.format_name());
        Error::new(Kind::Unsupported, text)
    })
}
