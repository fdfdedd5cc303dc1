//! One task, one ticket, for the same reason as in a lane.
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::Task;

async fn enter_twice(task: &mut Task<'_>, disk: &Backend<ReadOnly>) {
    let mut first = task.enter(disk).await;
    let mut second = task.enter(disk).await; //~ E0499
    first.flush().await.ok();
    second.flush().await.ok();
}

fn main() {}
