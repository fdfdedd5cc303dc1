//! No ticket is alive while a job is on the control thread: a change over there would wait for it.
use drystone_base::Result;
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::Task;
use drystone_core::job::JobCtx;

async fn hop_inside(job: &mut JobCtx, source: &Backend<ReadOnly>) -> Result<()> {
    let Some(lane) = job.lanes().first_mut() else { return Ok(()) };
    let mut ticket = lane.enter(source).await;
    job.on_control(async |task: &mut Task<'_>| drop(task.drain_all().await)).await?; //~ E0499
    ticket.flush().await
}

fn main() {}
