//! Sweeps: one workload, cut short or disturbed at each of its operations in turn.
//!
//! ```text
//!  PowerSweep:  run(disks) with the power cut at op 0, 1, 2, ... and at the end
//!               for each cut, for each thing that could be found on the disks afterwards: check(fresh disks, what run knew)
//!  CrashPoints: the same, with every subset of what was not durable, more work on what was found, and a second cut
//!  FaultSweep:  run(disks) with op 0, 1, 2, ... failing once; check(the same disks, what run knew)
//! ```
//! A test says how to run and how to check; the sweep says when and with what. Both closures get a [`crate::sim::Sim`] and may do
//! anything on it: use the disks as they are, or open nodes on them. `run` must expect its requests to fail, and returns what
//! `check` needs to know, usually a [`crate::model::ByteModel`].
//!
//! Invariant: each run of a sweep takes the same steps up to its cut or fault, so every boundary between two operations is
//! met. A failed check says seed, operation and what was lost.

mod fault;
mod points;
mod power;

pub use fault::FaultSweep;
pub use points::{Bounds, CrashPoints, DEPTH_VARIABLE, POINT_VARIABLE, Points, Subject};
pub use power::{PowerSweep, Swept};

use crate::disk::{DiskOptions, Image, Power, SimDisk, Timing};

/// The disks of one run: one power supply, seeds of their own.
fn disks(images: &[Image], seed: u64, timing: Timing) -> Vec<SimDisk> {
    let power = Power::new();
    let disk = |(index, image): (u64, &Image)| {
        let options = DiskOptions::seeded(seed.wrapping_mul(31).wrapping_add(index));
        let name = format!("disk{index}");
        SimDisk::new(image.clone(), DiskOptions { name, timing, power: power.clone(), ..options })
    };
    (0..).zip(images).map(disk).collect()
}

/// Prints what a panic below it was about.
struct Context<F: Fn() -> String>(F);

impl<F: Fn() -> String> Drop for Context<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", (self.0)());
        }
    }
}
