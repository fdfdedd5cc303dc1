//! Slices of L2 tables in memory.
//!
//! ```text
//!   number ──hash──► set ──► [ (number, entries) | (number, entries) | ... ]      a lock for each set
//! ```
//! Entries are atomics. They are read and changed only while their slice is found in its set, under the set's lock for
//! reading, which eviction takes for writing: nobody changes a slice that has left.
//!
//! Invariants: a slice that is dirty or being written stays, so a set can exceed its bound while all of it is (writers
//! store when half of the cache is dirty); a number is in the list of dirty ones or about to be, if its slice is dirty.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use drystone_base::{GuestOffset, GuestRange, HostOffset};

/// Slices in a set of a cache that is not reopened with another size.
const WAYS: usize = 8;
/// Most sets.
const SETS_MAX: usize = 1024;
/// Fewest slices in memory.
const SLICES_MIN: usize = 4;

/// The number of a slice: of all slices of all L2 tables, in the order of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SliceId(pub(super) u64);

impl SliceId {
    /// The number, for range locks.
    pub(super) fn range(self) -> GuestRange {
        GuestRange::new(GuestOffset::new(self.0), 1)
    }
}

/// Some of an L2 table's entries.
pub(super) struct Slice {
    entries: Box<[AtomicU64]>,
    state: Mutex<SliceState>,
    used: AtomicBool,
}

#[derive(Default)]
struct SliceState {
    dirty: bool,
    writing: bool,
}

/// A slice as it was at one moment, for being written.
pub(super) struct SliceImage {
    pub(super) id: SliceId,
    pub(super) at: HostOffset,
    pub(super) bytes: Vec<u8>,
}

/// What came of an attempt to change entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    Done,
    /// The entries are not what was expected.
    Changed,
    /// The slice is not in memory.
    Absent,
}

type Set = Vec<(SliceId, Slice)>;

/// The slices of one image.
pub(super) struct Slices {
    sets: Box<[RwLock<Set>]>,
    /// Most slices of a set.
    ways: AtomicUsize,
    dirty: Mutex<BTreeSet<SliceId>>,
    dirty_count: AtomicUsize,
}

impl Slices {
    /// A cache for about `slices_max` slices.
    pub(super) fn new(slices_max: usize) -> Self {
        let sets = (slices_max / WAYS).clamp(1, SETS_MAX);
        let sets = if sets.is_power_of_two() { sets } else { sets.next_power_of_two() / 2 };
        let slices = Self {
            sets: (0..sets).map(|_| RwLock::default()).collect(),
            ways: AtomicUsize::new(0),
            dirty: Mutex::default(),
            dirty_count: AtomicUsize::new(0),
        };
        slices.set_max(slices_max);
        slices
    }

    /// Changes the bound; slices that are too many leave when others come.
    pub(super) fn set_max(&self, slices_max: usize) {
        let ways = slices_max.max(SLICES_MIN).div_ceil(self.sets.len());
        self.ways.store(ways, Ordering::Relaxed);
    }

    /// Most slices in memory, unless more are dirty.
    pub(super) fn max(&self) -> usize {
        self.ways.load(Ordering::Relaxed) * self.sets.len()
    }

    fn set(&self, id: SliceId) -> &RwLock<Set> {
        let hash = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let index = usize::try_from(hash).unwrap_or(0) & (self.sets.len() - 1);
        match self.sets.get(index) {
            Some(set) => set,
            None => unreachable!("a masked number is below the number of sets"),
        }
    }

    fn read(&self, id: SliceId) -> RwLockReadGuard<'_, Set> {
        self.set(id).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a slice, if it is in memory.
    #[inline]
    pub(super) fn with<R>(&self, id: SliceId, look: impl FnOnce(&Slice) -> R) -> Option<R> {
        let set = self.read(id);
        let (_, slice) = set.iter().find(|(known, _)| *known == id)?;
        if !slice.used.load(Ordering::Relaxed) {
            slice.used.store(true, Ordering::Relaxed);
        }
        Some(look(slice))
    }

    /// Whether a slice is in memory.
    pub(super) fn has(&self, id: SliceId) -> bool {
        self.with(id, |_| ()).is_some()
    }

    /// Brings a slice in that is not there.
    pub(super) fn insert(&self, id: SliceId, entries: impl Iterator<Item = u64>) {
        let entries = entries.map(AtomicU64::new).collect();
        let slice = Slice { entries, state: Mutex::default(), used: AtomicBool::new(false) };
        let ways = self.ways.load(Ordering::Relaxed);
        let mut set = self.set(id).write().unwrap_or_else(PoisonError::into_inner);
        while set.len() >= ways && evict_one(&mut set) {}
        set.push((id, slice));
    }

    /// Forgets everything. Nothing is dirty and nobody is inside.
    pub(super) fn clear(&self) {
        for set in &self.sets {
            set.write().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn dirty(&self) -> MutexGuard<'_, BTreeSet<SliceId>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_dirty(&self, id: SliceId) {
        let mut dirty = self.dirty();
        dirty.insert(id);
        self.dirty_count.store(dirty.len(), Ordering::Relaxed);
    }

    fn take_dirty_ids(&self) -> BTreeSet<SliceId> {
        let mut dirty = self.dirty();
        self.dirty_count.store(0, Ordering::Relaxed);
        std::mem::take(&mut dirty)
    }

    /// Whether so much is dirty that it should be stored before more is.
    pub(super) fn wants_store(&self) -> bool {
        self.dirty_count.load(Ordering::Relaxed) * 2 > self.max()
    }

    /// Replaces entries from `index` on, if they are still `expected`.
    pub(super) fn publish(&self, id: SliceId, index: usize, expected: &[u64], new: &[u64]) -> Published {
        let change = |slice: &Slice| {
            let mut state = slice.state();
            let places = slice.entries.get(index..index + new.len()).unwrap_or_default();
            let same = places.len() == expected.len()
                && places.iter().zip(expected).all(|(place, raw)| place.load(Ordering::Acquire) == *raw);
            if !same {
                return Published::Changed;
            }
            for (place, raw) in places.iter().zip(new) {
                place.store(*raw, Ordering::Release);
            }
            if !std::mem::replace(&mut state.dirty, true) {
                self.note_dirty(id);
            }
            Published::Done
        };
        self.with(id, change).unwrap_or(Published::Absent)
    }

    /// Copies every dirty slice as it is now, with the place that `place` says it has. Until [`Self::stored`] it stays in
    /// memory.
    pub(super) fn take_dirty(&self, place: impl Fn(SliceId) -> Option<HostOffset>) -> Vec<SliceImage> {
        let ids = self.take_dirty_ids();
        let mut images = Vec::with_capacity(ids.len());
        for id in ids {
            let at = place(id);
            assert!(at.is_some(), "a slice without a table was changed");
            let Some(at) = at else { continue };
            self.with(id, |slice| {
                let mut state = slice.state();
                state.dirty = false;
                state.writing = true;
                images.push(SliceImage { id, at, bytes: slice.bytes() });
            });
        }
        images
    }

    /// A taken slice is on disk, or could not be written and is dirty again.
    pub(super) fn stored(&self, id: SliceId, ok: bool) {
        self.with(id, |slice| {
            let mut state = slice.state();
            state.writing = false;
            if !ok && !std::mem::replace(&mut state.dirty, true) {
                self.note_dirty(id);
            }
        });
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.sets.iter().map(|set| set.read().unwrap().len()).sum()
    }
}

/// Takes out a slice that is clean and was not used lately; `false` if there is none.
fn evict_one(set: &mut Set) -> bool {
    let idle = |slice: &Slice| {
        let state = slice.state();
        !state.dirty && !state.writing
    };
    let second_chance = |slice: &Slice| slice.used.swap(false, Ordering::Relaxed);
    let unused = set.iter().position(|(_, slice)| idle(slice) && !second_chance(slice));
    let victim = unused.or_else(|| set.iter().position(|(_, slice)| idle(slice)));
    victim.is_some_and(|index| {
        set.remove(index);
        true
    })
}

impl Slice {
    fn state(&self) -> MutexGuard<'_, SliceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry at `index`; 0 past the end.
    #[inline]
    pub(super) fn raw(&self, index: usize) -> u64 {
        self.entries.get(index).map_or(0, |entry| entry.load(Ordering::Acquire))
    }

    /// Up to `count` entries from `index` on.
    pub(super) fn raws(&self, index: usize, count: usize) -> impl Iterator<Item = u64> + '_ {
        let some = self.entries.get(index..).unwrap_or_default();
        some.iter().take(count).map(|entry| entry.load(Ordering::Acquire))
    }

    fn bytes(&self) -> Vec<u8> {
        self.raws(0, usize::MAX).flat_map(u64::to_be_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(slices_max: usize, count: u64) -> Slices {
        let slices = Slices::new(slices_max);
        (0..count).for_each(|id| slices.insert(SliceId(id), 0..4));
        slices
    }

    #[test]
    fn clean_slices_leave_when_others_come() {
        for slices_max in [0, 1, 4, 5, 64, 100, 8192] {
            let slices = filled(slices_max, 20_000);
            assert!(slices.count() <= slices.max(), "{slices_max}");
            assert!(slices.max() <= slices_max.max(SLICES_MIN) + slices.sets.len(), "{slices_max}");
            assert!(slices.has(SliceId(19_999)), "{slices_max}");
        }
    }

    #[test]
    fn a_slice_that_is_looked_at_outlives_others() {
        let slices = filled(4, 4);
        for id in 4..100 {
            slices.insert(SliceId(id), 0..4);
            assert!(slices.has(SliceId(3)), "{id}");
        }
    }

    #[test]
    fn dirty_slices_stay_until_they_are_stored() {
        let slices = filled(4, 0);
        for id in 0..16 {
            slices.insert(SliceId(id), 0..4);
            assert_eq!(slices.publish(SliceId(id), 1, &[1, 2], &[7, 8]), Published::Done);
        }
        assert!(slices.wants_store());
        assert_eq!(slices.count(), 16);
        let taken = slices.take_dirty(|_| Some(HostOffset::ZERO));
        assert_eq!(taken.len(), 16);
        slices.insert(SliceId(16), 0..4);
        assert_eq!(slices.count(), 17, "slices that are being written stay");
        taken.iter().for_each(|image| slices.stored(image.id, image.id != SliceId(2)));
        slices.insert(SliceId(17), 0..4);
        assert!(slices.count() <= slices.max());
        assert_eq!(slices.with(SliceId(2), |slice| slice.raw(2)), Some(8), "dirty again");
        assert_eq!(slices.take_dirty(|_| Some(HostOffset::ZERO)).len(), 1);
    }

    #[test]
    fn entries_that_are_not_as_expected_are_not_changed() {
        let slices = filled(4, 1);
        assert_eq!(slices.publish(SliceId(0), 0, &[0, 2], &[7, 7]), Published::Changed);
        assert_eq!(slices.publish(SliceId(0), 3, &[3, 4], &[7, 7]), Published::Changed, "past the end");
        assert_eq!(slices.publish(SliceId(1), 0, &[0], &[7]), Published::Absent);
        assert!(slices.take_dirty(|_| None).is_empty());
    }
}
