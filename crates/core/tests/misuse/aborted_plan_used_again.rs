//! What was aborted, dropped or handed on is gone: it cannot be committed later, on a graph that has moved on.
use drystone_base::Result;
use drystone_core::control::{Change, Plan, Settled, StagedPlan, Task};

async fn undone(task: &mut Task<'_>, staged: StagedPlan) -> Result<()> {
    staged.undo().await;
    task.admit(staged).await?.abort().await; //~ E0382
    Ok(())
}

fn dropped(settled: Settled<'_>) {
    drop(settled);
    settled.commit(); //~ E0382
}

async fn aborted(change: Change<'_>) -> Result<()> {
    change.abort().await;
    change.settle().await?.commit().finish().await; //~ E0382
    Ok(())
}

async fn applied(task: &mut Task<'_>, plan: Plan) -> Result<()> {
    task.apply(plan).await?;
    task.apply(plan).await //~ E0382
}

fn main() {}
