//! The mapping in memory: the L1 table whole, L2 tables in slices.
//!
//! ```text
//!   L1 (all)     [ t0 | t1 | -  | t3 ... ]
//!                  |
//!   L2 table t0  [ slice 0 | slice 1 | ... ]     a slice is 4 KiB of a table (the whole table if that is smaller)
//! ```
//! Entries are atomics: `locate` reads them without a lock of their own. They are changed only while the slice is found in
//! the cache (under its stripe's lock, which eviction takes for writing), so no change is made to a slice that has left.
//!
//! Invariants: a slice that is dirty or being written stays; a slice enters under the loading lock of its number, so
//! that no stale copy replaces a newer one. Not here: what is durable when (`store`), who may change an entry (`write`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use drystone_base::{Be, Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeLocks;

use super::read_padded;
use crate::qcow2::entry::{Allocated, L2Entry, Table, parse_l1};
use crate::qcow2::geometry::{ClusterBits, ENTRY_BYTES};
use crate::qcow2::header::Version;

/// Largest slice in bytes.
const SLICE_BYTES_MAX: usize = 4096;
const STRIPES: usize = 16;

/// The number of a slice: of all slices of all L2 tables, in the order of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SliceId(u64);

impl SliceId {
    fn range(self) -> GuestRange {
        GuestRange::new(GuestOffset::new(self.0), 1)
    }
}

/// Where the entry of a guest offset is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) slice: SliceId,
    /// Index into the slice.
    pub(super) index: usize,
    pub(super) l1_index: usize,
    /// Byte in the cluster.
    pub(super) byte: u64,
}

/// Some of an L2 table's entries.
pub(super) struct Slice {
    entries: Box<[AtomicU64]>,
    state: Mutex<SliceState>,
    used: AtomicBool,
}

#[derive(Default)]
struct SliceState {
    dirty: bool,
    writing: bool,
}

struct L1 {
    entries: Vec<u64>,
    dirty: BTreeSet<usize>,
}

type Stripe = BTreeMap<SliceId, Arc<Slice>>;

/// The mapping of one image.
pub(super) struct Map {
    cluster: ClusterBits,
    version: Version,
    slice_entries: usize,
    l1: RwLock<L1>,
    stripes: [RwLock<Stripe>; STRIPES],
    slices_per_stripe_max: usize,
    dirty_count: AtomicUsize,
    /// Slices that are being loaded, and tables that are being made or moved.
    loading: RangeLocks,
}

/// A slice as it was at one moment, for being written.
pub(super) struct SliceImage {
    pub(super) id: SliceId,
    pub(super) at: HostOffset,
    pub(super) bytes: Vec<u8>,
}

impl Map {
    pub(super) fn new(cluster: ClusterBits, version: Version, l1: Vec<u64>, cache_bytes: u64) -> Self {
        let slice_entries = cluster.entries().min(SLICE_BYTES_MAX / 8);
        let slices = cache_bytes / (slice_entries as u64 * ENTRY_BYTES);
        Self {
            cluster,
            version,
            slice_entries,
            l1: RwLock::new(L1 { entries: l1, dirty: BTreeSet::new() }),
            stripes: std::array::from_fn(|_| RwLock::default()),
            slices_per_stripe_max: usize::try_from(slices).unwrap_or(usize::MAX).div_euclid(STRIPES).max(4),
            dirty_count: AtomicUsize::new(0),
            loading: RangeLocks::default(),
        }
    }

    fn slices_per_table(&self) -> u64 {
        self.cluster.entries().div_euclid(self.slice_entries) as u64
    }

    pub(super) fn slice_entries(&self) -> usize {
        self.slice_entries
    }

    pub(super) fn spot(&self, at: GuestOffset) -> Spot {
        let place = self.cluster.place(at);
        let slice = place.l2_index.div_euclid(self.slice_entries) as u64;
        Spot {
            slice: SliceId(place.l1_index * self.slices_per_table() + slice),
            index: place.l2_index.rem_euclid(self.slice_entries),
            l1_index: usize::try_from(place.l1_index).unwrap_or(usize::MAX),
            byte: place.byte,
        }
    }

    /// Bytes of the disk from `spot` to the end of its slice.
    pub(super) fn slice_left_bytes(&self, spot: Spot) -> u64 {
        ((self.slice_entries - spot.index) as u64) * self.cluster.bytes() - spot.byte
    }

    /// Bytes of the disk from `spot` to the end of its table.
    pub(super) fn table_left_bytes(&self, spot: Spot) -> u64 {
        let slice = spot.slice.0 % self.slices_per_table();
        let clusters = self.cluster.entries() as u64 - slice * self.slice_entries as u64 - spot.index as u64;
        clusters * self.cluster.bytes() - spot.byte
    }

    pub(super) fn l1_len(&self) -> usize {
        self.l1.read().unwrap_or_else(PoisonError::into_inner).entries.len()
    }

    /// The L2 table of an L1 entry.
    pub(super) fn table(&self, l1_index: usize) -> Result<Option<Allocated>> {
        let raw = self.l1.read().unwrap_or_else(PoisonError::into_inner).entries.get(l1_index).copied();
        let raw = raw.unwrap_or(0);
        parse_l1(raw, self.cluster).map_err(|fault| {
            let error = fault.at(Table::L1, HostOffset::ZERO, l1_index as u64, raw);
            Error::new(Kind::Corrupt, "the L1 table is damaged").because(error)
        })
    }

    pub(super) fn set_table(&self, l1_index: usize, raw: u64) {
        let mut l1 = self.l1.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = l1.entries.get_mut(l1_index) {
            *entry = raw;
            l1.dirty.insert(l1_index);
        }
    }

    /// The whole L1 table, grown to `len` entries.
    pub(super) fn l1_grown(&self, len: usize) -> Vec<u64> {
        let mut entries = self.l1.read().unwrap_or_else(PoisonError::into_inner).entries.clone();
        entries.resize(len.max(entries.len()), 0);
        entries
    }

    /// The L1 table has got `len` entries.
    pub(super) fn grow_l1(&self, len: usize) {
        let mut l1 = self.l1.write().unwrap_or_else(PoisonError::into_inner);
        let len = len.max(l1.entries.len());
        l1.entries.resize(len, 0);
    }

    fn stripe(&self, id: SliceId) -> &RwLock<Stripe> {
        let index = usize::try_from(id.0 % STRIPES as u64).unwrap_or(0);
        match self.stripes.get(index) {
            Some(stripe) => stripe,
            None => unreachable!("a number modulo STRIPES is below it"),
        }
    }

    /// Looks at a slice, if it is in memory.
    pub(super) fn with<R>(&self, id: SliceId, look: impl FnOnce(&Slice) -> R) -> Option<R> {
        let stripe = self.stripe(id).read().unwrap_or_else(PoisonError::into_inner);
        stripe.get(&id).map(|slice| {
            if !slice.used.load(Ordering::Relaxed) {
                slice.used.store(true, Ordering::Relaxed);
            }
            look(slice)
        })
    }

    /// The parsed entry `raw` of the slice that `spot` is in.
    pub(super) fn parse(&self, spot: Spot, raw: u64) -> Result<L2Entry> {
        L2Entry::parse(raw, self.cluster, self.version).map_err(|fault| {
            let at = self.table(spot.l1_index).ok().flatten().map_or(HostOffset::ZERO, |table| table.at);
            let error = fault.at(Table::L2, at, spot.index as u64, raw);
            Error::new(Kind::Corrupt, "an L2 table is damaged").because(error)
        })
    }

    /// Reads a slice into memory, unless it is there or has no table.
    pub(super) async fn load(&self, io: Io<'_>, spot: Spot) -> Result<()> {
        let _loading = self.loading.lock(io, spot.slice.range(), "L2 slice").await;
        if self.with(spot.slice, |_| ()).is_some() {
            return Ok(());
        }
        let Some(table) = self.table(spot.l1_index)? else { return Ok(()) };
        let len = self.slice_entries * 8;
        let bytes = read_padded(io.file()?, self.place_in(table.at, spot.slice), len).await?;
        let mut be = Be(&bytes);
        let entries: Vec<AtomicU64> = std::iter::from_fn(|| be.u64().ok()).map(AtomicU64::new).collect();
        io.sim_point().await;
        self.insert(spot.slice, entries.into_boxed_slice());
        Ok(())
    }

    fn place_in(&self, table: HostOffset, id: SliceId) -> HostOffset {
        table.plus((id.0 % self.slices_per_table()) * self.slice_entries as u64 * ENTRY_BYTES)
    }

    fn insert(&self, id: SliceId, entries: Box<[AtomicU64]>) {
        let slice = Slice { entries, state: Mutex::default(), used: AtomicBool::new(true) };
        let mut stripe = self.stripe(id).write().unwrap_or_else(PoisonError::into_inner);
        // Past the bound while everything is dirty: writers store when half of the cache is (`wants_store`).
        while stripe.len() >= self.slices_per_stripe_max && evict_one(&mut stripe) {}
        stripe.insert(id, Arc::new(slice));
    }

    /// Whether so much is dirty that it should be stored before more is.
    pub(super) fn wants_store(&self) -> bool {
        self.dirty_count.load(Ordering::Relaxed) * 2 > self.slices_per_stripe_max * STRIPES
    }

    /// Replaces entries from `spot` on, if they are still `expected`; `None` if the slice is not in memory.
    pub(super) fn publish(&self, spot: Spot, expected: &[u64], new: &[u64]) -> Option<Result<()>> {
        self.with(spot.slice, |slice| {
            let mut state = slice.state();
            let places = slice.entries.get(spot.index..spot.index + new.len()).unwrap_or_default();
            let same = places.len() == expected.len()
                && places.iter().zip(expected).all(|(place, raw)| place.load(Ordering::Acquire) == *raw);
            if !same {
                return Err(Error::new(Kind::Io, "a mapping changed under the request that holds it"));
            }
            for (place, raw) in places.iter().zip(new) {
                place.store(*raw, Ordering::Release);
            }
            if !std::mem::replace(&mut state.dirty, true) {
                self.dirty_count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    /// Copies every dirty slice as it is now. Until [`Self::stored`] it stays in memory.
    pub(super) fn take_dirty(&self) -> Result<Vec<SliceImage>> {
        let mut images = Vec::new();
        if self.dirty_count.load(Ordering::Relaxed) == 0 {
            return Ok(images);
        }
        for stripe in &self.stripes {
            let stripe = stripe.read().unwrap_or_else(PoisonError::into_inner);
            for (id, slice) in stripe.iter() {
                let mut state = slice.state();
                if !state.dirty {
                    continue;
                }
                let l1_index = usize::try_from(id.0 / self.slices_per_table()).unwrap_or(usize::MAX);
                let table = self.table(l1_index)?;
                let Some(table) = table else { continue };
                state.dirty = false;
                state.writing = true;
                self.dirty_count.fetch_sub(1, Ordering::Relaxed);
                images.push(SliceImage { id: *id, at: self.place_in(table.at, *id), bytes: slice.bytes() });
            }
        }
        Ok(images)
    }

    /// A taken slice is on disk, or could not be written and is dirty again.
    pub(super) fn stored(&self, id: SliceId, ok: bool) {
        self.with(id, |slice| {
            let mut state = slice.state();
            state.writing = false;
            if !ok && !std::mem::replace(&mut state.dirty, true) {
                self.dirty_count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Takes the dirty L1 entries: index and value.
    pub(super) fn take_dirty_l1(&self) -> Vec<(usize, u64)> {
        let mut l1 = self.l1.write().unwrap_or_else(PoisonError::into_inner);
        let dirty = std::mem::take(&mut l1.dirty);
        dirty.into_iter().filter_map(|index| Some((index, *l1.entries.get(index)?))).collect()
    }

    /// L1 entries that could not be written.
    pub(super) fn l1_dirty_again(&self, entries: &[(usize, u64)]) {
        let mut l1 = self.l1.write().unwrap_or_else(PoisonError::into_inner);
        l1.dirty.extend(entries.iter().map(|(index, _)| *index));
    }

    /// Keeps every table from being made or moved.
    pub(super) async fn lock_all_tables<'t>(
        &'t self,
        io: Io<'t>,
    ) -> drystone_core::request::serialise::RangeGuard<'t> {
        let all = GuestRange::new(GuestOffset::ZERO, drystone_base::LEN_MAX);
        self.loading.lock(io, all, "L2 tables").await
    }

    /// Keeps slices of a table from being loaded while the table is made or moved.
    pub(super) async fn lock_table<'t>(
        &'t self,
        io: Io<'t>,
        l1_index: usize,
    ) -> drystone_core::request::serialise::RangeGuard<'t> {
        let first = GuestOffset::new(l1_index as u64 * self.slices_per_table());
        self.loading.lock(io, GuestRange::new(first, self.slices_per_table()), "L2 table").await
    }
}

/// Takes out a slice that is clean and was not used lately; `false` if there is none.
fn evict_one(stripe: &mut Stripe) -> bool {
    let idle = |slice: &Slice| {
        let state = slice.state();
        !state.dirty && !state.writing
    };
    let second_chance = |slice: &Arc<Slice>| !slice.used.swap(false, Ordering::Relaxed);
    let victim = stripe
        .iter()
        .find(|(_, slice)| idle(slice) && second_chance(slice))
        .or_else(|| stripe.iter().find(|(_, slice)| idle(slice)))
        .map(|(id, _)| *id);
    victim.is_some_and(|id| stripe.remove(&id).is_some())
}

impl Slice {
    fn state(&self) -> std::sync::MutexGuard<'_, SliceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry at `index`; 0 past the end.
    pub(super) fn raw(&self, index: usize) -> u64 {
        self.entries.get(index).map_or(0, |entry| entry.load(Ordering::Acquire))
    }

    fn bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|entry| entry.load(Ordering::Acquire).to_be_bytes()).collect()
    }
}
