//! The proof that nobody is inside comes from the change itself, for the nodes that it writes. A drain of other nodes
//! cannot stand in for it.
use drystone_base::Result;
use drystone_core::control::{Settled, StagedPlan, Task};
use drystone_core::graph::node::NodeId;

async fn commit_under_another_drain(task: &mut Task<'_>, staged: StagedPlan, other: NodeId) {
    let quiet = task.drain(&[other]).await;
    staged.commit(&quiet); //~ E0599
}

async fn settle_under_another_drain(task: &mut Task<'_>, staged: StagedPlan, other: NodeId) -> Result<()> {
    let quiet = task.drain(&[other]).await;
    let settled: Settled<'_> = staged.settle(quiet).await?; //~ E0599
    settled.commit().finish().await;
    Ok(())
}

fn main() {}
