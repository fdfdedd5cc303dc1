//! A job reaches the global state inside a closure that runs on the control thread, and brings back plain data only.
use drystone_base::Result;
use drystone_core::control::{Gs, Task};
use drystone_core::job::JobCtx;

async fn keep(job: &mut JobCtx) -> Result<()> {
    let _gs: &'static Gs = job.on_control(async |task: &mut Task<'_>| task.gs()).await?; //~ E0277
    //~ says: is not plain data
    Ok(())
}

fn main() {}
