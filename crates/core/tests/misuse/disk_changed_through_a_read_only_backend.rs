//! A read-only user cannot zero, discard or resize either.
use drystone_base::GuestRange;
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::disk::Preallocation;
use drystone_core::lane::Lane;

async fn zero(lane: &mut Lane, disk: &Backend<ReadOnly>, range: GuestRange) {
    lane.enter(disk).await.write_zeroes(range, Default::default()).await.ok(); //~ E0277
    //~ says: this user only reads
}

async fn discard(lane: &mut Lane, disk: &Backend<ReadOnly>, range: GuestRange) {
    lane.enter(disk).await.discard(range).await.ok(); //~ E0277
    //~ says: this user only reads
}

async fn resize(lane: &mut Lane, disk: &Backend<ReadOnly>) {
    lane.enter(disk).await.resize(0, Preallocation::Off).await.ok(); //~ E0277
    //~ says: this user only reads
}

fn main() {}
