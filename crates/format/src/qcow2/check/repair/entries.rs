//! Entries that a repair drops: zero clusters whose place is none.
//!
//! A cluster that reads as zeroes loses nothing if the place that was set aside for it is forgotten. Entries with data
//! stay as they are, wherever they lead.

use drystone_base::HostOffset;

use super::{Run, Target};
use crate::qcow2::check::finding::{Finding, Structure};
use crate::qcow2::check::reader::Source;
use crate::qcow2::check::{Check, CheckError, Outcome};
use crate::qcow2::entry::{EntryFault, L2Entry, RawEntry, Table};
use crate::qcow2::header::Version;

/// An entry to be written.
#[derive(Debug, Clone, Copy)]
pub(in crate::qcow2::check) struct EntryFix {
    /// Where it is.
    at: HostOffset,
    /// What it becomes.
    raw: RawEntry,
}

impl<S: Source, F: FnMut(&Finding)> Check<'_, S, F> {
    /// Whether an entry of the L2 table at `table` is one that the repair drops; notes it then.
    pub(in crate::qcow2::check) fn drops_place(
        &mut self,
        table: HostOffset,
        index: u64,
        raw: RawEntry,
    ) -> Result<bool, CheckError> {
        let l2 = self.header.l2();
        let fault = match L2Entry::shape(raw, l2) {
            L2Entry::Zero(Some(data)) if !self.cluster.is_aligned(data.at) => EntryFault::Misaligned(data.at),
            _ => return Ok(false),
        };
        let Some(mending) = &mut self.mending else { return Ok(false) };
        let at = table.checked_add(index * l2.entry_bytes());
        let Some(at) = at.filter(|_| self.header.version() == Version::V3) else { return Ok(false) };
        self.counters.memory().take(size_of::<EntryFix>())?;
        mending.entries.push(EntryFix { at, raw: L2Entry::Zero(None).encode(l2) });
        self.report(&Finding::entry(fault, Table::L2, table, index, raw.descriptor), 1);
        Ok(true)
    }
}

impl<T: Target> Run<'_, T> {
    /// Writes the entries that were dropped, which are no corruptions any more.
    pub(super) async fn drop_entries(
        &mut self,
        outcome: &mut Outcome,
        fixes: &[EntryFix],
    ) -> Result<(), CheckError> {
        for fix in fixes {
            self.write(Structure::L2, fix.at, self.header.l2().bytes_of(fix.raw).collect()).await?;
        }
        if !fixes.is_empty() {
            self.flush(Structure::L2).await?;
        }
        let count = fixes.len() as u64;
        self.corruptions_fixed += count;
        outcome.corruptions -= count;
        Ok(())
    }
}
