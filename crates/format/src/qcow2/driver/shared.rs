//! Clusters that the active mapping and those of internal snapshots share: their counts and their "copied" flags.
//!
//! ```text
//!   L1 ─► L2 tables ─► data            every table, and everything in it, has one count for each L1 table that reaches it
//! ```
//! Invariants: counts go up before anything else refers to a cluster, and down after it does not, each durably; a flag is
//! set only where a count is one. Nobody else is inside and nothing of the mapping is dirty, so what is on disk is what is
//! in memory.

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::request::io::Io;

use super::passes::Cause;
use super::refs::{Run, push_cluster};
use super::{Qcow2, load_table, write_bytes};
use crate::qcow2::entry::{self, Allocated, L2Entry, RawEntry, Table, parse_l1};
use crate::qcow2::feature::IncompatibleBit;
use crate::qcow2::header::{HeaderChange, Version};

/// How "copied" flags are found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flags {
    /// By the counts.
    Counted,
    /// Everything is shared.
    Clear,
}

impl Qcow2 {
    /// Does `work`, during which flags and counts on disk need not agree, and says so in the header meanwhile. What fails and
    /// cannot be put right stays marked.
    pub(super) async fn unsettled<T>(&self, io: Io<'_>, work: impl Future<Output = Result<T>>) -> Result<T> {
        let was_dirty = self.header_now().incompatible().has(IncompatibleBit::Dirty);
        if self.version == Version::V2 || was_dirty {
            return work.await;
        }
        self.set_dirty(io, true).await?;
        let result = work.await;
        let is_settled = match &result {
            Ok(_) => Ok(()),
            Err(_) => self.settle_counted(io).await,
        };
        if is_settled.is_ok() {
            // It is done, or not; whoever opens the image next has a look if this fails.
            let _ = self.set_dirty(io, false).await;
        }
        result
    }

    async fn settle_counted(&self, io: Io<'_>) -> Result<()> {
        // What is let go of later would be counted less often than its flag says.
        self.reap(io).await?;
        self.store_metadata(io).await?;
        self.settle_flags(io, Flags::Counted).await
    }

    async fn set_dirty(&self, io: Io<'_>, is_dirty: bool) -> Result<()> {
        let _structure = self.lock_structure(io).await;
        let incompatible = self.header_now().incompatible().with(IncompatibleBit::Dirty, is_dirty);
        self.change_header(io, &HeaderChange { incompatible: Some(incompatible), ..HeaderChange::default() })
            .await
    }

    /// The L2 tables of an L1 table.
    pub(super) fn tables_of(&self, l1: &[u64]) -> Result<Vec<Allocated>> {
        let tables = (0..).zip(l1).filter_map(|(index, &raw)| {
            let table = parse_l1(raw, self.cluster).transpose()?;
            Some(table.map_err(|fault| {
                let error = fault.at(Table::L1, HostOffset::ZERO, index, raw);
                Error::new(Kind::Corrupt, "an L1 table is damaged").because(error)
            }))
        });
        tables.collect()
    }

    /// Clusters that an L2 table refers to, itself among them; a cluster as often as it is referred to.
    async fn references_of(&self, io: Io<'_>, table: Allocated) -> Result<Vec<Run>> {
        let l2 = self.map.l2();
        let bytes = load_table(io.file()?, table.at, self.cluster.buffer_len()).await?;
        let mut runs = vec![self.clusters_of(table.at, 1)];
        for (index, raw) in (0..).zip(l2.raws(&bytes)).filter(|(_, raw)| !raw.is_empty()) {
            let entry = L2Entry::parse(raw, l2).map_err(|fault| {
                let error = fault.at(Table::L2, table.at, index, raw.descriptor);
                Error::new(Kind::Corrupt, "an L2 table is damaged").because(error)
            })?;
            match entry {
                L2Entry::Compressed(stored) => {
                    let first = self.cluster.host_cluster(stored.at).index();
                    let last = stored.at.plus(u64::from(stored.stored_bytes) - 1);
                    runs.push(Run::between(first, self.cluster.host_cluster(last).index() + 1));
                }
                entry => {
                    let at = entry.place().filter(|_| !l2.has_data_file());
                    at.into_iter().for_each(|place| {
                        push_cluster(&mut runs, self.cluster.host_cluster(place.at).index())
                    });
                }
            }
        }
        Ok(runs)
    }

    /// Counts everything once more that these tables reach; nothing, if it fails.
    pub(super) async fn retain_tables(&self, io: Io<'_>, tables: &[Allocated]) -> Result<()> {
        for (done, table) in tables.iter().enumerate() {
            if let Err(error) = self.retain_table(io, *table).await {
                let before = tables.get(..done).unwrap_or_default();
                return Err(self.release_tables(io, before).await.err().unwrap_or(error));
            }
        }
        Ok(())
    }

    async fn retain_table(&self, io: Io<'_>, table: Allocated) -> Result<()> {
        let runs = self.references_of(io, table).await?;
        for (done, run) in runs.iter().enumerate() {
            let mut left = *run;
            if let Err(error) = self.refs.retain(io, &mut left).await {
                let part = Run::between(run.first.index(), left.first.index());
                for mut run in runs.iter().take(done).copied().chain([part]) {
                    self.refs.release(io, &mut run).await?;
                }
                return Err(error);
            }
        }
        self.store_if_full(io).await
    }

    /// Counts everything once less that these tables reach, and uses again what nobody needs any more.
    pub(super) async fn release_tables(&self, io: Io<'_>, tables: &[Allocated]) -> Result<()> {
        for table in tables {
            for run in self.references_of(io, *table).await? {
                self.frees.make_ready(run, Cause::Snapshot);
            }
            self.reap(io).await?;
            self.store_if_full(io).await?;
        }
        Ok(())
    }

    /// Puts the flags of the active tables right, on disk and in memory.
    pub(super) async fn settle_flags(&self, io: Io<'_>, flags: Flags) -> Result<()> {
        let mut l1 = self.map.l1_grown(0);
        for table in self.tables_of(&l1)? {
            self.settle_table_flags(io, table, flags).await?;
        }
        let mut changed = false;
        for raw in l1.iter_mut().filter(|raw| **raw != 0) {
            let Some(table) = entry::l1_shape(*raw) else { continue };
            let right = entry::with_copied(*raw, self.is_sole(io, table.at, flags).await?);
            changed |= right != *raw;
            *raw = right;
        }
        // An attempt that failed may have written other flags than memory has.
        if changed || flags == Flags::Counted {
            let bytes: Vec<u8> = l1.iter().flat_map(|raw| raw.to_be_bytes()).collect();
            write_bytes(io.file()?, self.header_now().l1().at, &bytes).await?;
        }
        io.file()?.flush().await?;
        self.map.reset(&l1);
        Ok(())
    }

    /// Puts the flags of an L2 table right, on disk.
    pub(super) async fn settle_table_flags(&self, io: Io<'_>, table: Allocated, flags: Flags) -> Result<()> {
        let l2 = self.map.l2();
        let bytes = load_table(io.file()?, table.at, self.cluster.buffer_len()).await?;
        let mut entries: Vec<RawEntry> = l2.raws(&bytes).collect();
        let mut changed = false;
        for raw in &mut entries {
            let Some(place) = L2Entry::counted_place(raw.descriptor, l2) else { continue };
            let copied = self.is_sole(io, place.at, flags).await?;
            changed |= copied != place.copied;
            raw.descriptor = entry::with_copied(raw.descriptor, copied);
        }
        if !changed {
            return Ok(());
        }
        let bytes: Vec<u8> = entries.into_iter().flat_map(|raw| l2.bytes_of(raw)).collect();
        write_bytes(io.file()?, table.at, &bytes).await
    }

    async fn is_sole(&self, io: Io<'_>, at: HostOffset, flags: Flags) -> Result<bool> {
        match flags {
            Flags::Clear => Ok(false),
            Flags::Counted => Ok(self.refs.count(io, self.cluster.host_cluster(at)).await? == 1),
        }
    }
}
