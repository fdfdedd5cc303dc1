//! A job's context is lent to the job's code: no lane, and no way to the control thread, survives the job.
use drystone_core::job::JobCtx;
use drystone_core::lane::Lane;

async fn keep_the_context(job: JobCtx) {
    let _kept: &mut JobCtx = job.run(async |job: &mut JobCtx| job).await; //~ lifetime
}

async fn keep_the_lanes(job: JobCtx) {
    let mut kept: Option<&mut [Lane]> = None;
    job.run(async |job: &mut JobCtx| kept = Some(job.lanes())).await; //~ lifetime
    drop(kept);
}

fn main() {}
