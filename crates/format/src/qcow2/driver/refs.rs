//! Refcounts in memory, and the search for free clusters.
//!
//! The refcount table is in memory whole; blocks are cached. A cluster is free if its count is zero, and a region of
//! clusters without a block is free altogether: its block is made in memory, in its own first cluster, when the first of
//! them is taken. Counts go up here when clusters are reserved and reach the disk before any mapping to them
//! (`store`); they go down only after the mapping is gone from the disk and a grace period has passed (`free`).
//!
//! Invariants: a block that is dirty or being written stays; a block enters under its loading lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeLocks;

use super::read_padded;
use crate::qcow2::geometry::{ClusterBits, ENTRY_BYTES, HOST_END, HostCluster, REFCOUNT_TABLE_BYTES_MAX};
use crate::qcow2::refcount::{RefcountWidth, parse_table_entry};

/// Consecutive clusters of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: HostCluster,
    pub(super) count: u64,
}

/// Refcounts of one image.
pub(super) struct Refs {
    cluster: ClusterBits,
    width: RefcountWidth,
    state: Mutex<State>,
    loading: RangeLocks,
    blocks_max: usize,
    /// Clusters that hold the header and tables, which no count may give away.
    fixed: RwLock<Vec<Run>>,
}

struct State {
    table: Vec<u64>,
    /// Entries that differ from the table on disk.
    dirty: BTreeSet<usize>,
    blocks: BTreeMap<usize, Block>,
    /// No cluster before it is free.
    hint: u64,
}

struct Block {
    bytes: Vec<u8>,
    dirty: bool,
    writing: bool,
    used: bool,
}

/// What a search for free clusters needs next.
enum Search {
    Found(Run),
    Load(usize),
    /// The table is full.
    GrowTable,
}

/// A refcount block as it was at one moment.
pub(super) struct BlockImage {
    pub(super) index: usize,
    pub(super) at: HostOffset,
    pub(super) bytes: Vec<u8>,
}

/// A larger refcount table, with the blocks that count it.
pub(super) struct Growth {
    pub(super) table: Vec<u64>,
    pub(super) at: HostOffset,
    pub(super) clusters: u64,
    pub(super) blocks: Vec<BlockImage>,
}

impl Refs {
    pub(super) fn new(cluster: ClusterBits, width: RefcountWidth, table: Vec<u64>, cache_bytes: u64) -> Self {
        let blocks_max = usize::try_from(cache_bytes / cluster.bytes()).unwrap_or(usize::MAX).max(4);
        let state = State { table, dirty: BTreeSet::new(), blocks: BTreeMap::new(), hint: 0 };
        Self {
            cluster,
            width,
            state: Mutex::new(state),
            loading: RangeLocks::default(),
            blocks_max,
            fixed: RwLock::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn per_block(&self) -> u64 {
        self.width.per_block(self.cluster) as u64
    }

    /// Says where header, L1 table and refcount table are.
    pub(super) fn set_fixed(&self, fixed: Vec<Run>) {
        *self.fixed.write().unwrap_or_else(PoisonError::into_inner) = fixed;
    }

    /// Whether a cluster holds the header or a table.
    pub(super) fn is_fixed(&self, run: Run) -> bool {
        self.fixed.read().unwrap_or_else(PoisonError::into_inner).iter().any(|fixed| overlaps(*fixed, run))
    }

    /// Reserves up to `count_max` consecutive free clusters: their counts become one. `None` if the table must grow first.
    pub(super) async fn reserve(&self, io: Io<'_>, count_max: u64) -> Result<Option<Run>> {
        loop {
            let search = self.search(count_max)?;
            match search {
                Search::Found(run) => return Ok(Some(run)),
                Search::Load(index) => self.load(io, index).await?,
                Search::GrowTable => return Ok(None),
            }
        }
    }

    fn search(&self, count_max: u64) -> Result<Search> {
        let per_block = self.per_block();
        let end = HOST_END.min(drystone_base::LEN_MAX) >> self.cluster.bits();
        let mut guard = self.state();
        let state = &mut *guard;
        let mut at = state.hint;
        loop {
            if at >= end {
                return Err(Error::new(
                    Kind::NoSpace,
                    "the image has reached the largest size of its format",
                ));
            }
            let index = usize::try_from(at / per_block).unwrap_or(usize::MAX);
            let Some(raw) = state.table.get(index).copied() else { return Ok(Search::GrowTable) };
            if self.table_entry(index, raw)?.is_none() {
                self.make_block(state, index)?;
            }
            let Some(block) = state.blocks.get_mut(&index) else { return Ok(Search::Load(index)) };
            block.used = true;
            let from = usize::try_from(at % per_block).unwrap_or(0);
            let free = first_free(self.width, &block.bytes, from, count_max);
            let Some((slot, count)) = free else {
                at = (at / per_block + 1) * per_block;
                state.hint = at;
                continue;
            };
            let run = Run { first: HostCluster::new((at / per_block) * per_block + slot as u64), count };
            if self.is_fixed(run) {
                return Err(Error::new(Kind::Corrupt, "the refcounts give away clusters that hold metadata"));
            }
            for slot in slot..slot + usize::try_from(count).unwrap_or(0) {
                put(self.width, &mut block.bytes, slot, 1);
            }
            block.dirty = true;
            state.hint = run.first.index() + count;
            return Ok(Search::Found(run));
        }
    }

    fn table_entry(&self, index: usize, raw: u64) -> Result<Option<HostOffset>> {
        parse_table_entry(raw, self.cluster).map_err(|error| {
            Error::new(Kind::Corrupt, format!("entry {index} of the refcount table is damaged"))
                .because(error)
        })
    }

    /// The block of a region in which nothing is counted yet, in the region's first cluster.
    fn make_block(&self, state: &mut State, index: usize) -> Result<()> {
        let first = HostCluster::new(index as u64 * self.per_block());
        if self.is_fixed(Run { first, count: 1 }) {
            return Err(Error::new(Kind::Corrupt, "clusters that hold metadata are not counted"));
        }
        let Some(at) = self.cluster.host_start(first) else {
            return Err(Error::new(Kind::NoSpace, "the image has reached the largest size of its format"));
        };
        let mut bytes = vec![0; self.cluster.buffer_len()];
        put(self.width, &mut bytes, 0, 1);
        state.blocks.insert(index, Block { bytes, dirty: true, writing: false, used: true });
        if let Some(entry) = state.table.get_mut(index) {
            *entry = at.get();
        }
        state.dirty.insert(index);
        Ok(())
    }

    async fn load(&self, io: Io<'_>, index: usize) -> Result<()> {
        let number = GuestRange::new(GuestOffset::new(index as u64), 1);
        let _loading = self.loading.lock(io, number, "refcount block").await;
        let at = {
            let state = self.state();
            if state.blocks.contains_key(&index) {
                return Ok(());
            }
            self.table_entry(index, state.table.get(index).copied().unwrap_or(0))?
        };
        let Some(at) = at else { return Ok(()) };
        let bytes = read_padded(io.file()?, at, self.cluster.buffer_len()).await?;
        let mut state = self.state();
        while state.blocks.len() >= self.blocks_max && evict_one(&mut state.blocks) {}
        state.blocks.insert(index, Block { bytes, dirty: false, writing: false, used: true });
        Ok(())
    }

    /// The clusters of `run` that would be free with one less user.
    pub(super) async fn used_once(&self, io: Io<'_>, run: Run) -> Result<Vec<Run>> {
        let mut once = Vec::new();
        let mut number = run.first.index();
        while number < run.first.index() + run.count {
            let index = usize::try_from(number / self.per_block()).unwrap_or(usize::MAX);
            self.load(io, index).await?;
            let state = self.state();
            let Some(block) = state.blocks.get(&index) else {
                if state.table.get(index).copied().unwrap_or(0) == 0 {
                    return Err(Error::new(Kind::Corrupt, "a cluster that is given back was not counted"));
                }
                continue;
            };
            let slot = usize::try_from(number % self.per_block()).unwrap_or(0);
            if self.width.get(&block.bytes, slot) == Some(1) {
                push_cluster(&mut once, number);
            }
            number += 1;
        }
        Ok(once)
    }

    /// Takes one from the count of each cluster of `run`; those that have none left can be reserved again.
    pub(super) async fn release(&self, io: Io<'_>, run: Run) -> Result<()> {
        let mut at = run.first.index();
        let end = at + run.count;
        while at < end {
            let block_end = (at / self.per_block() + 1) * self.per_block();
            let index = usize::try_from(at / self.per_block()).unwrap_or(usize::MAX);
            self.load(io, index).await?;
            let mut guard = self.state();
            let state = &mut *guard;
            let Some(block) = state.blocks.get_mut(&index) else {
                if state.table.get(index).copied().unwrap_or(0) == 0 {
                    return Err(Error::new(Kind::Corrupt, "a cluster that is given back was not counted"));
                }
                continue;
            };
            for number in at..end.min(block_end) {
                let slot = usize::try_from(number % self.per_block()).unwrap_or(0);
                let count = self.width.get(&block.bytes, slot).unwrap_or(0);
                let Some(less) = count.checked_sub(1) else {
                    return Err(Error::new(
                        Kind::Corrupt,
                        "a cluster that is given back has a count of zero",
                    ));
                };
                put(self.width, &mut block.bytes, slot, less);
                block.dirty = true;
                if less == 0 {
                    state.hint = state.hint.min(number);
                }
            }
            at = end.min(block_end);
        }
        Ok(())
    }

    /// Copies every dirty block as it is now. Until [`Self::stored`] it stays in memory.
    pub(super) fn take_dirty(&self) -> Result<Vec<BlockImage>> {
        let mut state = self.state();
        let state = &mut *state;
        let mut images = Vec::new();
        for (index, block) in state.blocks.iter_mut().filter(|(_, block)| block.dirty) {
            let raw = state.table.get(*index).copied().unwrap_or(0);
            let Some(at) = self.table_entry(*index, raw)? else { continue };
            block.dirty = false;
            block.writing = true;
            images.push(BlockImage { index: *index, at, bytes: block.bytes.clone() });
        }
        Ok(images)
    }

    /// A taken block is on disk, or could not be written and is dirty again.
    pub(super) fn stored(&self, index: usize, ok: bool) {
        if let Some(block) = self.state().blocks.get_mut(&index) {
            block.writing = false;
            block.dirty |= !ok;
        }
    }

    /// Takes the dirty entries of the table: index and value.
    pub(super) fn take_dirty_table(&self) -> Vec<(usize, u64)> {
        let mut state = self.state();
        let dirty = std::mem::take(&mut state.dirty);
        dirty.into_iter().filter_map(|index| Some((index, *state.table.get(index)?))).collect()
    }

    /// Entries of the table that could not be written.
    pub(super) fn table_dirty_again(&self, entries: &[(usize, u64)]) {
        self.state().dirty.extend(entries.iter().map(|(index, _)| *index));
    }

    /// A table half as large again, placed behind everything that the present one can count, with blocks that count it.
    pub(super) fn plan_growth(&self) -> Result<Growth> {
        let state = self.state();
        let entries_per_cluster = self.cluster.entries();
        let old_len = state.table.len();
        let wanted = (old_len + old_len / 2).max(old_len + 1).next_multiple_of(entries_per_cluster);
        let first_region = old_len as u64;
        let mut clusters = (wanted / entries_per_cluster) as u64;
        let mut blocks = 1;
        // Blocks and table lie side by side at the start of the new regions; both have to be counted.
        while blocks * self.per_block() < blocks + clusters {
            blocks += 1;
        }
        let needed = old_len + usize::try_from(blocks).unwrap_or(usize::MAX);
        let len = wanted.max(needed.next_multiple_of(entries_per_cluster));
        clusters = clusters.max((len / entries_per_cluster) as u64);
        while blocks * self.per_block() < blocks + clusters {
            blocks += 1;
        }
        if len as u64 * ENTRY_BYTES > REFCOUNT_TABLE_BYTES_MAX {
            return Err(Error::new(
                Kind::NoSpace,
                "the refcount table has reached the largest size of its format",
            ));
        }
        let start = first_region * self.per_block();
        let too_large = || Error::new(Kind::NoSpace, "the image has reached the largest size of its format");
        let place = |number: u64| self.cluster.host_start(HostCluster::new(number)).ok_or_else(too_large);
        let mut table = state.table.clone();
        table.resize(len, 0);
        // Entries whose blocks are not on disk yet are written later, to the new place.
        for index in &state.dirty {
            if let Some(entry) = table.get_mut(*index) {
                *entry = 0;
            }
        }
        let mut images = Vec::new();
        for block in 0..blocks {
            let index = old_len + usize::try_from(block).unwrap_or(0);
            let at = place(start + block)?;
            let mut bytes = vec![0; self.cluster.buffer_len()];
            let counted = (blocks + clusters).saturating_sub(block * self.per_block()).min(self.per_block());
            for slot in 0..usize::try_from(counted).unwrap_or(0) {
                put(self.width, &mut bytes, slot, 1);
            }
            if let Some(entry) = table.get_mut(index) {
                *entry = at.get();
            }
            images.push(BlockImage { index, at, bytes });
        }
        Ok(Growth { table, at: place(start + blocks)?, clusters, blocks: images })
    }

    /// The header points to the larger table now.
    pub(super) fn install(&self, growth: Growth) {
        let mut state = self.state();
        for image in growth.blocks {
            let block = Block { bytes: image.bytes, dirty: false, writing: false, used: true };
            state.blocks.insert(image.index, block);
        }
        // Entries that were made meanwhile are dirty and go to the new table.
        let old_len = state.table.len();
        state.table.extend_from_slice(growth.table.get(old_len..).unwrap_or_default());
    }

    /// Whether so many blocks are dirty that they should be stored before more are.
    pub(super) fn wants_store(&self) -> bool {
        self.state().blocks.values().filter(|block| block.dirty).count() * 2 > self.blocks_max
    }

    /// How many entries the table has.
    pub(super) fn table_len(&self) -> usize {
        self.state().table.len()
    }
}

fn overlaps(a: Run, b: Run) -> bool {
    a.first.index() < b.first.index() + b.count && b.first.index() < a.first.index() + a.count
}

/// The first run of zero counts from slot `from` on, at most `count_max` long.
fn first_free(width: RefcountWidth, block: &[u8], from: usize, count_max: u64) -> Option<(usize, u64)> {
    let mut slot = from;
    loop {
        match width.get(block, slot)? {
            0 => break,
            _ => slot += 1,
        }
    }
    let mut count = 1;
    while count < count_max && width.get(block, slot + usize::try_from(count).ok()?) == Some(0) {
        count += 1;
    }
    Some((slot, count))
}

/// Adds a cluster to runs that are in order.
pub(super) fn push_cluster(runs: &mut Vec<Run>, number: u64) {
    match runs.last_mut() {
        Some(run) if run.first.index() + run.count == number => run.count += 1,
        _ => runs.push(Run { first: HostCluster::new(number), count: 1 }),
    }
}

fn evict_one(blocks: &mut BTreeMap<usize, Block>) -> bool {
    let idle = |block: &Block| !block.dirty && !block.writing;
    let victim = blocks.iter().find(|(_, block)| idle(block) && !block.used).map(|(index, _)| *index);
    let victim = victim.or_else(|| blocks.iter().find(|(_, block)| idle(block)).map(|(index, _)| *index));
    for block in blocks.values_mut() {
        block.used = false;
    }
    victim.is_some_and(|index| blocks.remove(&index).is_some())
}

/// Sets a count in a block that has the slot, to a value that the width holds.
fn put(width: RefcountWidth, block: &mut [u8], slot: usize, count: u64) {
    assert!(width.set(block, slot, count).is_some(), "slot {slot} and count {count} fit a refcount block");
}
