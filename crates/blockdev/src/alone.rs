//! Work on an image while nobody else is inside.
//!
//! Not here: what is done, and to which image.

use drystone_base::Result;
use drystone_core::control::{Demand, Plan, PrivateIo, Task};
use drystone_core::graph::node::NodeId;

/// Does something with the image `node` while nobody else is inside, if no job works on it.
///
/// # Errors
/// [`Kind::InUse`](drystone_base::Kind::InUse) while a job does; those of `work`, of which the graph does not change.
pub async fn with_private<T>(
    task: &mut Task<'_>,
    node: NodeId,
    work: impl AsyncFnOnce(&PrivateIo<'_>) -> Result<T>,
) -> Result<T> {
    within(task, node, alone_in(node), work).await
}

/// A plan that keeps everybody out of an image that no job works on.
pub(crate) fn alone_in(node: NodeId) -> Plan {
    let mut plan = Plan::new();
    plan.demand(node, Demand::NoJob);
    plan.hold(node);
    plan
}

/// Does something with the image `node` in the middle of a change, which takes effect if it succeeds.
pub(crate) async fn within<T>(
    task: &mut Task<'_>,
    node: NodeId,
    plan: Plan,
    work: impl AsyncFnOnce(&PrivateIo<'_>) -> Result<T>,
) -> Result<T> {
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
