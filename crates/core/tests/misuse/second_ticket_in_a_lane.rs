//! One lane, one ticket. A second one would wait at a gate behind a drain that waits for the first.
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::lane::Lane;

async fn enter_twice(lane: &mut Lane, disk: &Backend<ReadOnly>) {
    let mut first = lane.enter(disk).await;
    let mut second = lane.enter(disk).await; //~ E0499
    first.flush().await.ok();
    second.flush().await.ok();
}

fn main() {}
