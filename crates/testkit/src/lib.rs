//! Everything that tests of the block layer stand on: threads, time, disks and misfortune, all from a seed.
//!
//! | module | what |
//! |---|---|
//! | [`sim`] | several threads played on one, a simulated clock, deadlocks and lost wake-ups found |
//! | [`disk`] | simulated devices that delay, reorder, tear, fail, fill up and lose power |
//! | [`model`] | which bytes a disk may hold, under concurrent requests and after a power cut |
//! | [`client`] | requests by hand or at random, every answer checked against the model |
//! | [`graph`] | nodes and users of the block graph on simulated devices |
//! | [`overlay`] | copy on write without a format |
//! | [`allocations`] | how often a thread allocates |
//! | [`crash`] | one workload, cut off or disturbed at each of its operations in turn |
//! | [`pattern`], [`notation`], [`ranges`] | data that says where it belongs; `0..64K` as people write it; maps over ranges |
//!
//! ```
//! use drystone_testkit::disk::{DiskClient, SimDisk};
//! use drystone_testkit::sim::Sim;
//!
//! let sim = Sim::seeded(7);
//! let disk = SimDisk::zeroed(65536, 7);
//! let client = DiskClient::new(disk.clone(), &sim.io(1));
//! sim.block_on(&sim.io(1), client.write(0, b"seven")).unwrap().unwrap();
//! let found: Vec<_> = disk.crash_state().survivors(8, 1).collect();
//! assert_eq!(found.len(), 2, "nothing was flushed, so the write may be there or not");
//! ```
//! Invariant: equal seeds give equal runs. Nothing here reads a clock or a file; the environment says only how many crash
//! points are looked at.
//! Does not know: formats, sockets, the operating system.
#![deny(unsafe_code)]

pub mod allocations;
pub mod client;
pub mod crash;
pub mod disk;
pub mod graph;
pub mod model;
pub mod notation;
pub mod overlay;
pub mod pattern;
pub mod ranges;
pub mod sim;

/// A number of bytes in memory as an index.
///
/// # Panics
/// If it exceeds the address space.
fn index(bytes: u64) -> usize {
    match usize::try_from(bytes) {
        Ok(index) => index,
        Err(_) => panic!("{bytes} bytes exceed the address space"),
    }
}
