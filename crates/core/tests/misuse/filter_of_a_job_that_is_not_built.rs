//! A filter is made of a link to its job, and a link is made of a job with its whole state: no write of a guest meets a
//! job that is half built.
use drystone_core::job::{JobCtx, JobLink};

struct MirrorState {
    in_flight: u64,
    granularity: u64,
}

struct MirrorTop {
    job: JobLink<MirrorState>,
}

fn without_a_job(state: MirrorState) -> MirrorTop {
    MirrorTop { job: JobLink::new(state) } //~ E0599
}

fn without_its_state(job: &JobCtx) -> MirrorTop {
    MirrorTop { job: job.show(MirrorState { in_flight: 0 }) } //~ E0063
}

fn with_the_state_to_come(job: &JobCtx) -> MirrorTop {
    MirrorTop { job: job.show(None::<MirrorState>) } //~ E0308
}

fn main() {}
