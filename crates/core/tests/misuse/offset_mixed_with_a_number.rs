//! A number that was read from somewhere is not a position before its limit was checked.
use drystone_base::{GuestOffset, GuestRange};

fn is_inside(at: GuestOffset, len: u64) -> bool {
    at < len //~ E0308
}

fn next(at: GuestOffset, len: u64) -> GuestOffset {
    at + len //~ E0369
}

fn range(start: u64, len: u64) -> GuestRange {
    GuestRange::new(start, len) //~ E0308
}

fn main() {}
