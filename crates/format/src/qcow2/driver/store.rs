//! What reaches the disk, in which order.
//!
//! ```text
//!   1  take copies:  unlinked clusters, L1, L2, refcount table, refcount blocks     (against the arrows)
//!   2  write counts                          data of published mappings is in the file already
//!   3  ── flush ──  write the refcount table, if it has new blocks  ── flush ──
//!   4  write L2 slices
//!   5  ── flush ──  write L1 entries, if there are new tables
//!   6  ── flush ──  unlinked clusters go into quarantine
//! ```
//! Copies are taken in the opposite order of their writes, so whatever a copied entry points to is in a copy taken later, or
//! on disk already. An entry that is published after the copies were taken waits for the next round.

use std::sync::atomic::Ordering;

use drystone_base::{BeMut, Error, HostOffset, Kind, Result};
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeGuard;

use drystone_base::{GuestOffset, GuestRange};

use super::map::SliceImage;
use super::refs::{BlockImage, Run};
use super::{Qcow2, write_bytes};
use crate::qcow2::feature::IncompatibleBit;
use crate::qcow2::header::{HeaderChange, Version};

/// Everything that one round writes.
struct Round {
    unlinked: Vec<Run>,
    l1: Vec<(usize, u64)>,
    slices: Vec<SliceImage>,
    table: Vec<(usize, u64)>,
    blocks: Vec<BlockImage>,
}

impl Qcow2 {
    /// Keeps others from storing, growing tables or changing the header.
    pub(super) async fn lock_structure<'t>(&'t self, io: Io<'t>) -> RangeGuard<'t> {
        self.structure.lock(io, GuestRange::new(GuestOffset::ZERO, 1), "metadata").await
    }

    /// Brings everything that was acknowledged to stable storage.
    pub(super) async fn store_metadata(&self, io: Io<'_>) -> Result<()> {
        let _structure = self.lock_structure(io).await;
        self.store_locked(io).await
    }

    /// As [`Self::store_metadata`]; also gives back all freed space whose time has come, so that nothing leaks.
    pub(super) async fn store_all(&self, io: Io<'_>) -> Result<()> {
        let _structure = self.lock_structure(io).await;
        self.store_locked(io).await?;
        if self.frees.any() {
            self.reap(io).await?;
            self.store_locked(io).await?;
        }
        Ok(())
    }

    /// Stores with the structure lock held.
    pub(super) async fn store_locked(&self, io: Io<'_>) -> Result<()> {
        self.mark_damage(io).await?;
        let round = self.take_round()?;
        let result = self.write_round(io, &round).await;
        self.finish_round(io, round, result.is_ok());
        result
    }

    fn take_round(&self) -> Result<Round> {
        let unlinked = self.frees.take_unlinked();
        let l1 = self.map.take_dirty_l1();
        let slices = self.map.take_dirty();
        let table = self.refs.take_dirty_table();
        let blocks = self.refs.take_dirty();
        match (slices, blocks) {
            (Ok(slices), Ok(blocks)) => Ok(Round { unlinked, l1, slices, table, blocks }),
            (slices, blocks) => {
                let error = slices.as_ref().err().or(blocks.as_ref().err()).map(Error::duplicate);
                let round = Round {
                    unlinked,
                    l1,
                    slices: slices.unwrap_or_default(),
                    table,
                    blocks: blocks.unwrap_or_default(),
                };
                self.put_back(round);
                Err(error.unwrap_or_else(|| Error::new(Kind::Corrupt, "a table is damaged")))
            }
        }
    }

    async fn write_round(&self, io: Io<'_>, round: &Round) -> Result<()> {
        let file = io.file()?;
        for block in &round.blocks {
            write_bytes(file, block.at, &block.bytes).await?;
        }
        if !round.table.is_empty() {
            file.flush().await?;
            let at = self.header().refcounts().at;
            write_entries(file, at, &round.table).await?;
        }
        if !round.slices.is_empty() || !round.l1.is_empty() {
            file.flush().await?;
            io.sim_point().await;
            for slice in &round.slices {
                write_bytes(file, slice.at, &slice.bytes).await?;
            }
        }
        if !round.l1.is_empty() {
            file.flush().await?;
            let at = self.header().l1().at;
            write_entries(file, at, &round.l1).await?;
        }
        file.flush().await
    }

    fn finish_round(&self, io: Io<'_>, round: Round, ok: bool) {
        if !ok {
            return self.put_back(round);
        }
        for slice in &round.slices {
            self.map.stored(slice.id, true);
        }
        for block in &round.blocks {
            self.refs.stored(block.index, true);
        }
        self.frees.quarantine(io.grace_stamp(), round.unlinked);
    }

    /// What could not be written is dirty again; nothing has got lost, and the next round tries again.
    fn put_back(&self, round: Round) {
        for slice in &round.slices {
            self.map.stored(slice.id, false);
        }
        for block in &round.blocks {
            self.refs.stored(block.index, false);
        }
        self.map.l1_dirty_again(&round.l1);
        self.refs.table_dirty_again(&round.table);
        self.frees.unlinked_again(round.unlinked);
    }

    /// Stores when the caches are full of changes or many clusters wait to be freed.
    pub(super) async fn store_if_full(&self, io: Io<'_>) -> Result<()> {
        if self.map.wants_store() || self.refs.wants_store() || self.frees.wants_store() {
            self.store_metadata(io).await?;
        }
        Ok(())
    }

    /// Makes the header on disk say what it must say before the first write: no autoclear feature that we do not keep.
    pub(super) async fn mark_for_writing(&self, io: Io<'_>) -> Result<()> {
        self.demand_undamaged()?;
        if self.is_marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let _structure = self.lock_structure(io).await;
        if self.is_marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let marked = self.header().for_writing();
        let marked = marked
            .map_err(|error| Error::new(Kind::InvalidImage, "cannot change the header").because(error))?;
        if let Some(header) = marked {
            self.write_header(io, header).await?;
        }
        self.is_marked.store(true, Ordering::Release);
        Ok(())
    }

    /// Says in the header that the image is damaged, so that nobody opens it for writing before it is repaired.
    async fn mark_damage(&self, io: Io<'_>) -> Result<()> {
        let is_damaged = self.is_damaged.load(Ordering::Acquire);
        if !is_damaged || self.version == Version::V2 || io.node().is_read_only() {
            return Ok(());
        }
        let incompatible = self.header().incompatible();
        if incompatible.has(IncompatibleBit::Corrupt) {
            return Ok(());
        }
        let change = HeaderChange {
            incompatible: Some(incompatible.with(IncompatibleBit::Corrupt, true)),
            ..HeaderChange::default()
        };
        let header = self.header().changed(&change);
        let header = header
            .map_err(|error| Error::new(Kind::InvalidImage, "cannot change the header").because(error))?;
        self.write_header(io, header).await
    }

    /// Replaces the header, durably. With the structure lock held.
    pub(super) async fn write_header(&self, io: Io<'_>, header: super::Header) -> Result<()> {
        let bytes = header.encode();
        let bytes = bytes
            .map_err(|error| Error::new(Kind::InvalidImage, "cannot change the header").because(error))?;
        let file = io.file()?;
        file.flush().await?;
        write_bytes(file, HostOffset::ZERO, &bytes).await?;
        file.flush().await?;
        *self.header() = header;
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
