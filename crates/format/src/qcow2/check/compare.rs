//! The refcount table and blocks: clusters like others, and what they say about all clusters.
//!
//! Invariant: only clusters of the file are compared. Where neither a refcount nor a reference exists, nothing is
//! looked at one by one, so that empty parts of a file cost a scan for zeroes at most.
//! Not here: counting references ([`super::walk`]).

use std::ops::Range;

use drystone_base::HostOffset;

use super::count::CHUNK;
use super::finding::{Finding, Structure};
use super::reader::Source;
use super::{Check, CheckError, Claims};
use crate::qcow2::geometry::{ENTRY_BYTES, HostCluster};
use crate::qcow2::refcount::{TableEntryError, parse_table_entry};

/// Spec "Host cluster management": bits 0-8 of a refcount table entry are reserved.
const BLOCK_OFFSET: u64 = !0x1ff;

/// What is compared with the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    /// The references, and what they claim.
    All,
    /// How many references there are.
    Counts,
    /// What the references claim.
    Claims,
}

impl<S: Source, F: FnMut(&Finding)> Check<'_, S, F> {
    /// The refcount table and blocks: counts references to them. Returns the entries that count clusters of the file.
    pub(super) async fn walk_refcounts(&mut self) -> Result<Vec<u64>, CheckError> {
        let table = self.header.refcounts();
        let len_bytes = u64::from(table.clusters) * self.cluster.bytes();
        self.refer(Structure::RefcountTable, table.at, len_bytes, 1)?;
        let entries = len_bytes / ENTRY_BYTES;
        let needed = self.clusters.div_ceil(self.header.width().per_block(self.cluster) as u64);
        let (mut used, mut index) = (Vec::new(), 0);
        loop {
            let read = self.reader.read_entries(table.at, entries, index).await;
            let window = read.map_err(|error| CheckError::Read(Structure::RefcountTable, error))?;
            if window.is_empty() {
                return Ok(used);
            }
            for raw in window {
                self.walk_refcount_entry(index, raw)?;
                if index < needed {
                    self.counters.memory().take(size_of::<u64>())?;
                    used.push(raw);
                }
                index += 1;
            }
        }
    }

    fn walk_refcount_entry(&mut self, index: u64, raw: u64) -> Result<(), CheckError> {
        let at = match parse_table_entry(raw, self.cluster) {
            Ok(None) => return Ok(()),
            Ok(Some(at)) if self.cluster.host_cluster(at).index() < self.clusters => at,
            Ok(Some(_)) | Err(TableEntryError::OutOfRange(_)) => {
                self.damage.needs_care = true;
                self.report(&Finding::RefcountBlockOutside { index, at: raw }, 1);
                return Ok(());
            }
            Err(error) => {
                self.damage.needs_rebuild = true;
                self.report(&Finding::RefcountTable(error), 1);
                return Ok(());
            }
        };
        self.refer(Structure::RefcountBlock, at, self.cluster.bytes(), 1)?;
        let references = self.counters.get(self.cluster.host_cluster(at)).references;
        if references != 1 {
            self.damage.needs_rebuild = true;
            self.report(&Finding::RefcountBlockShared { index, references }, 1);
        }
        Ok(())
    }

    /// Compares the counts with the references. `table` is what [`Self::walk_refcounts`] returned.
    pub(super) async fn compare(&mut self, table: &[u64], what: Compare) -> Result<(), CheckError> {
        let per_block = self.header.width().per_block(self.cluster) as u64;
        let mut last = (HostOffset::ZERO, Vec::new());
        let mut first = 0;
        for (index, &raw) in table.iter().enumerate() {
            let clusters = per_block.min(self.clusters - first);
            let before = self.outcome;
            match self.load_block(raw, &mut last).await {
                Ok(()) => self.compare_range(first, clusters, &last.1, what),
                Err(error) => {
                    self.damage.needs_care = true;
                    if what == Compare::Claims {
                        first += clusters;
                        continue; // Reported with the counts.
                    }
                    let first = HostCluster::new(first);
                    self.report(&Finding::CountsUnreadable { first, clusters, error }, clusters);
                }
            }
            if (before.corruptions, before.leaks) != (self.outcome.corruptions, self.outcome.leaks) {
                self.damage.differing.push(index);
            }
            first += clusters;
        }
        self.compare_range(first, self.clusters - first, &[], what);
        if what != Compare::Counts {
            self.compare_outside().await?;
        }
        self.outcome.image_end_offset = self.outcome.image_end_offset.max(self.cluster.bytes());
        Ok(())
    }

    /// Compares what is claimed about clusters behind the end of the file with the counts that are stored for them.
    async fn compare_outside(&mut self) -> Result<(), CheckError> {
        self.look_up_outside().await?;
        for (index, claims) in std::mem::take(&mut self.outside) {
            let cluster = HostCluster::new(index);
            let Claims { writable, shared, stored } = claims;
            if stored == 1 && shared > 0 {
                self.report(&Finding::OnlyReference { cluster, times: shared }, shared);
            }
            if stored != 1 && writable > 0 {
                self.report(&Finding::NotTheOnlyReference { cluster, stored, times: writable }, writable);
            }
        }
        Ok(())
    }

    /// Looks up the counts that are stored for clusters behind the end of the file; 0 where that cannot be read.
    pub(super) async fn look_up_outside(&mut self) -> Result<(), CheckError> {
        let (table, width) = (self.header.refcounts(), self.header.width());
        let entries = u64::from(table.clusters) * self.cluster.bytes() / ENTRY_BYTES;
        let (mut last_entry, mut block) = ((u64::MAX, 0), (HostOffset::ZERO, Vec::new()));
        for (index, mut claims) in std::mem::take(&mut self.outside) {
            let place = width.place(self.cluster, HostCluster::new(index));
            if place.table_index != last_entry.0 {
                let inside = place.table_index < entries;
                let wanted = if inside { place.table_index + 1 } else { 0 };
                let read = self.reader.read_entries(table.at, wanted, place.table_index).await;
                let raw = read.ok().and_then(|entries| entries.first().copied());
                last_entry = (place.table_index, raw.unwrap_or(0));
            }
            if self.load_block(last_entry.1, &mut block).await.is_ok() {
                claims.stored = width.get(&block.1, place.block_index).unwrap_or(0);
            }
            self.outside.insert(index, claims);
        }
        Ok(())
    }

    /// Loads the block that a table entry points to, unless it is the one that was loaded last. Empty if there is none.
    pub(super) async fn load_block(
        &mut self,
        raw: u64,
        last: &mut (HostOffset, Vec<u8>),
    ) -> Result<(), String> {
        let at = raw & BLOCK_OFFSET;
        if at & (self.cluster.bytes() - 1) != 0 {
            return Err(TableEntryError::Misaligned(raw).to_string());
        }
        let at = HostOffset::checked(at).ok_or_else(|| TableEntryError::OutOfRange(raw).to_string())?;
        if last.0 != at {
            // Forgotten first: what a failed read leaves is no block.
            *last = (HostOffset::ZERO, Vec::new());
            if at != HostOffset::ZERO && at.get() < self.reader.len_file() {
                let read = self.reader.read(at, self.cluster.buffer_len()).await;
                *last = (at, read.map_err(|error| error.report())?);
            }
        }
        Ok(())
    }

    /// Compares the clusters from `first` on with a block's counts, or with nothing if `block` is empty.
    fn compare_range(&mut self, first: u64, clusters: u64, block: &[u8], what: Compare) {
        let (mut index, end) = (first, first + clusters);
        while index < end {
            let next = end.min((index / CHUNK as u64 + 1) * CHUNK as u64);
            self.compare_chunk(index..next, index - first, block, what);
            index = next;
        }
    }

    /// Compares clusters of one chunk; the first of them has the count `in_block`.
    fn compare_chunk(&mut self, clusters: Range<u64>, in_block: u64, block: &[u8], what: Compare) {
        let Range { start: from, end: to } = clusters;
        let width = self.header.width();
        let bit = |count: u64| usize::try_from(count << width.order()).unwrap_or(usize::MAX);
        let counts = block.get(bit(in_block) / 8..).unwrap_or_default();
        let counts = counts.get(..bit(to - from).div_ceil(8)).unwrap_or(counts);
        let slot = usize::try_from(from / CHUNK as u64).unwrap_or(usize::MAX);
        if self.counters.chunk(slot).is_none() && counts.iter().all(|&byte| byte == 0) {
            return;
        }
        for (index, cluster) in (from..to).enumerate() {
            let stored = width.get(counts, index).unwrap_or(0);
            self.compare_cluster(HostCluster::new(cluster), stored, what);
        }
    }

    fn compare_cluster(&mut self, cluster: HostCluster, stored: u64, what: Compare) {
        let count = self.counters.get(cluster);
        if stored == 0 && count.references == 0 {
            return;
        }
        self.outcome.image_end_offset = (cluster.index() + 1) * self.cluster.bytes();
        let references = count.references;
        if stored != references && what != Compare::Claims {
            self.damage.needs_rebuild |= stored == 0;
            self.report(&Finding::Count { cluster, stored, references }, 1);
        }
        if what == Compare::Counts {
            return;
        }
        let (shared, writable) = (count.shared, count.writable);
        if stored == 1 && shared > 0 {
            self.report(&Finding::OnlyReference { cluster, times: shared }, shared);
        }
        if stored != 1 && writable > 0 {
            self.report(&Finding::NotTheOnlyReference { cluster, stored, times: writable }, writable);
        }
    }
}
