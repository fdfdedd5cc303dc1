//! Space for the guest's data in a new image: clusters that are mapped before anybody writes to them.
//! ```text
//!  L1 table | L2 table | its data clusters .. | L2 table | its data clusters .. | ...
//! ```
//! In a data file, every cluster is at its guest offset, and the tables follow each other.
//!
//! Not here: whether the space is reserved in the file system, too; that is for whoever makes the file.

use drystone_base::HostOffset;

use super::Plan;
use crate::qcow2::entry::{Allocated, L2Entry, Mixed, encode_l1};
use crate::qcow2::geometry::ENTRY_BYTES;

/// Most bytes of L2 tables that are computed at once; 2 TiB of disk with the usual clusters.
pub const TABLES_BYTES_MAX: u64 = 256 << 20;

impl Plan {
    /// Clusters behind the L1 table.
    pub(super) const fn mapped_clusters(&self) -> u64 {
        match (self.is_mapped, self.l2.has_data_file()) {
            (false, _) => 0,
            (true, true) => self.l1_entries,
            (true, false) => self.l1_entries + self.cluster.clusters(self.len_guest),
        }
    }

    /// Bytes of L2 tables.
    pub(super) const fn l2_bytes(&self) -> u64 {
        if self.is_mapped { self.l1_entries.saturating_mul(self.cluster.bytes()) } else { 0 }
    }

    /// Where the L2 table with this number is.
    fn l2_at(&self, index: u64) -> HostOffset {
        let first = self.l1_at().plus(self.l1_clusters() * self.cluster.bytes());
        let apart = if self.l2.has_data_file() { 0 } else { self.l2.entries() as u64 };
        first.plus(index * (1 + apart) * self.cluster.bytes())
    }

    /// The L1 table and the L2 tables; nothing if nothing is mapped.
    pub(super) fn mapping(&self) -> Vec<(HostOffset, Vec<u8>)> {
        if !self.is_mapped || self.l1_entries == 0 {
            return Vec::new();
        }
        let only = |at| Allocated { at, copied: true };
        let l1 = (0..self.l1_entries).map(|index| encode_l1(Some(only(self.l2_at(index)))));
        let mut pieces = vec![(self.l1_at(), l1.flat_map(u64::to_be_bytes).collect())];
        let mut left = self.cluster.clusters(self.len_guest);
        for table in 0..self.l1_entries {
            let entries = left.min(self.l2.entries() as u64);
            left -= entries;
            let data = match self.l2.has_data_file() {
                true => HostOffset::new(table * self.l2.span_bytes()),
                false => self.l2_at(table).plus(self.cluster.bytes()),
            };
            let entry = |index: u64| self.mapped_entry(only(data.plus(index * self.cluster.bytes())));
            let bytes = (0..entries).map(entry).flat_map(|entry| self.l2.bytes_of(entry.encode(self.l2)));
            let mut bytes: Vec<u8> = bytes.collect();
            bytes.resize(self.whole(bytes.len()), 0);
            pieces.push((self.l2_at(table), bytes));
        }
        pieces
    }

    /// A cluster that has its place. With subclusters it has nothing there yet, and what the image lies on shows; what is in a
    /// raw data file shows from the start.
    fn mapped_entry(&self, place: Allocated) -> L2Entry {
        let has_subclusters = self.l2.subcluster_bytes() < self.cluster.bytes();
        if has_subclusters && !self.is_data_raw {
            L2Entry::Mixed(Mixed { place: Some(place), data: 0, zero: 0 })
        } else {
            L2Entry::Data(place)
        }
    }

    /// Length of the file in bytes.
    pub(super) fn len_file(&self) -> u64 {
        if self.mapped_clusters() == 0 {
            return self.l1_at().get() + self.l1_entries * ENTRY_BYTES;
        }
        self.total_clusters * self.cluster.bytes()
    }
}
