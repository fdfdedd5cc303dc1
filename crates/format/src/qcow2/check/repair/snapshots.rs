//! A snapshot table that breaks rules, written anew in free space.
//!
//! Invariant: the new table is counted and written before the header points to it; the old one is freed after that.

use drystone_base::HostOffset;

use super::{Run, Target};
use crate::qcow2::check::finding::{Finding, Structure};
use crate::qcow2::check::reader::Source;
use crate::qcow2::check::{Check, CheckError};
use crate::qcow2::geometry::{ENTRY_BYTES, HostCluster};
use crate::qcow2::header::{HeaderChange, SnapshotTable};
use crate::qcow2::snapshot::{Snapshot, SnapshotError, Snapshots};

/// What a walk learned about the table.
#[derive(Debug, Default)]
pub(in crate::qcow2::check) struct TableFix {
    /// The snapshots that are left.
    pub(in crate::qcow2::check) list: Vec<Snapshot>,
    /// Bytes of the table that they were read from.
    pub(in crate::qcow2::check) old_len_bytes: u64,
    /// Rules that it breaks; with none it stays as it is.
    pub(in crate::qcow2::check) faults: u64,
}

impl<S: Source, F: FnMut(&Finding)> Check<'_, S, F> {
    /// The snapshots that are left of a table; reports the others.
    pub(in crate::qcow2::check) fn save_snapshots(
        &mut self,
        bytes: &[u8],
    ) -> Result<Snapshots, SnapshotError> {
        let saved = Snapshots::save(bytes, self.header.snapshots().count)?;
        for &(index, len_bytes) in &saved.extra_cut {
            self.report(&Finding::SnapshotExtra { index, len_bytes }, 1);
        }
        if saved.discarded > 0 {
            let count = saved.discarded;
            self.report(&Finding::SnapshotsTooMany { count }, count.into());
        }
        if let Some(mending) = &mut self.mending {
            mending.snapshots.faults = saved.extra_cut.len() as u64 + u64::from(saved.discarded);
        }
        Ok(saved.snapshots)
    }
}

impl<T: Target> Run<'_, T> {
    /// Writes the table anew, if it breaks a rule. The counts are right.
    pub(super) async fn replace_snapshots<F: FnMut(&Finding)>(
        &mut self,
        check: &mut Check<'_, T, F>,
        fix: TableFix,
    ) -> Result<(), CheckError> {
        if fix.faults == 0 {
            return Ok(());
        }
        let old = self.header.snapshots();
        let table = Snapshots::encode(&fix.list, self.header.len_guest())?;
        let clusters = check.cluster.clusters(table.len() as u64);
        let first = check.counters.free_run(clusters, 1);
        let new = (first..first + clusters).map(HostCluster::new);
        let counted = self.set_counts(new.map(|cluster| (cluster, 1))).await?;
        let at = check.cluster.host_start(HostCluster::new(first)).ok_or(CheckError::RefcountTable)?;
        let len = check.cluster.bytes() * clusters;
        let mut bytes = table;
        bytes.resize(usize::try_from(len).map_err(|_| CheckError::Memory)?, 0);
        let snapshots = match u32::try_from(fix.list.len()) {
            Ok(count @ 1..) => {
                self.write(Structure::SnapshotTable, at, bytes).await?;
                SnapshotTable { at, count }
            }
            _ => SnapshotTable { at: HostOffset::ZERO, count: 0 },
        };
        self.change_header(&HeaderChange { snapshots: Some(snapshots), ..HeaderChange::default() }).await?;
        self.has_replaced_snapshots = true;
        self.corruptions_fixed += fix.faults;
        check.outcome.corruptions = check.outcome.corruptions.saturating_sub(fix.faults);
        if counted {
            self.free_table(check, old.at, fix.old_len_bytes).await
        } else {
            self.count_again().await
        }
    }

    /// Frees the table that nothing points to any more.
    async fn free_table<F: FnMut(&Finding)>(
        &self,
        check: &Check<'_, T, F>,
        at: HostOffset,
        len_bytes: u64,
    ) -> Result<(), CheckError> {
        let Some(last) = check.last_of(at, len_bytes) else { return Ok(()) }; // It was not counted.
        let clusters = check.cluster.host_cluster(at).index()..=check.cluster.host_cluster(last).index();
        if check.damage.too_many {
            return Ok(()); // A largest count may stand for more references than it says.
        }
        let counts = clusters
            .map(HostCluster::new)
            .filter_map(|cluster| Some((cluster, check.counters.get(cluster).references.checked_sub(1)?)));
        self.set_counts(counts).await.map(drop)
    }

    /// Stores counts, durably; `false`, and nothing stored, if one of them has no block.
    async fn set_counts(&self, counts: impl Iterator<Item = (HostCluster, u64)>) -> Result<bool, CheckError> {
        let (cluster, width, refcounts) =
            (self.header.cluster(), self.header.width(), self.header.refcounts());
        let mut changes = Vec::new();
        for (of, count) in counts {
            let place = width.place(cluster, of);
            let at = refcounts.at.plus(place.table_index.saturating_mul(ENTRY_BYTES));
            let end = refcounts.at.plus(u64::from(refcounts.clusters) * cluster.bytes());
            if at >= end {
                return Ok(false);
            }
            let entry = self.read(Structure::RefcountTable, at, 8).await?;
            let raw = entry.first_chunk::<8>().map_or(0, |entry| u64::from_be_bytes(*entry));
            match HostOffset::checked(raw) {
                Some(block) if raw != 0 => changes.push((block, place.block_index, count)),
                _ => return Ok(false),
            }
        }
        for (block, index, count) in changes {
            let mut bytes = self.read(Structure::RefcountBlock, block, cluster.buffer_len()).await?;
            if width.set(&mut bytes, index, count).is_none() {
                return Ok(false);
            }
            self.write(Structure::RefcountBlock, block, bytes).await?;
        }
        self.flush(Structure::RefcountBlock).await?;
        Ok(true)
    }

    async fn read(&self, what: Structure, at: HostOffset, len: usize) -> Result<Vec<u8>, CheckError> {
        let inside = self.target.len_bytes().saturating_sub(at.get());
        let wanted = usize::try_from(inside).unwrap_or(usize::MAX).min(len);
        let mut bytes = Vec::new();
        if wanted > 0 {
            let read = self.target.read_at(at, wanted).await;
            bytes = read.map_err(|error| CheckError::Read(what, error))?;
        }
        bytes.resize(len, 0);
        Ok(bytes)
    }

    /// Makes the counts anew, because the new table has none.
    async fn count_again(&mut self) -> Result<(), CheckError> {
        let header = self.header.clone();
        let mut check = Check::new(self.target, &header, |_: &Finding| {})?;
        check.walk().await?;
        check.walk_refcounts().await?;
        self.rebuild(&mut check).await
    }
}
