//! Whoever may change one part of the graph does not wait for the right to change another.
use drystone_base::Result;
use drystone_core::control::{StagedPlan, Task};

async fn admit_both(task: &mut Task<'_>, first: StagedPlan, second: StagedPlan) -> Result<()> {
    let first = task.admit(first).await?;
    let second = task.admit(second).await?; //~ E0499
    second.settle().await?.commit().finish().await;
    first.settle().await?.commit().finish().await;
    Ok(())
}

fn main() {}
