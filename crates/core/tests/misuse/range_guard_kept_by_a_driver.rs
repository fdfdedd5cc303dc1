//! A driver cannot keep a range locked from one request to the next.
use drystone_base::{GuestOffset, GuestRange};
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeGuard;

async fn lock_for_good(io: Io<'_>) -> RangeGuard<'static> {
    io.lock_range(GuestRange::new(GuestOffset::ZERO, 512)).await //~ lifetime
}

fn main() {}
