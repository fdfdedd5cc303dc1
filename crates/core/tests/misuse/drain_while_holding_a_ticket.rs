//! A task cannot drain while it holds a ticket: the drain would wait for the task's own request.
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::Task;
use drystone_core::graph::node::NodeId;

async fn drain_from_inside(task: &mut Task<'_>, disk: &Backend<ReadOnly>, node: NodeId) {
    let mut ticket = task.enter(disk).await;
    let quiet = task.drain(&[node]).await; //~ E0499
    ticket.flush().await.ok();
    drop(quiet);
}

fn main() {}
