//! Where the image's own tables are: what no count may give away and no guest may write.
//!
//! ```text
//!   cluster number ──hash──► one bit of a filter: clear ─► no table there, without a lock
//!                                                 set   ─► ask the ordered map
//! ```
//! An image whose tables overlap, or whose data does, is damaged: writing to it would destroy more.
//!
//! Invariant: once collected, the map holds the header, the active L1 table and its L2 tables, the refcount table and its
//! blocks, the table of snapshots and their L1 tables; the L2 tables of snapshots only if that is asked for. Not here:
//! clusters of data, whose overlaps only a check finds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::{Error, Kind, Result};

use super::refs::Run;

/// Bits of the filter for each table that there may be.
const BITS_PER_TABLE: usize = 16;
const WORDS_MIN: usize = 64;
const WORDS_MAX: usize = 1 << 17;
/// A longer table sets all bits of the filter.
const FILTERED_CLUSTERS_MAX: u64 = 4096;

pub(super) struct Owned {
    filter: Box<[AtomicU64]>,
    tables: Mutex<Tables>,
}

/// Numbers of clusters. There can be millions of L2 tables, each in one.
#[derive(Default)]
struct Tables {
    singles: BTreeSet<u64>,
    /// First cluster to the one behind the last.
    runs: BTreeMap<u64, u64>,
    /// L2 tables of internal snapshots, which can be active ones, too.
    inactive: BTreeSet<u64>,
}

impl Tables {
    fn overlap(&self, first: u64, end: u64) -> bool {
        let before_end = self.runs.range(..end).next_back();
        self.singles.range(first..end).next().is_some()
            || before_end.is_some_and(|(_, other_end)| *other_end > first)
    }
}

impl Owned {
    /// Nothing yet; made for about `tables` tables.
    pub(super) fn new(tables: usize) -> Self {
        let words = (tables.saturating_mul(BITS_PER_TABLE) / 64).clamp(WORDS_MIN, WORDS_MAX);
        let filter = (0..words.next_power_of_two()).map(|_| AtomicU64::new(0)).collect();
        Self { filter, tables: Mutex::default() }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self, cluster: u64) -> (&AtomicU64, u64) {
        let hash = cluster.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let index = usize::try_from(hash >> 6).unwrap_or(0) & (self.filter.len() - 1);
        match self.filter.get(index) {
            Some(word) => (word, 1 << (hash & 63)),
            None => unreachable!("a masked number is below the number of words"),
        }
    }

    /// A table is, or will be, at `run`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if there is another one.
    pub(super) fn add(&self, run: Run) -> Result<()> {
        let (first, end) = run.bounds();
        let mut tables = self.tables();
        if tables.overlap(first, end) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("two tables of the image overlap at cluster {first}"),
            ));
        }
        if run.count == 1 {
            tables.singles.insert(first);
        } else {
            tables.runs.insert(first, end);
        }
        if run.count > FILTERED_CLUSTERS_MAX {
            self.filter.iter().for_each(|word| word.store(u64::MAX, Ordering::Release));
            return Ok(());
        }
        for cluster in first..end {
            let (word, bit) = self.word(cluster);
            word.fetch_or(bit, Ordering::Release);
        }
        Ok(())
    }

    /// These, and no others, are the clusters of L2 tables of internal snapshots.
    pub(super) fn set_inactive(&self, clusters: BTreeSet<u64>) {
        for cluster in &clusters {
            let (word, bit) = self.word(*cluster);
            word.fetch_or(bit, Ordering::Release);
        }
        self.tables().inactive = clusters;
    }

    /// The table that starts where `run` does is not one any more.
    pub(super) fn remove(&self, run: Run) {
        let first = run.first.index();
        let mut tables = self.tables();
        if !tables.singles.remove(&first) {
            tables.runs.remove(&first);
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&self) {
        *self.tables() = Tables::default();
        self.filter.iter().for_each(|word| word.store(0, Ordering::Release));
    }

    /// Whether any cluster of `run` holds a table.
    #[inline]
    pub(super) fn holds(&self, run: Run) -> bool {
        let (first, end) = run.bounds();
        let maybe = (first..end).any(|cluster| {
            let (word, bit) = self.word(cluster);
            word.load(Ordering::Acquire) & bit != 0
        });
        let holds = |tables: &Tables| {
            tables.overlap(first, end) || tables.inactive.range(first..end).next().is_some()
        };
        maybe && holds(&self.tables())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::geometry::HostCluster;

    fn run(first: u64, count: u64) -> Run {
        Run { first: HostCluster::new(first), count }
    }

    #[test]
    fn what_overlaps_a_table_is_found() {
        let owned = Owned::new(1);
        owned.add(run(10, 5)).unwrap();
        owned.add(run(20, 1)).unwrap();
        owned.add(run(100, 10_000)).unwrap();
        let held = |first, count| owned.holds(run(first, count));
        assert_eq!([held(9, 1), held(15, 5), held(21, 79), held(10_100, 1)], [false; 4]);
        assert_eq!([held(9, 2), held(14, 1), held(0, 500), held(10_099, 1)], [true; 4]);
        assert_eq!(owned.add(run(12, 1)).unwrap_err().kind(), Kind::Corrupt);
        owned.remove(run(10, 5));
        owned.add(run(12, 1)).unwrap();
        assert!(!held(10, 2));
    }

    #[test]
    fn tables_of_snapshots_may_be_active_ones_and_are_guarded_until_they_are_others() {
        let owned = Owned::new(1);
        owned.add(run(10, 1)).unwrap();
        owned.set_inactive([10, 11].into());
        owned.add(run(11, 1)).unwrap();
        owned.remove(run(10, 1));
        owned.remove(run(11, 1));
        assert!(owned.holds(run(10, 1)) && owned.holds(run(11, 1)));
        owned.set_inactive([11].into());
        assert!(!owned.holds(run(10, 1)) && owned.holds(run(11, 1)));
    }
}
