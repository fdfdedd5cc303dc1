//! No ticket is alive across a pause point: whoever pauses the job would wait for a request that the pause keeps open.
use drystone_base::Result;
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::job::JobCtx;

async fn pause_inside(job: &mut JobCtx, source: &Backend<ReadOnly>) -> Result<()> {
    let Some(lane) = job.lanes().first_mut() else { return Ok(()) };
    let mut ticket = lane.enter(source).await;
    job.pause_point().await?; //~ E0499
    ticket.flush().await
}

async fn sleep_inside(job: &mut JobCtx, source: &Backend<ReadOnly>) -> Result<()> {
    let Some(lane) = job.lanes().first_mut() else { return Ok(()) };
    let mut ticket = lane.enter(source).await;
    job.sleep_until(1_000_000_000).await?; //~ E0499
    ticket.flush().await
}

fn main() {}
