//! A plan is staged only after its check has allowed the graph that it would make.
use drystone_core::control::{Plan, Task};

async fn stage(task: &mut Task<'_>, plan: Plan) {
    task.stage(plan).await.ok(); //~ E0308
}

fn main() {}
