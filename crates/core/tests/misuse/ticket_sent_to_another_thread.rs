//! A ticket is counted on the thread that entered, and leaves on it.
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::lane::Lane;

async fn finish_elsewhere(lane: &mut Lane, disk: &Backend<ReadOnly>) {
    let ticket = lane.enter(disk).await;
    std::thread::scope(|scope| {
        scope.spawn(move || drop(ticket)); //~ E0277
        //~ says: StaysOnItsThread
    });
}

fn main() {}
