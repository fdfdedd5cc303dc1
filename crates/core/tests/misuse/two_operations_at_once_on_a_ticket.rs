//! The operations of a ticket run one after the other; parallel ones take forks, each counted.
use drystone_base::GuestOffset;
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::lane::Lane;
use stand_in::join;

async fn read_twice_at_once(lane: &mut Lane, disk: &Backend<ReadOnly>) {
    let mut ticket = lane.enter(disk).await;
    let first = ticket.read(GuestOffset::ZERO, Buf::zeroed(512));
    let second = ticket.read(GuestOffset::new(512), Buf::zeroed(512)); //~ E0499
    join(first, second).await;
}

fn main() {}
