//! [`FaultSweep`]: every operation fails once.

use super::{Context, Swept, disks};
use crate::disk::{Fault, FaultEffect, Image, SimDisk, Timing};
use crate::sim::Sim;

/// A workload each of whose operations fails in a run of its own.
#[derive(Debug, Clone)]
pub struct FaultSweep {
    /// Decides the schedule and what the disks do.
    pub seed: u64,
    /// What the disks hold at first.
    pub images: Vec<Image>,
    /// When operations of the disks end.
    pub timing: Timing,
    /// How they fail.
    pub effect: FaultEffect,
}

impl FaultSweep {
    /// All operations of a workload on disks that hold `images`.
    #[must_use]
    pub fn new(seed: u64, images: Vec<Image>, effect: FaultEffect) -> Self {
        Self { seed, images, timing: Timing::Seeded { delay_ns_max: 1_000_000 }, effect }
    }

    /// Runs and checks. `check` gets the disks as the run has left them, with no fault any more.
    ///
    /// # Panics
    /// If `run` or `check` does. The seed and the operation are printed then.
    pub fn sweep<T>(
        &self,
        run: impl Fn(&Sim, &[SimDisk]) -> T,
        check: impl Fn(&Sim, &[SimDisk], &T),
    ) -> Swept {
        let mut swept = Swept::default();
        for op in 0.. {
            swept.ops = self.disturb(op, &run, &check);
            swept.runs += 1;
            swept.checks += 1;
            if swept.ops <= op {
                break;
            }
        }
        swept
    }

    /// One run in which operation `op` fails, and its check; how many operations the run had.
    fn disturb<T>(
        &self,
        op: u64,
        run: &impl Fn(&Sim, &[SimDisk]) -> T,
        check: &impl Fn(&Sim, &[SimDisk], &T),
    ) -> u64 {
        let _context = Context(|| format!("{:?} at operation {op}, sweep seed {}", self.effect, self.seed));
        let used = disks(&self.images, self.seed, self.timing);
        used.iter().for_each(|disk| disk.inject(Fault::at(op, self.effect)));
        let known = run(&Sim::seeded(self.seed), &used);
        used.iter().for_each(SimDisk::clear_faults);
        let ops = used.first().map_or(0, |disk| disk.power().ops_begun());
        check(&Sim::seeded(self.seed), &used, &known);
        ops
    }
}
