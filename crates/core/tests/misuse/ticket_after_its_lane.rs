//! A ticket lives no longer than its lane.
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::lane::Lane;

async fn drop_the_lane(mut lane: Lane, disk: &Backend<ReadOnly>) {
    let mut ticket = lane.enter(disk).await;
    drop(lane); //~ E0505
    ticket.flush().await.ok();
}

fn main() {}
