//! The right to write comes from a plan, where permissions are checked; it cannot be made of the right to read.
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::lane::{Lane, Ticket};

fn promote(disk: &Backend<ReadOnly>) -> Backend<ReadWrite> {
    disk.clone() //~ E0308
}

fn convert(disk: Backend<ReadOnly>) -> Backend<ReadWrite> {
    disk.into() //~ E0277
}

async fn enter<'l>(lane: &'l mut Lane, disk: &Backend<ReadOnly>) -> Ticket<'l, ReadWrite> {
    lane.enter(disk).await //~ E0308
}

fn main() {}
