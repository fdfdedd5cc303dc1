//! No ticket is alive across a sleep: a drain would last as long as the timer.
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::Task;

async fn sleep_inside(task: &mut Task<'_>, disk: &Backend<ReadOnly>) {
    let mut ticket = task.enter(disk).await;
    task.sleep_until(1_000_000_000).await; //~ E0499
    ticket.flush().await.ok();
}

fn main() {}
