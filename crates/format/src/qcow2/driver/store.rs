//! What reaches the disk, in which order.
//!
//! ```text
//!   1  take copies:  unlinked clusters, L1, L2, refcount table, refcount blocks     (against the arrows)
//!   2  write counts                          data of published mappings is in the file already; a data file is flushed
//!   3  ── flush ──  write the refcount table, if it has new blocks  ── flush ──
//!   4  write L2 slices
//!   5  ── flush ──  write L1 entries, if there are new tables
//!   6  ── flush ──  unlinked clusters go into quarantine
//! ```
//! Copies are taken in the opposite order of their writes, so whatever a copied entry points to is in a copy taken later, or
//! on disk already. An entry that is published after the copies were taken waits for the next round. What could not be
//! written is dirty again, and the next round tries again.

use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::planted::{Mistake, is_planted};
use drystone_base::{BeMut, GuestOffset, GuestRange, HostOffset, Result};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeGuard;

use super::cache::SliceImage;
use super::passes::Freed;
use super::refs::BlockImage;
use super::{Qcow2, write_bytes};

/// Everything that one round writes.
struct Round {
    unlinked: Vec<Freed>,
    l1: Vec<(usize, u64)>,
    slices: Vec<SliceImage>,
    table: Vec<(usize, u64)>,
    blocks: Vec<BlockImage>,
}

/// Numbers of rounds, so that requests which wait for one share it.
#[derive(Default)]
pub(super) struct Rounds {
    begun: AtomicU64,
    /// The last one that has ended well.
    done: AtomicU64,
}

impl Qcow2 {
    /// Keeps others from storing, growing tables or changing the header.
    pub(super) async fn lock_structure<'t>(&'t self, io: Io<'t>) -> RangeGuard<'t> {
        self.structure.lock(io, GuestRange::new(GuestOffset::ZERO, 1), "metadata").await
    }

    /// Brings everything that was acknowledged to stable storage.
    pub(super) async fn store_metadata(&self, io: Io<'_>) -> Result<()> {
        let needed = self.rounds.begun.load(Ordering::SeqCst) + 1;
        let _structure = self.lock_structure(io).await;
        if self.rounds.done.load(Ordering::SeqCst) >= needed {
            // It began after this request did.
            return Ok(());
        }
        self.store_locked(io).await
    }

    /// Stores everything, bitmaps too: nothing will be written for a while. Of a damaged image, only the mark of that.
    pub(super) async fn store_to_leave(&self, io: Io<'_>) -> Result<()> {
        if !self.condition.is_damaged() && !self.condition.is_amended() {
            self.store_bitmaps(io).await?;
        }
        self.store_all(io).await
    }

    /// As [`Self::store_metadata`]; also gives back all freed space whose time has come, so that nothing leaks. Of a
    /// damaged image, only the mark of that is stored.
    pub(super) async fn store_all(&self, io: Io<'_>) -> Result<()> {
        if self.condition.is_damaged() {
            let _ = self.mark_damage(io).await;
            return Ok(());
        }
        if self.condition.is_amended() {
            // Everything was stored before.
            return Ok(());
        }
        let _structure = self.lock_structure(io).await;
        self.store_locked(io).await?;
        if self.frees.any() {
            self.reap(io).await?;
            self.store_locked(io).await?;
        }
        self.trim(io).await
    }

    /// Stores with the structure lock held.
    pub(super) async fn store_locked(&self, io: Io<'_>) -> Result<()> {
        if self.condition.is_amended() {
            // Everything was stored before.
            return Ok(());
        }
        self.demand_undamaged()?;
        self.settle_header(io).await?;
        let number = self.rounds.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let round = self.take_round();
        let result = self.write_round(io, &round).await;
        self.finish_round(io, round, result.is_ok());
        result?;
        self.rounds.done.store(number, Ordering::SeqCst);
        Ok(())
    }

    fn take_round(&self) -> Round {
        let unlinked = self.frees.take_unlinked();
        let l1 = self.map.take_dirty_l1();
        let slices = self.map.take_dirty();
        let table = self.refs.take_dirty_table();
        let blocks = self.refs.take_dirty();
        Round { unlinked, l1, slices, table, blocks }
    }

    async fn write_round(&self, io: Io<'_>, round: &Round) -> Result<()> {
        let file = io.file()?;
        if self.map.l2().has_data_file() {
            // What the mappings point to, and what the guest wrote where it was mapped already.
            self.data_file(io)?.flush().await?;
        }
        for block in &round.blocks {
            file.event(Event::RefblockUpdatePart).await;
            write_bytes(file, block.at, &block.bytes).await?;
        }
        if !round.table.is_empty() {
            file.flush().await?;
            file.event(Event::RefblockAllocHookup).await;
            write_entries(file, self.header_now().refcounts().at, &round.table).await?;
        }
        if !round.slices.is_empty() || !round.l1.is_empty() {
            if !is_planted(Mistake::MappingBeforeData) {
                file.flush().await?;
            }
            io.sim_point().await;
            for slice in &round.slices {
                file.event(Event::L2Update).await;
                write_bytes(file, slice.at, &slice.bytes).await?;
            }
        }
        if !round.l1.is_empty() {
            file.flush().await?;
            file.event(Event::L1Update).await;
            write_entries(file, self.header_now().l1().at, &round.l1).await?;
        }
        file.flush().await
    }

    fn finish_round(&self, io: Io<'_>, round: Round, ok: bool) {
        for slice in &round.slices {
            self.map.slices.stored(slice.id, ok);
        }
        for block in &round.blocks {
            self.refs.stored(block.index, ok);
        }
        if ok {
            self.frees.quarantine(io.grace_stamp(), round.unlinked);
        } else {
            self.map.l1_dirty_again(&round.l1);
            self.refs.table_dirty_again(&round.table);
            self.frees.unlinked_again(round.unlinked);
        }
    }

    /// Stores when the caches are full of changes or many clusters wait to be freed.
    pub(super) async fn store_if_full(&self, io: Io<'_>) -> Result<()> {
        if self.map.slices.wants_store() || self.refs.wants_store() || self.frees.wants_store() {
            self.store_metadata(io).await?;
        }
        Ok(())
    }
}

/// Writes single entries of a table, neighbours together.
async fn write_entries(file: Io<'_>, table: HostOffset, entries: &[(usize, u64)]) -> Result<()> {
    let mut rest = entries;
    while let Some((first, _)) = rest.first() {
        let count = rest.iter().zip(*first..).take_while(|((index, _), expected)| index == expected).count();
        let (run, after) = rest.split_at(count);
        let mut bytes = Vec::with_capacity(run.len() * 8);
        for (_, raw) in run {
            BeMut(&mut bytes).u64(*raw);
        }
        write_bytes(file, table.plus(*first as u64 * 8), &bytes).await?;
        rest = after;
    }
    Ok(())
}
