//! A job never holds the global state: what it sends to the control thread crosses threads, and so must be `Send`.
use std::rc::Rc;

use drystone_base::Result;
use drystone_core::control::{Gs, Task};
use drystone_core::job::JobCtx;

async fn bring_it_along(job: &mut JobCtx, gs: Rc<Gs>) -> Result<usize> {
    job.on_control(async move |_task: &mut Task<'_>| gs.with(|graph| graph.nodes().len())).await //~ E0277
}

fn main() {}
