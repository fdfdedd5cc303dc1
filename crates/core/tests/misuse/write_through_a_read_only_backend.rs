//! A read-only user has no way to write.
use drystone_base::GuestOffset;
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::lane::Lane;

async fn write(lane: &mut Lane, disk: &Backend<ReadOnly>, buf: Buf) {
    let mut ticket = lane.enter(disk).await;
    ticket.write(GuestOffset::ZERO, buf, Default::default()).await.0.ok(); //~ E0277
    //~ says: cannot change the disk
}

fn main() {}
