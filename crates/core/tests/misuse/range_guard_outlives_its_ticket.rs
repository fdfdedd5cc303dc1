//! A held range is given back before the request that took it ends.
use drystone_base::{GuestOffset, GuestRange};
use drystone_core::control::Visit;

async fn keep_the_range(visit: Visit<'_>) {
    let guard = visit.io().lock_range(GuestRange::new(GuestOffset::ZERO, 512)).await;
    drop(visit); //~ E0505
    drop(guard);
}

fn main() {}
