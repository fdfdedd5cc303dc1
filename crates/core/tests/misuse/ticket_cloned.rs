//! A ticket is one request; `fork` counts another one.
use drystone_core::backend::ReadOnly;
use drystone_core::lane::Ticket;

fn double<'l>(ticket: &Ticket<'l, ReadOnly>) -> Ticket<'l, ReadOnly> {
    ticket.clone() //~ E0308
}

fn main() {}
