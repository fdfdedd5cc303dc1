//! The global state cannot be smuggled out of a control task through something that its closure captured.
use drystone_core::control::{Control, Gs, Task};

async fn smuggle(control: &Control) {
    let mut kept: Option<&Gs> = None;
    control
        .call(async |task: &mut Task<'_>| { //~ E0277
            kept = Some(task.gs());
        })
        .await
        .ok();
    drop(kept);
}

fn main() {}
