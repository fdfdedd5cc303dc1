//! "Copied" flags: set where a count is one, nowhere else.
//!
//! Invariant: counts are right, so the references that were counted stand for them; behind the end of the file, where
//! nothing was counted, stored counts are looked up. Flags of the active tables only: those of snapshots mean nothing.

use std::collections::BTreeSet;

use drystone_base::HostOffset;

use super::{Run, Target};
use crate::qcow2::check::finding::{Finding, Structure};
use crate::qcow2::check::reader::entries_of;
use crate::qcow2::check::{Check, CheckError};
use crate::qcow2::entry::{self, L2Entry};
use crate::qcow2::geometry::ENTRY_BYTES;

/// What an L2 table that is looked at takes in memory, with room for the set's own needs.
const TABLE_MEMORY_BYTES: usize = 24;

impl<T: Target> Run<'_, T> {
    /// Puts the flags of the active tables right.
    pub(super) async fn mend_flags<F: FnMut(&Finding)>(
        &mut self,
        check: &mut Check<'_, T, F>,
    ) -> Result<(), CheckError> {
        let before = self.corruptions_fixed;
        check.look_up_outside().await?;
        let mut tables = BTreeSet::new();
        let (l1, mut index) = (self.header.l1(), 0);
        loop {
            let read = check.reader.read_entries(l1.at, l1.entries.into(), index).await;
            let mut entries = read.map_err(|error| CheckError::Read(Structure::ActiveL1, error))?;
            if entries.is_empty() {
                break;
            }
            for table in entries.iter().filter_map(|&raw| entry::l1_shape(raw)) {
                if table.at.get() < check.reader.len_file() && tables.insert(table.at) {
                    check.counters.memory().take(TABLE_MEMORY_BYTES)?;
                }
            }
            let at = l1.at.plus(index * ENTRY_BYTES);
            let place = |raw, _| entry::l1_shape(raw).map(|table| table.at);
            self.mend_table(check, Structure::ActiveL1, at, &mut entries, place).await?;
            index += entries.len() as u64;
        }
        let l2 = self.header.l2();
        for at in tables {
            let read = check.reader.read(at, check.cluster.buffer_len()).await;
            let bytes = read.map_err(|error| CheckError::Read(Structure::L2, error))?;
            let mut entries: Vec<u64> = entries_of(&bytes).collect();
            let step = usize::try_from(l2.entry_bytes() / ENTRY_BYTES).unwrap_or(1);
            // The descriptors of extended entries have bitmaps between them.
            let place = |raw, index: usize| {
                let is_descriptor = index.is_multiple_of(step);
                L2Entry::counted_place(raw, l2).filter(|_| is_descriptor).map(|data| data.at)
            };
            self.mend_table(check, Structure::L2, at, &mut entries, place).await?;
        }
        if self.corruptions_fixed != before {
            self.flush(Structure::L2).await?;
        }
        Ok(())
    }

    /// Puts the flags of a table's entries right and writes them, if that may be.
    async fn mend_table<F: FnMut(&Finding)>(
        &mut self,
        check: &mut Check<'_, T, F>,
        what: Structure,
        at: HostOffset,
        entries: &mut [u64],
        place: impl Fn(u64, usize) -> Option<HostOffset>,
    ) -> Result<(), CheckError> {
        let mut fixed = 0;
        for (index, raw) in entries.iter_mut().enumerate() {
            let Some(to) = place(*raw, index) else { continue };
            let cluster = check.cluster.host_cluster(to);
            let count = match check.outside.get(&cluster.index()) {
                Some(claims) => claims.stored,
                None if cluster.index() < check.clusters => check.counters.get(cluster).references,
                None => 0,
            };
            let copied = count == 1;
            let right = entry::with_copied(*raw, copied);
            fixed += u64::from(right != *raw);
            *raw = right;
        }
        if fixed == 0 {
            return Ok(());
        }
        let bytes: Vec<u8> = entries.iter().flat_map(|raw| raw.to_be_bytes()).collect();
        if !self.may_write(check, what, at, bytes.len() as u64).await? {
            check.outcome.corruptions += fixed;
            return Ok(());
        }
        self.corruptions_fixed += fixed;
        self.write(what, at, bytes).await
    }

    /// Whether a table lies on nothing but, at most, data and other tables of its kind.
    async fn may_write<F: FnMut(&Finding)>(
        &self,
        check: &mut Check<'_, T, F>,
        what: Structure,
        at: HostOffset,
        len_bytes: u64,
    ) -> Result<bool, CheckError> {
        let (l1, refcounts) = (self.header.l1(), self.header.refcounts());
        let table_len_bytes = u64::from(refcounts.clusters) * check.cluster.bytes();
        let mut others = vec![(HostOffset::ZERO, check.cluster.bytes()), (refcounts.at, table_len_bytes)];
        if what != Structure::ActiveL1 {
            others.push((l1.at, u64::from(l1.entries) * ENTRY_BYTES));
        }
        let meets = |other: HostOffset, len: u64| {
            at.get() < other.get().saturating_add(len) && other.get() < at.get().saturating_add(len_bytes)
        };
        if others.into_iter().any(|(other, len)| meets(other, len)) {
            return Ok(false);
        }
        let mut index = 0;
        loop {
            let entries = check.reader.read_entries(refcounts.at, table_len_bytes / ENTRY_BYTES, index).await;
            let entries = entries.map_err(|error| CheckError::Read(Structure::RefcountTable, error))?;
            if entries.is_empty() {
                return Ok(true);
            }
            let blocks = entries.iter().filter_map(|&raw| entry::l1_shape(raw));
            if blocks.into_iter().any(|block| meets(block.at, check.cluster.bytes())) {
                return Ok(false);
            }
            index += entries.len() as u64;
        }
    }
}
