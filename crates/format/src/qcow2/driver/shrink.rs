//! What is given up when the disk becomes shorter, or is emptied.
//!
//! The header says the new length first, so nothing that is done afterwards can be seen in the disk, and nothing of it has to
//! succeed: what stays mapped behind the end is dropped when the disk grows again (`resize`).
//! ```text
//!   mappings behind the end ─► stored ─► L2 tables that have nothing else ─► stored        the way of all freed clusters
//!   at the close:  refcount blocks that count only themselves ─► stored ─► the file ends behind its last cluster
//! ```
//! The file is cut with nobody inside, since whoever is may be about to write to a cluster behind its end.

use std::sync::atomic::Ordering;

use drystone_base::{GuestRange, Kind, LEN_MAX, Result};
use drystone_core::disk::Preallocation;
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::refs::{Refs, Run};
use super::zero::Become;

/// What the end of the file holds.
enum Tail {
    /// Nothing is counted behind this cluster.
    EndsAt(u64),
    /// This block must be in memory to go on.
    Load(usize),
}

impl Qcow2 {
    /// Makes the disk `len` bytes long.
    pub(super) async fn shrink(&self, io: Io<'_>, len: u64) -> Result<()> {
        self.change_len(io, len).await?;
        // From here on the disk is shorter. Space that cannot be given back now is mapped, and does not leak.
        let dropped = self.drop_behind(io, len).await;
        let _ = self.watch(io, dropped).await;
        self.trims.store(true, Ordering::Release);
        if self.map.l2().has_data_file() {
            // Whoever is still inside may make it longer again, which shows nowhere.
            let _ = self.data_file(io)?.resize(len, Preallocation::Off).await;
        }
        Ok(())
    }

    /// Gives up every cluster of the disk: what is behind the image shows. A cut in between leaves some of them given up.
    pub(super) async fn empty(&self, io: Io<'_>) -> Result<()> {
        self.mark_for_writing(io).await?;
        io.file()?.event(Event::EmptyImagePrepare).await;
        self.drop_behind(io, 0).await?;
        self.trims.store(true, Ordering::Release);
        Ok(())
    }

    async fn drop_behind(&self, io: Io<'_>, len: u64) -> Result<()> {
        // To the end of all tables: an earlier shrinking may have left something there.
        let len_mapped = self.map.l2().span_bytes().saturating_mul(self.map.l1_len() as u64);
        let range = self.clusters_between(len, len_mapped.min(LEN_MAX));
        if range.is_empty() {
            return Ok(());
        }
        let _clusters = self.in_flight.lock(io, range, "clusters").await;
        self.change_clusters_locked(io, range, Become::Unmapped).await?;
        self.drop_tables(io, range).await?;
        if self.map.l2().has_data_file() {
            self.discard_data(io, range).await;
        }
        Ok(())
    }

    /// Drops the L2 tables all of whose clusters are in `range` or behind it. Nobody changes these clusters.
    async fn drop_tables(&self, io: Io<'_>, range: GuestRange) -> Result<()> {
        let _tables = self.map.lock_all_tables(io).await;
        let _structure = self.lock_structure(io).await;
        // Nothing of them is to be written any more.
        self.store_locked(io).await?;
        let first = self.map.l2().l1_entries(range.start().get());
        io.file()?.event(Event::L1ShrinkWriteTable).await;
        for index in usize::try_from(first).unwrap_or(usize::MAX)..self.map.l1_len() {
            let Some(table) = self.map.drop_table(index)? else { continue };
            let run = self.clusters_of(table.at, 1);
            self.owned.remove(run);
            self.frees.unlink(run);
        }
        self.store_locked(io).await?;
        io.file()?.event(Event::L1ShrinkFreeL2Clusters).await;
        Ok(())
    }

    /// Ends the file behind its last cluster, if the disk has become shorter. Everything is stored and nobody is inside; with
    /// the structure lock held.
    pub(super) async fn trim(&self, io: Io<'_>) -> Result<()> {
        if !self.trims.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut dropped = Vec::new();
        let end = loop {
            match self.refs.tail(&mut dropped)? {
                Tail::EndsAt(cluster) => break cluster,
                Tail::Load(index) => self.refs.load(io, index).await?,
            }
        };
        dropped.iter().for_each(|run| self.owned.remove(*run));
        self.store_locked(io).await?;
        let file = io.file()?;
        let len = end << self.cluster.bits();
        self.trims.store(false, Ordering::Release);
        if len >= file.len() {
            return Ok(());
        }
        match file.resize(len, Preallocation::Off).await {
            // A file that cannot end earlier is longer than it must be, and no worse.
            Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::ReadOnly) => Ok(()),
            result => result,
        }
    }
}

impl Refs {
    /// Where the last cluster ends that is counted. Blocks behind it that count only themselves are dropped on the way; their
    /// clusters are added to `dropped`.
    fn tail(&self, dropped: &mut Vec<Run>) -> Result<Tail> {
        let mut state = self.state();
        for index in (0..state.table.len()).rev() {
            let Some(at) = self.block_at(&state, index)? else { continue };
            let Some(block) = state.block(index) else { return Ok(Tail::Load(index)) };
            let first = index as u64 * self.per_block();
            let slots = 0..usize::try_from(self.per_block()).unwrap_or(0);
            let mut used = slots.rev().filter(|slot| self.width.get(&block.bytes, *slot) != Some(0));
            let Some(last) = used.next() else { continue };
            let own = self.cluster.host_cluster(at).index();
            if first + last as u64 != own || used.next().is_some() {
                return Ok(Tail::EndsAt(first + last as u64 + 1));
            }
            state.forget_block(index);
            state.hint = state.hint.min(first);
            dropped.push(Run::between(own, own + 1));
        }
        Ok(Tail::EndsAt(0))
    }
}
