//! A position on the disk that a guest sees is not a position in a file: crossing over needs a mapping.
use drystone_base::{GuestOffset, HostOffset};
use drystone_core::driver::{Place, Tail};
use drystone_core::graph::node::ChildKey;

fn store_at_the_guests_position(at: GuestOffset) -> Place {
    Place::Child { child: ChildKey::File, at, tail: Tail::Zeroes, transparent: false } //~ E0308
}

fn is_same(guest: GuestOffset, host: HostOffset) -> bool {
    guest == host //~ E0308
}

fn main() {}
