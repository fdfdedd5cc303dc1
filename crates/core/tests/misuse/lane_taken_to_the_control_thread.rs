//! A lane stays on its thread, also when a job goes to the control thread.
use drystone_base::Result;
use drystone_core::control::Task;
use drystone_core::job::JobCtx;
use drystone_core::lane::Lane;

async fn take_along(job: &mut JobCtx, lane: Lane) -> Result<()> {
    job.on_control(async move |_task: &mut Task<'_>| { //~ E0277
        //~ says: `Lane`
        drop(lane);
    })
    .await
}

fn main() {}
