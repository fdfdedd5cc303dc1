//! Refcounts in memory.
//!
//! The refcount table is in memory whole; blocks are cached. Counts go up here when clusters are reserved and reach the
//! disk before any mapping to them (`store`); they go down only after the mapping is gone from the disk and a grace period
//! has passed (`free`).
//!
//! Invariants: a block that is dirty or being written stays; a block enters under its loading lock. Not here: the search
//! for free clusters (`reserve`), larger tables (`growth`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeLocks;

use super::load_table;
use super::pack::Room;
use crate::qcow2::geometry::{ClusterBits, HostCluster};
use crate::qcow2::refcount::{RefcountWidth, parse_table_entry};

/// Fewest blocks in memory.
const BLOCKS_MIN: usize = 4;

/// Consecutive clusters of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: HostCluster,
    pub(super) count: u64,
}

/// Refcounts of one image.
pub(super) struct Refs {
    pub(super) cluster: ClusterBits,
    pub(super) width: RefcountWidth,
    state: Mutex<State>,
    loading: RangeLocks,
    blocks_max: AtomicUsize,
    /// No cluster from here on was ever in use while the image was open.
    used_end: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) table: Vec<u64>,
    /// Entries that differ from the table on disk.
    pub(super) dirty_table: BTreeSet<usize>,
    pub(super) blocks: BTreeMap<usize, Block>,
    dirty_blocks: BTreeSet<usize>,
    /// No cluster before it is free.
    pub(super) hint: u64,
    /// Clusters of compressed bytes that have room for more.
    pub(super) rooms: Vec<Room>,
    /// Where the search for a block that may leave goes on.
    clock: usize,
}

pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    dirty: bool,
    writing: bool,
    used: bool,
}

/// A refcount block as it was at one moment.
pub(super) struct BlockImage {
    pub(super) index: usize,
    pub(super) at: HostOffset,
    pub(super) bytes: Vec<u8>,
}

impl Run {
    /// The first cluster and the one behind the last.
    pub(super) fn bounds(self) -> (u64, u64) {
        (self.first.index(), self.first.index() + self.count)
    }

    /// Clusters `first .. end`.
    pub(super) fn between(first: u64, end: u64) -> Self {
        Self { first: HostCluster::new(first), count: end - first }
    }
}

impl Refs {
    pub(super) fn new(cluster: ClusterBits, width: RefcountWidth, table: Vec<u64>, cache_bytes: u64) -> Self {
        let refs = Self {
            cluster,
            width,
            state: Mutex::new(State { table, ..State::default() }),
            loading: RangeLocks::default(),
            blocks_max: AtomicUsize::new(0),
            used_end: AtomicU64::new(0),
        };
        refs.set_cache_bytes(cache_bytes);
        refs
    }

    /// Changes the bound of the cache.
    pub(super) fn set_cache_bytes(&self, bytes: u64) {
        let blocks = usize::try_from(bytes / self.cluster.bytes()).unwrap_or(usize::MAX);
        self.blocks_max.store(blocks.max(BLOCKS_MIN), Ordering::Relaxed);
    }

    /// Most blocks in memory, unless more are dirty.
    fn blocks_max(&self) -> usize {
        self.blocks_max.load(Ordering::Relaxed)
    }

    /// Starts again with another table. Nothing is dirty and nobody is inside.
    pub(super) fn reset(&self, table: Vec<u64>) {
        *self.state() = State { table, ..State::default() };
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn per_block(&self) -> u64 {
        self.width.per_block(self.cluster) as u64
    }

    /// The index of the block that counts a cluster, and the slot in it.
    pub(super) fn slot(&self, cluster: u64) -> (usize, usize) {
        let place = self.width.place(self.cluster, HostCluster::new(cluster));
        (usize::try_from(place.table_index).unwrap_or(usize::MAX), place.block_index)
    }

    /// Where block `index` is; `None` if there is none.
    pub(super) fn block_at(&self, state: &State, index: usize) -> Result<Option<HostOffset>> {
        let raw = state.table.get(index).copied().unwrap_or(0);
        parse_table_entry(raw, self.cluster).map_err(|error| {
            Error::new(Kind::Corrupt, format!("entry {index} of the refcount table is damaged"))
                .because(error)
        })
    }

    /// Where every block is.
    pub(super) fn all_blocks(&self) -> Result<Vec<HostOffset>> {
        let state = self.state();
        let blocks = (0..state.table.len()).map(|index| self.block_at(&state, index));
        blocks.filter_map(Result::transpose).collect()
    }

    /// Reads a block into memory, unless it is there or does not exist.
    pub(super) async fn load(&self, io: Io<'_>, index: usize) -> Result<()> {
        let number = GuestRange::new(GuestOffset::new(index as u64), 1);
        let _loading = self.loading.lock(io, number, "refcount block").await;
        let at = {
            let state = self.state();
            if state.blocks.contains_key(&index) {
                return Ok(());
            }
            self.block_at(&state, index)?
        };
        let Some(at) = at else { return Ok(()) };
        io.file()?.event(Event::RefblockLoad).await;
        let bytes = load_table(io.file()?, at, self.cluster.buffer_len()).await?;
        let mut state = self.state();
        state.make_room(self.blocks_max());
        state.blocks.insert(index, Block { bytes, dirty: false, writing: false, used: true });
        Ok(())
    }

    /// How many of the first `clusters` clusters are in use; no more are looked for than are `enough`.
    pub(super) async fn used(&self, io: Io<'_>, clusters: u64, enough: u64) -> Result<u64> {
        let (mut at, mut used) = (0, 0);
        while at < clusters && used < enough {
            let (index, _) = self.slot(at);
            let count = self.per_block().min(clusters - at);
            let found = {
                let mut state = self.state();
                let is_missing = self.block_at(&state, index)?.is_none();
                let count_in = |block: &mut Block| {
                    let slots = 0..usize::try_from(count).unwrap_or(usize::MAX);
                    slots.filter(|slot| self.width.get(&block.bytes, *slot).is_some_and(|n| n > 0)).count()
                };
                state.block(index).map(count_in).or(is_missing.then_some(0))
            };
            match found {
                Some(found) => {
                    used += found as u64;
                    at += count;
                }
                None => self.load(io, index).await?,
            }
        }
        Ok(used)
    }

    /// The clusters of `run` that would be free with one less user.
    pub(super) async fn used_once(&self, io: Io<'_>, run: Run) -> Result<Vec<Run>> {
        let mut once = Vec::new();
        let (mut at, end) = run.bounds();
        while at < end {
            let (index, slot) = self.slot(at);
            let count = {
                let mut state = self.state();
                let count = state.block(index).map(|block| self.width.get(&block.bytes, slot));
                if count == Some(Some(1)) {
                    // Nobody may come to share what is about to go.
                    state.forget_rooms((at, at + 1), self.cluster.bits());
                }
                count
            };
            match count {
                None => self.load_counted(io, index).await?,
                Some(count) => {
                    if count == Some(1) {
                        push_cluster(&mut once, at);
                    }
                    at += 1;
                }
            }
        }
        Ok(once)
    }

    async fn load_counted(&self, io: Io<'_>, index: usize) -> Result<()> {
        if self.block_at(&self.state(), index)?.is_none() {
            return Err(Error::new(Kind::Corrupt, "a cluster that is given back was not counted"));
        }
        self.load(io, index).await
    }

    /// Takes one from the count of each cluster of `run`; those that have none left can be reserved again. After an error,
    /// `run` is what is left to do.
    pub(super) async fn release(&self, io: Io<'_>, run: &mut Run) -> Result<()> {
        self.used_end.fetch_max(run.bounds().1, Ordering::AcqRel);
        while run.count > 0 {
            match self.release_in_block(*run)? {
                Ok(end) => *run = Run::between(end, run.bounds().1),
                Err(absent) => self.load_counted(io, absent).await?,
            }
        }
        Ok(())
    }

    /// Adds one to the count of each cluster of `run`, all of which are in use. After an error, `run` is what is left to do.
    pub(super) async fn retain(&self, io: Io<'_>, run: &mut Run) -> Result<()> {
        while run.count > 0 {
            match self.retain_in_block(*run)? {
                Ok(end) => *run = Run::between(end, run.bounds().1),
                Err(absent) => self.load_counted(io, absent).await?,
            }
        }
        Ok(())
    }

    /// As [`Self::release_in_block`], the other way.
    fn retain_in_block(&self, run: Run) -> Result<Result<u64, usize>> {
        let (at, end) = run.bounds();
        let (index, slot) = self.slot(at);
        let count = (self.per_block() - slot as u64).min(end - at);
        let mut state = self.state();
        let Some(block) = state.block(index) else { return Ok(Err(index)) };
        add_one(self.width, &mut block.bytes, slot, count)?;
        state.note_dirty(index);
        Ok(Ok(at + count))
    }

    /// How often a cluster is in use.
    pub(super) async fn count(&self, io: Io<'_>, cluster: HostCluster) -> Result<u64> {
        let (index, slot) = self.slot(cluster.index());
        loop {
            if let Some(block) = self.state().block(index) {
                return Ok(self.width.get(&block.bytes, slot).unwrap_or(0));
            }
            self.load_counted(io, index).await?;
        }
    }

    /// Takes one from the counts of those clusters of `run` that are in its first block; the first cluster behind them, or
    /// which block is not in memory.
    fn release_in_block(&self, run: Run) -> Result<Result<u64, usize>> {
        let (at, end) = run.bounds();
        let (index, slot) = self.slot(at);
        let count = (self.per_block() - slot as u64).min(end - at);
        let mut state = self.state();
        let Some(block) = state.block(index) else { return Ok(Err(index)) };
        let freed = take_one(self.width, &mut block.bytes, slot, count)?;
        state.note_dirty(index);
        self.forget_freed(&mut state, (at, at + count));
        state.hint = freed.map_or(state.hint, |offset| state.hint.min(at + offset));
        Ok(Ok(at + count))
    }

    /// Of clusters `first .. end`, which are in one block, nobody shares those that are free now.
    fn forget_freed(&self, state: &mut State, (first, end): (u64, u64)) {
        if state.rooms.is_empty() {
            return;
        }
        for cluster in first..end {
            let (index, slot) = self.slot(cluster);
            if state.block(index).is_none_or(|block| self.width.get(&block.bytes, slot) == Some(0)) {
                state.forget_rooms((cluster, cluster + 1), self.cluster.bits());
            }
        }
    }

    /// Whether no byte of the clusters from `first` on can be other than zero in a file of `len_file` bytes.
    pub(super) fn is_untouched(&self, first: HostCluster, len_file: u64) -> bool {
        let first = first.index();
        first << self.cluster.bits() >= len_file && first >= self.used_end.load(Ordering::Acquire)
    }

    /// Takes out every block that is clean and was not used since the last time.
    pub(super) fn clean(&self) {
        self.state().blocks.retain(|_, block| {
            let is_idle = !block.dirty && !block.writing;
            std::mem::replace(&mut block.used, false) || !is_idle
        });
    }

    /// Copies every dirty block as it is now. Until [`Self::stored`] it stays in memory.
    pub(super) fn take_dirty(&self) -> Vec<BlockImage> {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut images = Vec::new();
        for index in std::mem::take(&mut state.dirty_blocks) {
            let at = self.block_at(state, index).ok().flatten();
            assert!(at.is_some(), "a refcount block without a place was changed");
            if let (Some(block), Some(at)) = (state.blocks.get_mut(&index), at) {
                block.dirty = false;
                block.writing = true;
                images.push(BlockImage { index, at, bytes: block.bytes.clone() });
            }
        }
        images
    }

    /// A taken block is on disk, or could not be written and is dirty again.
    pub(super) fn stored(&self, index: usize, ok: bool) {
        let mut state = self.state();
        if let Some(block) = state.blocks.get_mut(&index) {
            block.writing = false;
        }
        if !ok {
            state.note_dirty(index);
        }
    }

    /// Takes the dirty entries of the table: index and value.
    pub(super) fn take_dirty_table(&self) -> Vec<(usize, u64)> {
        let mut state = self.state();
        let dirty = std::mem::take(&mut state.dirty_table);
        dirty.into_iter().filter_map(|index| Some((index, *state.table.get(index)?))).collect()
    }

    /// Entries of the table that could not be written.
    pub(super) fn table_dirty_again(&self, entries: &[(usize, u64)]) {
        self.state().dirty_table.extend(entries.iter().map(|(index, _)| *index));
    }

    /// Whether so many blocks are dirty that they should be stored before more are.
    pub(super) fn wants_store(&self) -> bool {
        self.state().dirty_blocks.len() * 2 > self.blocks_max()
    }

    /// How many entries the table has.
    pub(super) fn table_len(&self) -> usize {
        self.state().table.len()
    }

    /// A block that exists only in memory as yet.
    pub(super) fn add_block(&self, state: &mut State, index: usize, bytes: Vec<u8>) {
        state.make_room(self.blocks_max());
        state.blocks.insert(index, Block { bytes, dirty: false, writing: false, used: true });
    }
}

impl State {
    /// A block that is in memory.
    pub(super) fn block(&mut self, index: usize) -> Option<&mut Block> {
        let block = self.blocks.get_mut(&index)?;
        block.used = true;
        Some(block)
    }

    pub(super) fn note_dirty(&mut self, index: usize) {
        if let Some(block) = self.blocks.get_mut(&index)
            && !std::mem::replace(&mut block.dirty, true)
        {
            self.dirty_blocks.insert(index);
        }
    }

    /// A block and its count of itself are gone.
    pub(super) fn forget_block(&mut self, index: usize) {
        self.blocks.remove(&index);
        self.dirty_blocks.remove(&index);
        if let Some(entry) = self.table.get_mut(index) {
            *entry = 0;
        }
        self.dirty_table.insert(index);
    }

    /// Lets clean blocks leave until one more fits.
    fn make_room(&mut self, blocks_max: usize) {
        while self.blocks.len() >= blocks_max {
            let Some(victim) = self.victim() else { return };
            self.blocks.remove(&victim);
            self.clock = victim;
        }
    }

    /// The first clean block from the clock's hand on that was not used since it passed last.
    fn victim(&mut self) -> Option<usize> {
        let clock = self.clock;
        let parts = [clock..usize::MAX, 0..clock];
        // The first round takes the marks away, the second finds what is left.
        for part in parts.iter().chain(&parts) {
            for (index, block) in self.blocks.range_mut(part.clone()) {
                let is_idle = !block.dirty && !block.writing;
                if is_idle && !std::mem::replace(&mut block.used, false) {
                    return Some(*index);
                }
            }
        }
        None
    }
}

/// Takes one from `count` counts from `slot` on; how far from `slot` the first is that is zero then.
fn take_one(width: RefcountWidth, block: &mut [u8], slot: usize, count: u64) -> Result<Option<u64>> {
    let slots = slot..slot + usize::try_from(count).unwrap_or(usize::MAX);
    if slots.clone().any(|slot| width.get(block, slot).unwrap_or(0) == 0) {
        return Err(Error::new(Kind::Corrupt, "a cluster that is given back has a count of zero"));
    }
    let mut freed = None;
    for (offset, slot) in (0..).zip(slots) {
        let less = width.get(block, slot).unwrap_or(1) - 1;
        put(width, block, slot, less);
        if less == 0 {
            freed.get_or_insert(offset);
        }
    }
    Ok(freed)
}

/// Adds one to `count` counts from `slot` on, or to none of them.
fn add_one(width: RefcountWidth, block: &mut [u8], slot: usize, count: u64) -> Result<()> {
    let slots = slot..slot + usize::try_from(count).unwrap_or(usize::MAX);
    for slot in slots.clone() {
        match width.get(block, slot).unwrap_or(0) {
            0 => return Err(Error::new(Kind::Corrupt, "a cluster that is in use has a count of zero")),
            count if count >= width.count_max() => {
                let text =
                    format!("a refcount of {} bits cannot count one more use of a cluster", width.bits());
                return Err(Error::new(Kind::InvalidInput, text));
            }
            _ => {}
        }
    }
    for slot in slots {
        let more = width.get(block, slot).unwrap_or(0) + 1;
        put(width, block, slot, more);
    }
    Ok(())
}

/// Adds a cluster to runs that are in order.
pub(super) fn push_cluster(runs: &mut Vec<Run>, number: u64) {
    match runs.last_mut() {
        Some(run) if run.bounds().1 == number => run.count += 1,
        _ => runs.push(Run::between(number, number + 1)),
    }
}

/// Sets a count in a block that has the slot, to a value that the width holds.
pub(super) fn put(width: RefcountWidth, block: &mut [u8], slot: usize, count: u64) {
    assert!(width.set(block, slot, count).is_some(), "slot {slot} and count {count} fit a refcount block");
}
