//! What a power cut leaves on several disks at once.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use drystone_base::rng::Rng;

use super::Bounds;
use crate::disk::{CrashState, Image, SimDisk, Survivor, Unit};

/// What was found, a survivor for each disk.
#[derive(Debug, Clone)]
pub(super) struct Found(Vec<Survivor>);

/// Which subsets of the unflushed writes of one cut were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coverage {
    /// Of sectors, all.
    EverySector,
    /// Of whole writes, all; of torn ones, some.
    EveryWrite,
    /// Some.
    Sampled,
}

impl Found {
    pub(super) fn images(&self) -> Vec<Image> {
        self.0.iter().map(|one| one.image.clone()).collect()
    }

    pub(super) fn codes(&self) -> String {
        let codes: Vec<&str> = self.0.iter().map(|one| one.code.as_str()).collect();
        codes.join(",")
    }

    /// Of the contents.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.iter().for_each(|one| one.image.hash(&mut hasher));
        hasher.finish()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stories: Vec<&str> = self.0.iter().map(|one| one.story.as_str()).collect();
        f.write_str(&stories.join("; "))
    }
}

/// What could be on `disks`, within `bounds`.
pub(super) fn every_found(disks: &[SimDisk], bounds: Bounds, seed: u64) -> (Vec<Found>, Coverage) {
    let states: Vec<CrashState> = disks.iter().map(SimDisk::crash_state).collect();
    let count = |unit| states.iter().map(|state| state.count_of(unit)).sum::<u64>();
    let every = |unit| product(states.iter().map(|state| state.every_survivor(unit)));
    if count(Unit::Sector) <= bounds.exhaustive_max {
        return (every(Unit::Sector), Coverage::EverySector);
    }
    if count(Unit::Change) <= bounds.exhaustive_max {
        let torn = beside(&states, seed, |state, seed| state.torn_survivors(bounds.torn, seed));
        return (every(Unit::Change).into_iter().chain(torn).collect(), Coverage::EveryWrite);
    }
    let samples = bounds.samples.div_ceil(states.len().max(1));
    (beside(&states, seed, |state, seed| state.survivors(samples, seed).collect()), Coverage::Sampled)
}

/// One thing that could be on `disks`.
pub(super) fn draw_found(disks: &[SimDisk], seed: u64) -> Found {
    let mut rng = Rng::new(seed);
    let drawn = disks.iter().map(|disk| {
        let all: Vec<Survivor> = disk.crash_state().survivors(8, rng.next_u64()).collect();
        let index = rng.index(all.len());
        all.into_iter().nth(index)
    });
    Found(drawn.flatten().collect())
}

/// What was on `disks` according to `codes`.
pub(super) fn recall(disks: &[SimDisk], codes: &str) -> Found {
    Found(disks.iter().zip(codes.split(',')).map(|(disk, code)| disk.crash_state().recall(code)).collect())
}

/// Each with each.
fn product(lists: impl Iterator<Item = Vec<Survivor>>) -> Vec<Found> {
    lists.fold(vec![Found(Vec::new())], |all, list| {
        let with = |found: &Found, one: &Survivor| Found(found.0.iter().chain([one]).cloned().collect());
        all.iter().flat_map(|found| list.iter().map(move |one| with(found, one))).collect()
    })
}

/// Each survivor of one disk beside one of each other disk, at random.
fn beside(
    states: &[CrashState],
    seed: u64,
    survivors: impl Fn(&CrashState, u64) -> Vec<Survivor>,
) -> Vec<Found> {
    let mut rng = Rng::new(seed);
    let each: Vec<Vec<Survivor>> = states
        .iter()
        .map(|state| match survivors(state, rng.next_u64()) {
            none if none.is_empty() => state.survivors(1, 0).collect(),
            some => some,
        })
        .collect();
    let mut found = Vec::new();
    for (index, survivors) in each.iter().enumerate() {
        for survivor in survivors {
            let row = each.iter().enumerate().filter_map(|(other, all)| match other == index {
                true => Some(survivor.clone()),
                false => all.get(rng.index(all.len())).cloned(),
            });
            found.push(Found(row.collect()));
        }
    }
    found
}
