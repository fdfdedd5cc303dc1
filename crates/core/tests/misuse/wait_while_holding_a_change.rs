//! A task that holds a change has everybody drained: it enters no gate, drains nothing else and does not sleep.
use drystone_base::Result;
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::{StagedPlan, Task};

async fn enter(task: &mut Task<'_>, staged: StagedPlan, disk: &Backend<ReadOnly>) -> Result<()> {
    let change = task.admit(staged).await?;
    task.enter(disk).await.flush().await?; //~ E0499
    change.abort().await;
    Ok(())
}

async fn drain(task: &mut Task<'_>, staged: StagedPlan) -> Result<()> {
    let change = task.admit(staged).await?;
    drop(task.drain_all().await); //~ E0499
    change.abort().await;
    Ok(())
}

async fn sleep(task: &mut Task<'_>, staged: StagedPlan) -> Result<()> {
    let change = task.admit(staged).await?;
    task.sleep_until(1_000_000_000).await; //~ E0499
    change.abort().await;
    Ok(())
}

fn main() {}
