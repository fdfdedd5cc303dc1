//! A forked ticket needs a lane of its own.
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::lane::Lane;

async fn fork_in_place(lane: &mut Lane, disk: &Backend<ReadOnly>) {
    let mut ticket = lane.enter(disk).await;
    let mut part = ticket.fork(lane); //~ E0499
    part.flush().await.ok();
    ticket.flush().await.ok();
}

fn main() {}
