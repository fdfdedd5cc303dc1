//! [`CrashState`]: everything that could be found on a device after a power cut.
//!
//! ```text
//!  durable image + { op 3: 64K..68K, op 4: length 80K, op 5: 0..1K (in flight) }
//!     -> none, all, each one lost, each one kept, each one torn, the first n, ...: one Survivor for each that differs
//! ```
//! Any subset of the changes that no flush covered may have happened, sector by sector, in the order in which they took
//! effect; a grown length may have survived without its data. With few sectors all subsets are listed; with few changes
//! all subsets of whole changes; beyond that, seeded samples. Each survivor has a code by which it is found again (`fate`).
//!
//! Invariant: the list depends on the state, the limit and the seed only, and no two survivors have the same history.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use drystone_base::rng::Rng;

use super::DiskOptions;
use super::fate::{Fate, Fates};
use super::image::Image;
use super::media::Entry;
use super::op::{Effect, OpIndex};
use crate::notation::show_len;
use crate::ranges::{RangeMap, RangeSet};

/// A durable image and the changes that may or may not have survived with it.
#[derive(Debug, Clone)]
pub struct CrashState {
    base: Image,
    entries: Vec<Entry>,
    /// The length before the cut.
    len: u64,
    sector_bytes: u64,
    disk: String,
}

/// One thing that could be found on the device.
#[derive(Debug, Clone)]
pub struct Survivor {
    /// The contents.
    pub image: Image,
    /// The operations whose changes were lost, wholly or in part.
    pub lost: Vec<OpIndex>,
    /// What happened, for people.
    pub story: String,
    /// What happened, for [`CrashState::recall`].
    pub code: String,
}

/// What a list of survivors has all subsets of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Whole changes: a write is there or not.
    Change,
    /// Sectors: any part of a write may be there.
    Sector,
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.story)
    }
}

/// A change is torn into about this many parts at most.
const PARTS_MAX: u64 = 4096;

/// Which change each byte comes from, and the length: all that two survivors can differ in.
type History = (Vec<(u64, u64, usize)>, u64);

impl CrashState {
    pub(super) fn new(base: Image, entries: Vec<Entry>, len: u64, options: &DiskOptions) -> Self {
        let (sector_bytes, disk) = (options.sector_bytes, options.name.clone());
        Self { base, entries, len, sector_bytes, disk }
    }

    /// How many changes no flush covered. A write that was in flight counts as one or two.
    #[must_use]
    pub fn change_count(&self) -> usize {
        self.entries.len()
    }

    /// How many things can survive or be lost on their own: the logarithm to base 2 of the number of subsets.
    #[must_use]
    pub fn count_of(&self, unit: Unit) -> u64 {
        self.entries.iter().map(|entry| self.width_of(entry, unit)).sum()
    }

    /// What could be found: every subset of units, each also with the length from before the cut if that makes a
    /// difference.
    ///
    /// # Panics
    /// If [`Self::count_of`] units have too many subsets.
    #[must_use]
    pub fn every_survivor(&self, unit: Unit) -> Vec<Survivor> {
        let grown = self.every(unit).map(|fates| Fates { is_len_kept: true, ..fates });
        self.distinct(self.every(unit).chain(grown))
    }

    /// What could be found where writes are torn: the first half of each alone and with everything else, and `drawn` more.
    #[must_use]
    pub fn torn_survivors(&self, drawn: usize, seed: u64) -> Vec<Survivor> {
        let mut rng = Rng::new(seed);
        let more = (0..drawn).map(|_| {
            let mut fate = || match rng.below(3) {
                0 => Fate::Kept,
                1 => Fate::Lost,
                _ => Fate::Torn(rng.next_u64()),
            };
            Fates { each: self.entries.iter().map(|_| fate()).collect(), is_len_kept: false }
        });
        self.distinct(self.halved().chain(more))
    }

    /// What survived according to the `code` of a [`Survivor`] of an equal state.
    ///
    /// # Panics
    /// If it is not one.
    #[must_use]
    pub fn recall(&self, code: &str) -> Survivor {
        match Fates::parse(code) {
            Some(fates) if fates.each.len() == self.entries.len() => {
                self.survivor(&fates, &self.history(&fates))
            }
            _ => panic!("'{code}' does not say what became of {} changes", self.entries.len()),
        }
    }

    fn distinct(&self, all: impl Iterator<Item = Fates>) -> Vec<Survivor> {
        let mut seen = BTreeSet::<History>::new();
        let survivors = all.filter_map(|fates| {
            let history = self.history(&fates);
            seen.insert(history.clone()).then(|| self.survivor(&fates, &history))
        });
        survivors.collect()
    }

    /// What could be found: all of the changes, none of them, all but each one, each one alone; and then more until
    /// there are `limit`.
    pub fn survivors(&self, limit: usize, seed: u64) -> impl Iterator<Item = Survivor> {
        let mut seen = BTreeSet::<History>::new();
        let certain = self.certain().map(|fates| (fates, true));
        let further = self.exhaustive(limit).chain(self.shaped()).chain(self.drawn(limit, seed));
        certain.chain(further.map(|fates| (fates, false))).filter_map(move |(fates, is_certain)| {
            if !is_certain && seen.len() >= limit {
                return None;
            }
            let history = self.history(&fates);
            seen.insert(history.clone()).then(|| self.survivor(&fates, &history))
        })
    }

    fn all(&self, fate: Fate) -> Fates {
        Fates::all(self.entries.len(), fate)
    }

    /// Everything has the fate `rest`, except change `index`.
    fn all_but(&self, index: usize, fate: Fate, rest: Fate) -> Fates {
        let mut fates = self.all(rest);
        if let Some(one) = fates.each.get_mut(index) {
            *one = fate;
        }
        fates
    }

    fn certain(&self) -> impl Iterator<Item = Fates> {
        let ends = [self.all(Fate::Kept), self.all(Fate::Lost)];
        ends.into_iter().chain((0..self.entries.len()).flat_map(move |index| {
            [self.all_but(index, Fate::Lost, Fate::Kept), self.all_but(index, Fate::Kept, Fate::Lost)]
        }))
    }

    /// All subsets of sectors if there are at most `limit`, else all subsets of whole changes if there are.
    fn exhaustive(&self, limit: usize) -> impl Iterator<Item = Fates> {
        let bits_max = u64::from(limit.checked_ilog2().unwrap_or(0).min(20));
        let unit = [Unit::Sector, Unit::Change].into_iter().find(|unit| self.count_of(*unit) <= bits_max);
        let unit = unit.filter(|_| !self.entries.is_empty());
        unit.into_iter().flat_map(|unit| self.every(unit))
    }

    /// Every subset of units. There are so few that this comes to an end.
    fn every(&self, unit: Unit) -> impl Iterator<Item = Fates> {
        let widths: Vec<u64> = self.entries.iter().map(|entry| self.width_of(entry, unit)).collect();
        let bits: u64 = widths.iter().sum();
        assert!(bits < 32, "{bits} changes have too many subsets");
        (0..1_u64 << bits).map(move |mask| {
            let mut rest = mask;
            let each = widths.iter().map(|&width| {
                let (mine, full) = (rest & ((1 << width) - 1), (1 << width) - 1);
                rest >>= width;
                match mine {
                    _ if mine == full => Fate::Kept,
                    0 => Fate::Lost,
                    _ => Fate::Torn(mine),
                }
            });
            Fates { each: each.collect(), is_len_kept: false }
        })
    }

    fn width_of(&self, entry: &Entry, unit: Unit) -> u64 {
        match unit {
            Unit::Change => 1,
            Unit::Sector => u64::from(self.sector_count(entry)),
        }
    }

    /// Shapes that break careless code: in the order of time, torn in the middle, grown without data.
    fn shaped(&self) -> impl Iterator<Item = Fates> {
        let count = self.entries.len();
        let in_order = (1..count).map(move |kept| {
            let each = (0..count).map(|index| if index < kept { Fate::Kept } else { Fate::Lost }).collect();
            Fates { each, is_len_kept: false }
        });
        let grown = self.certain().map(|fates| Fates { is_len_kept: true, ..fates });
        in_order.chain(self.halved()).chain(grown)
    }

    /// Each change torn in the middle, with all others and alone.
    fn halved(&self) -> impl Iterator<Item = Fates> {
        let halves = self.entries.iter().map(|entry| u64::from(self.sector_count(entry) / 2)).enumerate();
        halves.filter(|&(_, half)| half > 0).flat_map(move |(index, half)| {
            let first = Fate::First(half);
            [self.all_but(index, first, Fate::Kept), self.all_but(index, first, Fate::Lost)]
        })
    }

    /// Random fates; more than `limit`, since many are alike.
    fn drawn(&self, limit: usize, seed: u64) -> impl Iterator<Item = Fates> {
        let mut rng = Rng::new(seed);
        (0..limit.saturating_mul(4)).map(move |_| {
            let (kept_of_8, torn_of_8) = (rng.below(9), rng.below(4));
            let mut fate = || match rng.below(8) {
                drawn if drawn < torn_of_8 => Fate::Torn(rng.next_u64()),
                _ if rng.below(8) < kept_of_8 => Fate::Kept,
                _ => Fate::Lost,
            };
            let each = self.entries.iter().map(|_| fate()).collect();
            Fates { each, is_len_kept: rng.one_in(4) }
        })
    }

    /// A change of the length happens as a whole.
    fn sector_count(&self, entry: &Entry) -> u32 {
        match entry.effect {
            Effect::Len(_) => 1,
            _ => u32::try_from(self.sectors(entry).count()).unwrap_or(u32::MAX),
        }
    }

    /// The parts of a change that happen as a whole, each with its number. Of a very large change, parts of several
    /// sectors.
    fn sectors(&self, entry: &Entry) -> impl Iterator<Item = (u64, Range<u64>)> {
        let whole = entry.alive.total_len();
        let sector_bytes = self.sector_bytes.max((whole / PARTS_MAX).next_power_of_two());
        let parts = entry.alive.iter().flat_map(move |(range, ())| {
            let first = range.start - range.start % sector_bytes;
            let starts =
                (0..).map(move |index| first + index * sector_bytes).take_while(move |&at| at < range.end);
            starts.map(move |at| at.max(range.start)..range.end.min(at + sector_bytes))
        });
        (0..).zip(parts)
    }

    /// What is left of a change.
    fn left_of(&self, entry: &Entry, fate: Fate) -> RangeSet {
        let is_taken = |number: u64| match fate {
            Fate::Kept => true,
            Fate::Lost => false,
            Fate::Torn(mask) => mask.rotate_right(u32::try_from(number % 64).unwrap_or(0)) & 1 == 1,
            Fate::First(count) => number < count,
        };
        let mut left = RangeSet::new();
        match (fate, &entry.effect) {
            (Fate::Kept, _) => left = entry.alive.clone(),
            (_, Effect::Len(_)) if is_taken(0) => left = entry.alive.clone(),
            (Fate::Lost, _) | (_, Effect::Len(_)) => {}
            _ => self
                .sectors(entry)
                .filter(|&(number, _)| is_taken(number))
                .for_each(|(_, part)| left.set(part, ())),
        }
        left
    }

    fn history(&self, fates: &Fates) -> History {
        let mut origin = RangeMap::<usize>::new();
        let mut len = self.base.len();
        for (index, (entry, &fate)) in self.entries.iter().zip(&fates.each).enumerate() {
            let left = self.left_of(entry, fate);
            for (part, ()) in left.iter() {
                origin.set(part.clone(), index);
                len = len.max(if matches!(entry.effect, Effect::Len(_)) { 0 } else { part.end });
            }
            if let (Effect::Len(set), false) = (&entry.effect, left.is_empty()) {
                len = *set;
            }
        }
        if fates.is_len_kept {
            len = len.max(self.len);
        }
        origin.clear(len..u64::MAX);
        (origin.iter().map(|(range, &index)| (range.start, range.end, index)).collect(), len)
    }

    fn survivor(&self, fates: &Fates, (origin, len): &History) -> Survivor {
        let mut image = self.base.clone();
        image.set_len(*len);
        for &(start, end, index) in origin {
            if let Some(entry) = self.entries.get(index) {
                entry.apply_part(&mut image, start..end);
            }
        }
        let lost = self.entries.iter().zip(&fates.each).filter(|(_, fate)| **fate != Fate::Kept);
        Survivor {
            image,
            lost: lost.map(|(entry, _)| entry.op).collect(),
            story: self.story(fates),
            code: fates.to_string(),
        }
    }

    fn story(&self, fates: &Fates) -> String {
        let each = self.entries.iter().zip(&fates.each).map(|(entry, fate)| {
            let what = match entry.effect {
                Effect::Len(len) => format!("op {} length {}", entry.op, show_len(len)),
                _ => format!(
                    "op {} {}..{}",
                    entry.op,
                    show_len(entry.bounds().start),
                    show_len(entry.bounds().end)
                ),
            };
            match fate {
                Fate::Kept => format!("{what} kept"),
                Fate::Lost => format!("{what} lost"),
                Fate::Torn(mask) => format!("{what} torn {mask:#x}"),
                Fate::First(count) => format!("{what} first {count} sectors"),
            }
        });
        let length = fates.is_len_kept.then(|| "length kept".to_owned());
        let all: Vec<String> = each.chain(length).collect();
        format!(
            "disk '{}' after the cut: {}",
            self.disk,
            if all.is_empty() { "all durable".into() } else { all.join(", ") }
        )
    }
}
