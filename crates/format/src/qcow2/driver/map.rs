//! The mapping in memory: the L1 table whole, L2 tables in slices.
//!
//! ```text
//!   L1 (all)     [ t0 | t1 | -  | t3 ... ]
//!                  |
//!   L2 table t0  [ slice 0 | slice 1 | ... ]     a slice is 4 KiB of a table (the whole table if that is smaller)
//! ```
//! Invariant: a slice enters under the lock of its number, and a table is made or moved under the lock of all of its
//! slices, so no stale copy replaces a newer one. Not here: what is durable when (`store`), who may change an entry
//! (`write`), which slices are in memory (`cache`).

use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, LEN_MAX, Result};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;
use drystone_core::request::serialise::{RangeGuard, RangeLocks};

use super::cache::{Published, SliceId, SliceImage, Slices, Wanted};
use super::l1::L1;
use super::load_table_as_is;
use super::runs::Shape;
use crate::qcow2::entry::{Allocated, EntryFault, L2Entry, RawEntry, Table, parse_l1};
use crate::qcow2::geometry::{ClusterBits, ENTRY_BYTES};
use crate::qcow2::l2::L2Format;

/// Largest slice: 4 KiB, as a power of two.
const SLICE_BYTES_BITS_MAX: u32 = 12;

/// Where the entry of a guest offset is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) slice: SliceId,
    /// Index into the slice.
    pub(super) index: usize,
    /// Byte in the cluster.
    pub(super) byte: u64,
}

/// The mapping of one image.
pub(super) struct Map {
    cluster: ClusterBits,
    l2: L2Format,
    /// A slice has `1 << slice_bits` entries, a table `1 << table_bits` slices.
    slice_bits: u32,
    table_bits: u32,
    l1: L1,
    pub(super) slices: Slices,
    /// How many slices of a table are read at once: a power of two.
    read_slices: AtomicU64,
    /// Slices that are being loaded, and tables that are being made or moved, by numbers of slices.
    tables: RangeLocks,
}

impl Map {
    pub(super) fn new(l2: L2Format, l1: Vec<u64>, (cache_bytes, read_bytes): (u64, u64)) -> Self {
        let slice_bytes_bits = l2.cluster().bits().min(SLICE_BYTES_BITS_MAX);
        let slice_bits = slice_bytes_bits - ENTRY_BYTES.ilog2() - l2.words_bits();
        let shape = Shape {
            words: 1 << (slice_bits + l2.words_bits()),
            words_bits: l2.words_bits(),
            cluster_bytes: l2.cluster().bytes(),
        };
        let table_bits = l2.entries_bits() - slice_bits;
        let slices_all = (l1.len() as u64) << table_bits;
        let map = Self {
            cluster: l2.cluster(),
            l2,
            slice_bits,
            table_bits,
            l1: L1::new(l1),
            slices: Slices::new(slices_in(cache_bytes, slice_bytes_bits), slices_all, shape),
            tables: RangeLocks::default(),
            read_slices: AtomicU64::new(1),
        };
        map.set_cache(cache_bytes, read_bytes);
        map
    }

    fn slice_bytes_bits(&self) -> u32 {
        self.slice_bits + self.l2.words_bits() + ENTRY_BYTES.ilog2()
    }

    /// Changes the bound of the cache, and how much is read at once.
    pub(super) fn set_cache(&self, bytes: u64, read_bytes: u64) {
        self.slices.set_max(slices_in(bytes, self.slice_bytes_bits()));
        self.read_slices.store(self.slices_read(read_bytes), Ordering::Relaxed);
    }

    /// How many slices are read at once: as many as fit into a power of two of bytes, and into a table.
    fn slices_read(&self, read_bytes: u64) -> u64 {
        (read_bytes >> self.slice_bytes_bits()).clamp(1, 1 << self.table_bits)
    }

    /// How L2 tables are to be read.
    #[inline]
    pub(super) const fn l2(&self) -> L2Format {
        self.l2
    }

    pub(super) fn slice_entries(&self) -> usize {
        1 << self.slice_bits
    }

    #[inline]
    pub(super) fn spot(&self, at: GuestOffset) -> Spot {
        let cluster = at.get() >> self.cluster.bits();
        let index = cluster & ((1 << self.slice_bits) - 1);
        Spot {
            slice: SliceId(cluster >> self.slice_bits),
            index: usize::try_from(index).unwrap_or(usize::MAX),
            byte: at.get() & (self.cluster.bytes() - 1),
        }
    }

    /// The index of the L1 entry of the table that a slice is of.
    pub(super) fn l1_index(&self, slice: SliceId) -> usize {
        usize::try_from(slice.0 >> self.table_bits).unwrap_or(usize::MAX)
    }

    /// Bytes of the disk from `spot` to the end of its slice.
    pub(super) fn slice_left_bytes(&self, spot: Spot) -> u64 {
        ((self.slice_entries() - spot.index) as u64) * self.cluster.bytes() - spot.byte
    }

    /// Bytes of the disk from `spot` to the end of its table.
    pub(super) fn table_left_bytes(&self, spot: Spot) -> u64 {
        let slice_in_table = spot.slice.0 & ((1 << self.table_bits) - 1);
        let slices_behind = (1 << self.table_bits) - 1 - slice_in_table;
        self.slice_left_bytes(spot) + (slices_behind << (self.slice_bits + self.cluster.bits()))
    }

    pub(super) fn l1_len(&self) -> usize {
        self.l1.len()
    }

    /// The L2 table of a slice.
    pub(super) fn table(&self, slice: SliceId) -> Result<Option<Allocated>> {
        let index = self.l1_index(slice);
        match self.l1.raw(index) {
            0 => Ok(None),
            raw => self.parse_table(index, raw),
        }
    }

    fn parse_table(&self, index: usize, raw: u64) -> Result<Option<Allocated>> {
        parse_l1(raw, self.cluster).map_err(|fault| {
            let error = fault.at(Table::L1, HostOffset::ZERO, index as u64, raw);
            Error::new(Kind::Corrupt, "the L1 table is damaged").because(error)
        })
    }

    /// Every L2 table.
    pub(super) fn all_tables(&self) -> impl Iterator<Item = Result<Allocated>> + '_ {
        let tables = self.l1.raws().enumerate().map(|(index, raw)| self.parse_table(index, raw));
        tables.filter_map(Result::transpose)
    }

    /// The L1 entry of the table that a slice is of is `raw` now.
    pub(super) fn set_table(&self, slice: SliceId, raw: u64) {
        self.l1.set(self.l1_index(slice), raw);
    }

    /// Takes the table of an L1 entry out of the mapping, and its slices, which are stored, out of memory. With all tables and
    /// the storing of metadata locked.
    pub(super) fn drop_table(&self, index: usize) -> Result<Option<Allocated>> {
        let Some(table) = self.parse_table(index, self.l1.raw(index))? else { return Ok(None) };
        self.l1.set(index, 0);
        let first = (index as u64) << self.table_bits;
        (first..first + (1 << self.table_bits)).for_each(|slice| self.slices.forget(SliceId(slice)));
        Ok(Some(table))
    }

    /// The whole L1 table, grown to `len` entries.
    pub(super) fn l1_grown(&self, len: usize) -> Vec<u64> {
        let mut entries: Vec<u64> = self.l1.raws().collect();
        entries.resize(len.max(entries.len()), 0);
        entries
    }

    /// The L1 table has got `len` entries.
    pub(super) fn grow_l1(&self, len: usize) {
        self.l1.grow(len);
    }

    /// Starts again with another L1 table. Nothing is dirty and nobody is inside.
    pub(super) fn reset(&self, l1: &[u64]) {
        self.l1.reset(l1);
        self.slices.clear();
    }

    /// What the entry `raw` at `spot` says. In a data file, every cluster has its place.
    #[inline]
    pub(super) fn entry(&self, spot: Spot, raw: RawEntry) -> Result<L2Entry, EntryFault> {
        let entry = L2Entry::parse(raw, self.l2)?;
        match entry.place().filter(|_| self.l2.has_data_file()) {
            Some(place) if place.at != self.place_in_data_file(spot) => Err(EntryFault::Elsewhere(place.at)),
            _ => Ok(entry),
        }
    }

    /// Where the cluster of `spot` is in a data file.
    pub(super) fn place_in_data_file(&self, spot: Spot) -> HostOffset {
        let cluster = (spot.slice.0 << self.slice_bits) + spot.index as u64;
        HostOffset::new(cluster << self.cluster.bits())
    }

    /// As [`Self::entry`], with where it was found.
    pub(super) fn parse(&self, spot: Spot, raw: RawEntry) -> Result<L2Entry> {
        self.entry(spot, raw).map_err(|fault| {
            let at = self.table(spot.slice).ok().flatten().map_or(HostOffset::ZERO, |table| table.at);
            let error = fault.at(Table::L2, at, spot.index as u64, raw.descriptor);
            Error::new(Kind::Corrupt, "an L2 table is damaged").because(error)
        })
    }

    /// Entries from `spot` on, at most `count` and to the end of the slice, which is loaded if it must be. There is a
    /// table.
    pub(super) async fn entries(&self, io: Io<'_>, spot: Spot, count: usize) -> Result<Vec<RawEntry>> {
        loop {
            let raws = self.slices.with(spot.slice, |slice| slice.raws(spot.index, count).collect());
            match raws {
                Some(raws) => return Ok(raws),
                None => self.load(io, spot.slice).await?,
            }
        }
    }

    /// Replaces entries from `spot` on that nobody else may change now.
    pub(super) async fn publish(
        &self,
        io: Io<'_>,
        spot: Spot,
        expected: &[RawEntry],
        new: &[RawEntry],
    ) -> Result<()> {
        loop {
            match self.slices.publish(spot.slice, spot.index, (expected, new)) {
                Published::Done => return Ok(()),
                Published::Changed => panic!("a mapping changed under the request that holds it"),
                Published::Absent => self.load_for(io, spot.slice, Wanted::Change).await?,
            }
        }
    }

    /// Makes it known what a slice says, unless it is or has no table. Its neighbours come along if so much is read at once.
    pub(super) async fn load(&self, io: Io<'_>, slice: SliceId) -> Result<()> {
        self.load_for(io, slice, Wanted::Look).await
    }

    async fn load_for(&self, io: Io<'_>, slice: SliceId, wanted: Wanted) -> Result<()> {
        let count = self.read_slices.load(Ordering::Relaxed);
        let first = SliceId(slice.0 & !(count - 1));
        let range = GuestRange::new(GuestOffset::new(first.0), count);
        let _loading = self.tables.lock(io, range, "L2 slice").await;
        if self.slices.has(slice, wanted) {
            return Ok(());
        }
        let Some(table) = self.table(slice)? else { return Ok(()) };
        let slice_len = 1 << self.slice_bytes_bits();
        let len = slice_len * usize::try_from(count).unwrap_or(1);
        io.file()?.event(Event::L2Load).await;
        let bytes = load_table_as_is(io.file()?, self.place_in(table.at, first), len).await?;
        io.sim_point().await;
        let parts = bytes.as_slice().chunks(slice_len);
        for (id, bytes) in (first.0..).zip(parts.clone()).filter(|(id, _)| *id != slice.0) {
            self.bring(SliceId(id), bytes, Wanted::Look);
        }
        // The one that is wanted comes last: it is the last to leave.
        let own = parts.into_iter().nth(usize::try_from(slice.0 - first.0).unwrap_or(0)).unwrap_or(&[]);
        self.bring(slice, own, wanted);
        Ok(())
    }

    /// As [`Self::load`], if that takes no wait; whether it is known now what the slice says.
    pub(super) fn load_now(&self, io: Io<'_>, slice: SliceId) -> bool {
        let count = self.read_slices.load(Ordering::Relaxed);
        let first = slice.0 & !(count - 1);
        let range = GuestRange::new(GuestOffset::new(first), count);
        let Some(_loading) = self.tables.try_lock(io, range) else { return false };
        let (Ok(Some(table)), Ok(file)) = (self.table(slice), io.file()) else { return false };
        // The one that is wanted comes last: it is the last to leave.
        let others = (first..first + count).filter(|id| *id != slice.0);
        others.chain([slice.0]).map(SliceId).all(|id| self.bring_now(file, table, id))
    }

    fn bring_now(&self, file: Io<'_>, table: Allocated, slice: SliceId) -> bool {
        let mut bytes = [0; 1 << SLICE_BYTES_BITS_MAX];
        let Some(bytes) = bytes.get_mut(..1 << self.slice_bytes_bits()) else { return false };
        if self.slices.has(slice, Wanted::Look) {
            return true;
        }
        let is_read = file.read_now(self.place_in(table.at, slice).in_child(), bytes);
        if is_read {
            self.bring(slice, bytes, Wanted::Look);
        }
        is_read
    }

    /// Brings a slice in that was read; what is missing of it is zeroes.
    fn bring(&self, slice: SliceId, bytes: &[u8], wanted: Wanted) {
        let mut words = [0; (1 << SLICE_BYTES_BITS_MAX) / 8];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        let len = (1 << self.slice_bytes_bits()) / 8;
        self.slices.bring(slice, words.get(..len).unwrap_or(&words), wanted);
    }

    fn place_in(&self, table: HostOffset, slice: SliceId) -> HostOffset {
        let slice_in_table = slice.0 & ((1 << self.table_bits) - 1);
        table.plus(slice_in_table << self.slice_bytes_bits())
    }

    /// As [`Slices::take_dirty`].
    pub(super) fn take_dirty(&self) -> Vec<SliceImage> {
        let place = |slice| Some(self.place_in(self.table(slice).ok().flatten()?.at, slice));
        self.slices.take_dirty(place)
    }

    /// Takes the dirty L1 entries: index and value.
    pub(super) fn take_dirty_l1(&self) -> Vec<(usize, u64)> {
        self.l1.take_dirty()
    }

    /// L1 entries that could not be written.
    pub(super) fn l1_dirty_again(&self, entries: &[(usize, u64)]) {
        self.l1.dirty_again(entries);
    }

    /// Keeps every table from being made or moved.
    pub(super) async fn lock_all_tables<'t>(&'t self, io: Io<'t>) -> RangeGuard<'t> {
        let all = GuestRange::new(GuestOffset::ZERO, LEN_MAX);
        self.tables.lock(io, all, "L2 tables").await
    }

    /// Keeps slices of a table from being loaded while the table is made or moved.
    pub(super) async fn lock_table<'t>(&'t self, io: Io<'t>, slice: SliceId) -> RangeGuard<'t> {
        let first = GuestOffset::new(slice.0 >> self.table_bits << self.table_bits);
        self.tables.lock(io, GuestRange::new(first, 1 << self.table_bits), "L2 table").await
    }
}

fn slices_in(bytes: u64, slice_bytes_bits: u32) -> usize {
    usize::try_from(bytes >> slice_bytes_bits).unwrap_or(usize::MAX)
}
