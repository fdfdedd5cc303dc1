//! A job that has ended has no I/O methods.
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::job::JobCtx;

async fn read_on(mut job: JobCtx, source: &Backend<ReadOnly>) {
    job.run(async |job: &mut JobCtx| job.pause_point().await).await.ok();
    if let Some(lane) = job.lanes().first_mut() { //~ E0382
        lane.enter(source).await.flush().await.ok();
    }
}

fn main() {}
