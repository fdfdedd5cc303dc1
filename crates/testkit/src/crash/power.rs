//! [`PowerSweep`]: the power goes off at every operation.

use std::fmt;

use drystone_base::rng::Rng;

use super::{Context, disks};
use crate::disk::{Image, SimDisk, Survivor, Timing};
use crate::sim::Sim;

/// A workload that is cut off at each of its operations.
#[derive(Debug, Clone)]
pub struct PowerSweep {
    /// Decides the schedule and what the disks do.
    pub seed: u64,
    /// What the disks hold at first.
    pub images: Vec<Image>,
    /// When operations of the disks end.
    pub timing: Timing,
    /// How many of the things that could be found after one cut are looked at; always none, all and each change lost or
    /// kept alone.
    pub survivors: usize,
    /// At how many operations the power is cut: all, or this many of them at random.
    pub cuts: u64,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Operations of the undisturbed run.
    pub ops: u64,
    /// Runs that were cut off or disturbed.
    pub runs: u64,
    /// Checks that were made.
    pub checks: u64,
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations, {} runs, {} checks", self.ops, self.runs, self.checks)
    }
}

impl PowerSweep {
    /// All operations, 16 survivors each, of a workload on disks that hold `images`.
    #[must_use]
    pub fn new(seed: u64, images: Vec<Image>) -> Self {
        let timing = Timing::Seeded { delay_ns_max: 1_000_000 };
        Self { seed, images, timing, survivors: 16, cuts: u64::MAX }
    }

    /// Runs, cuts and checks. `run` returns what is known at the cut; `check` gets disks with what was found after it.
    ///
    /// # Panics
    /// If `run` or `check` does. The seed, the operation and what was lost are printed then.
    pub fn sweep<T>(
        &self,
        run: impl Fn(&Sim, &[SimDisk]) -> T,
        check: impl Fn(&Sim, &[SimDisk], &T),
    ) -> Swept {
        let mut swept = Swept::default();
        swept.ops = self.cut(u64::MAX, &run, &check, &mut swept);
        let mut rng = Rng::new(self.seed);
        for op in 0..swept.ops {
            // Each operation is chosen with the probability that leaves as many as are wanted.
            if rng.below(swept.ops) < self.cuts {
                self.cut(op, &run, &check, &mut swept);
            }
        }
        swept
    }

    /// One run with the power cut at operation `op` or at the end, and its checks; how many operations it had.
    fn cut<T>(
        &self,
        op: u64,
        run: &impl Fn(&Sim, &[SimDisk]) -> T,
        check: &impl Fn(&Sim, &[SimDisk], &T),
        swept: &mut Swept,
    ) -> u64 {
        let at = if op == u64::MAX { "the end".to_owned() } else { format!("operation {op}") };
        let _context = Context(|| format!("power cut at {at}, sweep seed {}", self.seed));
        let used = disks(&self.images, self.seed, self.timing);
        let Some(power) = used.first().map(SimDisk::power) else { panic!("a sweep needs a disk") };
        power.cut_at(op);
        let known = run(&Sim::seeded(self.seed), &used);
        power.cut();
        swept.runs += 1;
        for found in self.found(&used) {
            let _context = Context(|| found.iter().map(|one| format!("{one}\n")).collect());
            let fresh = used.iter().zip(&found).map(|(disk, one)| disk.reopened(one.image.clone()));
            check(&Sim::seeded(self.seed), &fresh.collect::<Vec<_>>(), &known);
            swept.checks += 1;
        }
        power.ops_begun()
    }

    /// What could be found, a survivor for each disk: each of one disk's beside one of each other's, at random.
    fn found(&self, used: &[SimDisk]) -> Vec<Vec<Survivor>> {
        let mut rng = Rng::new(self.seed);
        let each: Vec<Vec<Survivor>> = used
            .iter()
            .map(|disk| disk.crash_state().survivors(self.survivors, rng.next_u64()).collect())
            .collect();
        let mut found = Vec::new();
        for (index, survivors) in each.iter().enumerate() {
            for survivor in survivors {
                let beside = each.iter().enumerate().filter_map(|(other, all)| match other == index {
                    true => Some(survivor.clone()),
                    false => all.get(rng.index(all.len())).cloned(),
                });
                found.push(beside.collect());
            }
        }
        found
    }
}
