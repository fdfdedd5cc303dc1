//! [`resize`]: another length for a disk that is in use.
//!
//! It grows beside requests. It shrinks while nobody else is inside: a write that was let in before could make a file longer
//! again.

use drystone_base::Result;
use drystone_base::planted::{Mistake, is_planted};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Demand, Plan, RootSpec, Task};
use drystone_core::disk::Preallocation;
use drystone_core::graph::permission::{Grant, Perm};

use crate::alone::within;

/// `block_resize`: sets the length of the node's disk, in bytes. Users that do not expect it keep it from happening.
///
/// # Errors
/// [`Kind::NotFound`](drystone_base::Kind::NotFound); [`Kind::InUse`](drystone_base::Kind::InUse) naming who is in the way; those of the driver.
pub async fn resize(task: &mut Task<'_>, node: &str, len_bytes: u64) -> Result<()> {
    let id = task.gs().find(node)?;
    let mut plan = Plan::new();
    plan.demand(id, Demand::NoJob);
    plan.demand(id, Demand::NoOverlay);
    let grant = Grant { perm: Perm::WRITE.with(Perm::RESIZE), shared: Perm::ALL };
    let spec = RootSpec { name: "a resize".to_owned(), grant, stays: true };
    let user: Backend<ReadWrite> = plan.attach_root(task.gs(), id, spec);
    task.apply(plan).await?;
    let is_shorter = task.gs().with(|graph| graph.node(id).is_some_and(|node| len_bytes < node.len));
    let resized = if is_shorter && !is_planted(Mistake::ShrinkBesideWrites) {
        // Its user keeps jobs away.
        let mut plan = Plan::new();
        plan.hold(id);
        within(task, id, plan, async |private| private.io().resize(len_bytes, Preallocation::Off).await).await
    } else {
        let mut ticket = task.enter(&user).await;
        ticket.resize(len_bytes, Preallocation::Off).await
    };
    let mut plan = Plan::new();
    plan.detach_root(user.id());
    let detached = task.apply(plan).await;
    resized.and(detached).map_err(|error| error.on_node(node))
}
