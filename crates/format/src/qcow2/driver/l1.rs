//! The active L1 table in memory, read without a lock.
//!
//! Invariant: an entry that differs from the table on disk is in the list of those before anybody can see it, so a round of
//! storing that begins after somebody used an entry writes it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::segments::Segments;

pub(super) struct L1 {
    entries: Segments<AtomicU64>,
    len: AtomicUsize,
    /// Entries that differ from the table on disk.
    dirty: Mutex<BTreeSet<usize>>,
}

impl L1 {
    pub(super) fn new(entries: Vec<u64>) -> Self {
        Self {
            len: AtomicUsize::new(entries.len()),
            entries: Segments::new(entries.into_iter().map(AtomicU64::new)),
            dirty: Mutex::default(),
        }
    }

    fn dirty(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries the table has.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// The entry at `index`; 0 past the end.
    #[inline]
    pub(super) fn raw(&self, index: usize) -> u64 {
        self.entries.get(index).map_or(0, |entry| entry.load(Ordering::Acquire))
    }

    /// All entries.
    pub(super) fn raws(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.len()).map(|index| self.raw(index))
    }

    /// Changes an entry.
    pub(super) fn set(&self, index: usize, raw: u64) {
        let mut dirty = self.dirty();
        let entry = if index < self.len() { self.entries.get(index) } else { None };
        let Some(entry) = entry else { panic!("no L1 entry {index} for a new table") };
        dirty.insert(index);
        entry.store(raw, Ordering::Release);
    }

    /// The table has got `len` entries.
    pub(super) fn grow(&self, len: usize) {
        if let Some(last) = len.checked_sub(1) {
            self.entries.grow_to(last);
        }
        self.len.fetch_max(len, Ordering::AcqRel);
    }

    /// Starts again with another table. Nothing is dirty and nobody is inside.
    pub(super) fn reset(&self, entries: &[u64]) {
        let old_len = self.len();
        self.grow(entries.len());
        for index in 0..old_len.max(entries.len()) {
            if let Some(entry) = self.entries.get(index) {
                entry.store(entries.get(index).copied().unwrap_or(0), Ordering::Release);
            }
        }
        self.dirty().clear();
        self.len.store(entries.len(), Ordering::Release);
    }

    /// Takes the dirty entries: index and value.
    pub(super) fn take_dirty(&self) -> Vec<(usize, u64)> {
        let mut dirty = self.dirty();
        std::mem::take(&mut *dirty).into_iter().map(|index| (index, self.raw(index))).collect()
    }

    /// Entries that could not be written.
    pub(super) fn dirty_again(&self, entries: &[(usize, u64)]) {
        self.dirty().extend(entries.iter().map(|(index, _)| *index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_grows_shrinks_and_remembers_what_changed() {
        let l1 = L1::new(vec![1, 2]);
        l1.grow(300);
        l1.set(299, 7);
        l1.set(0, 8);
        assert_eq!((l1.len(), l1.raw(1), l1.raw(299), l1.raw(300)), (300, 2, 7, 0));
        let taken = l1.take_dirty();
        assert_eq!(taken, [(0, 8), (299, 7)]);
        assert!(l1.take_dirty().is_empty());
        l1.dirty_again(&taken);
        assert_eq!(l1.take_dirty(), taken);
        l1.reset(&[5]);
        assert_eq!(l1.raws().collect::<Vec<_>>(), [5]);
        assert_eq!(l1.raw(299), 0);
        l1.grow(300);
        assert_eq!(l1.raw(299), 0, "what was there is not seen again");
    }
}
