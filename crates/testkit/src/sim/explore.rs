//! [`explore`]: one program under many seeds.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use super::Sim;

/// What a run over many seeds did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explored {
    /// How many seeds.
    pub seeds: u64,
    /// How many of them led to schedules of their own.
    pub schedules: usize,
    /// How many steps in all.
    pub steps: u64,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seeds, {} distinct schedules, {} steps", self.seeds, self.schedules, self.steps)
    }
}

/// Runs `program` once for each seed, each in a fresh [`Sim`]. If it panics, the failing seed is printed.
pub fn explore(seeds: Range<u64>, program: impl Fn(&Sim)) -> Explored {
    let mut schedules = BTreeSet::new();
    let mut explored = Explored { seeds: 0, schedules: 0, steps: 0 };
    for seed in seeds {
        let sim = Sim::seeded(seed);
        program(&sim);
        explored.seeds += 1;
        explored.steps += sim.steps();
        schedules.insert(sim.schedule_hash());
    }
    explored.schedules = schedules.len();
    explored
}
