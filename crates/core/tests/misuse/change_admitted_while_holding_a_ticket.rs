//! A task cannot wait for the right to change, and for the drain behind it, while it holds a ticket.
use drystone_base::Result;
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::{Plan, StagedPlan, Task};

async fn admit(task: &mut Task<'_>, disk: &Backend<ReadOnly>, staged: StagedPlan) -> Result<()> {
    let mut ticket = task.enter(disk).await;
    let change = task.admit(staged).await?; //~ E0499
    ticket.flush().await?;
    change.abort().await;
    Ok(())
}

async fn apply(task: &mut Task<'_>, disk: &Backend<ReadOnly>, plan: Plan) -> Result<()> {
    let mut ticket = task.enter(disk).await;
    task.apply(plan).await?; //~ E0499
    ticket.flush().await
}

fn main() {}
