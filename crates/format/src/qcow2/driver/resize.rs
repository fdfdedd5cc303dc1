//! Another length of the disk.
//!
//! ```text
//!   grow     L1 table large enough ─► the new part reads as zeroes (or has its space) ─► stored ─► the header says it
//!   shrink   the header says it ─► mappings behind the end go ─► their tables go ─► at the close, the file ends earlier
//! ```
//! So at a cut in between the disk has one of the two lengths, and all of it. What is mapped behind the end of the disk (by a
//! growth or a shrinking that was cut off, or by writes that a shrinking overtook) is dropped before it could be seen.
//!
//! Not here: space for the new part (`preallocate`), what is given up by shrinking (`shrink`).

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, LEN_MAX, Result};
use drystone_buf::Buf;
use drystone_core::disk::Preallocation;
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::passes::Cause;
use super::refs::Run;
use super::zero::Become;
use super::{Qcow2, write_bytes};
use crate::qcow2::entry::{L2Entry, Part};
use crate::qcow2::geometry::{ENTRY_BYTES, L1_BYTES_MAX};
use crate::qcow2::header::{HeaderChange, L1Table, Version};

impl Qcow2 {
    /// Makes the disk `len` bytes long; new bytes read as zeroes.
    pub(super) async fn set_len(&self, io: Io<'_>, len: u64, preallocation: Preallocation) -> Result<()> {
        let _resizing = self.resizing.lock(io, GuestRange::new(GuestOffset::ZERO, 1), "size").await;
        let old_len = self.header_now().len_guest();
        self.demand_len(io, (old_len, len), preallocation)?;
        if len == old_len {
            return Ok(());
        }
        self.demand_bitmaps_can_resize(io)?;
        self.mark_for_writing(io).await?;
        // Preallocation makes clusters that are holes.
        self.holes.forget();
        if len < old_len {
            return self.shrink(io, len).await;
        }
        self.grow_l1(io, len).await?;
        self.drop_clusters(io, (old_len, len)).await?;
        self.zero_tail(io, old_len).await?;
        self.hide_backing(io, old_len, len).await?;
        self.grow_data(io, (old_len, len), preallocation).await?;
        self.preallocate(io, (old_len, len), preallocation).await?;
        self.store_metadata(io).await?;
        self.change_len(io, len).await
    }

    pub(super) async fn change_len(&self, io: Io<'_>, len: u64) -> Result<()> {
        let _structure = self.lock_structure(io).await;
        self.change_header(io, &HeaderChange { len_guest: Some(len), ..HeaderChange::default() }).await
    }

    fn demand_len(&self, io: Io<'_>, (old_len, len): (u64, u64), preallocation: Preallocation) -> Result<()> {
        let refused = |kind, text: &str| Err(Error::new(kind, text).in_option("size"));
        if !len.is_multiple_of(512) {
            return refused(Kind::InvalidInput, "the new size must be a multiple of 512");
        }
        if len < old_len && preallocation != Preallocation::Off {
            return Err(Error::new(Kind::InvalidInput, "preallocation is for growing only")
                .in_option("preallocation"));
        }
        if len > LEN_MAX || self.map.l2().l1_entries(len) * ENTRY_BYTES > L1_BYTES_MAX {
            return refused(Kind::TooLarge, "the new size needs a larger L1 table than the format allows");
        }
        if self.version == Version::V2 && self.header_now().snapshots().count > 0 && len != old_len {
            // Such a snapshot does not say how long the disk was.
            let text = "a version 2 image with internal snapshots cannot be resized";
            return Err(Error::new(Kind::Unsupported, text));
        }
        if self.version == Version::V2 && shows_backing(io, old_len) && len > old_len {
            let text =
                "the backing file is longer than the disk and would show in the new part (version 2 image)";
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(())
    }

    /// Drops what is mapped behind the shorter of two lengths and before the end of the longer one.
    async fn drop_clusters(&self, io: Io<'_>, (short, long): (u64, u64)) -> Result<()> {
        let range = self.clusters_between(short, long);
        self.change_clusters(io, range, Become::Unmapped).await
    }

    /// The clusters of the disk behind the one in which a disk of `short` bytes ends, up to the end of one of `long`.
    pub(super) fn clusters_between(&self, short: u64, long: u64) -> GuestRange {
        let start = short.next_multiple_of(self.cluster.bytes()).min(LEN_MAX);
        let end = long.next_multiple_of(self.cluster.bytes()).min(LEN_MAX);
        GuestRange::new(GuestOffset::new(start), end.saturating_sub(start))
    }

    /// What lies behind the end of the disk in its last cluster becomes visible: it must be zeroes.
    async fn zero_tail(&self, io: Io<'_>, old_len: u64) -> Result<()> {
        let end = old_len.next_multiple_of(self.cluster.bytes());
        let part_end = old_len.next_multiple_of(self.map.l2().subcluster_bytes());
        let rest = GuestRange::new(GuestOffset::new(part_end), end - part_end);
        if self.is_empty_at(io, GuestOffset::new(old_len)).await? && !shows_backing(io, old_len) {
            return Ok(());
        }
        let is_done = match self.change_clusters(io, rest, Become::Zero).await {
            Err(error) if error.kind() == Kind::Unsupported => false,
            result => result.map(|()| true)?,
        };
        let end = if is_done { part_end } else { end };
        let at = GuestOffset::new(old_len);
        let part = || self.subcluster_at(self.map.spot(at));
        let shows_something = end > old_len
            && match self.entry_at(io, at).await?.part(part()) {
                Part::Zero => false,
                Part::Unallocated => shows_backing(io, old_len),
                Part::Data | Part::Compressed => true,
            };
        if !shows_something {
            return Ok(());
        }
        self.write_zeroes_behind(io, old_len, end).await
    }

    /// Whether nothing is in any part of the cluster that ends a disk of so many bytes.
    async fn is_empty_at(&self, io: Io<'_>, at: GuestOffset) -> Result<bool> {
        if at.get().is_multiple_of(self.cluster.bytes()) {
            return Ok(false);
        }
        Ok(matches!(self.entry_at(io, at).await?, L2Entry::Unallocated))
    }

    /// Writes zero bytes from the end of the disk to `end`, in its last cluster.
    pub(super) async fn write_zeroes_behind(&self, io: Io<'_>, old_len: u64, end: u64) -> Result<()> {
        let zeroes = Buf::zeroed(usize::try_from(end - old_len).unwrap_or(0));
        self.write_clusters(io, GuestOffset::new(old_len), zeroes, WriteFlags::default()).await.0
    }

    /// A backing image that is longer than the old disk must not show in the new part.
    async fn hide_backing(&self, io: Io<'_>, old_len: u64, len: u64) -> Result<()> {
        let backing = io.child(ChildKey::Backing).map_or(0, |backing| backing.len());
        self.change_clusters(io, self.clusters_between(old_len, backing.min(len)), Become::Zero).await
    }

    /// A data file is as long as the disk. If it is a raw image, or its clusters are to have their space, all of it shows.
    async fn grow_data(
        &self,
        io: Io<'_>,
        (old_len, len): (u64, u64),
        preallocation: Preallocation,
    ) -> Result<()> {
        if !self.map.l2().has_data_file() {
            return Ok(());
        }
        let data = self.data_file(io)?;
        let shows = self.is_data_raw() || preallocation != Preallocation::Off;
        let there = data.len().min(len).saturating_sub(old_len);
        if shows && let Some(range) = GuestRange::checked(old_len, there).filter(|range| !range.is_empty()) {
            data.write_zeroes(range, ZeroFlags { may_unmap: true, ..ZeroFlags::default() }).await?;
        }
        if data.len() < len {
            let space =
                if preallocation == Preallocation::Metadata { Preallocation::Off } else { preallocation };
            data.resize(len, space).await?;
        }
        match shows {
            true => self.change_clusters(io, self.clusters_between(old_len, len), Become::Mapped).await,
            false => Ok(()),
        }
    }

    /// Makes the L1 table large enough for `len` bytes of guest offsets. With the size locked.
    pub(super) async fn grow_l1(&self, io: Io<'_>, len: u64) -> Result<()> {
        let entries = usize::try_from(self.map.l2().l1_entries(len)).unwrap_or(usize::MAX);
        if entries <= self.map.l1_len() {
            return Ok(());
        }
        io.file()?.event(Event::L1GrowAllocTable).await;
        let run = self.reserve_exactly(io, self.cluster.clusters(entries as u64 * ENTRY_BYTES)).await?;
        let result = self.move_l1(io, run, entries).await;
        if result.is_err() {
            // The header on disk may point there until it is certain again.
            self.frees.unlink(run, Cause::Other);
        }
        result
    }

    async fn move_l1(&self, io: Io<'_>, run: Run, entries: usize) -> Result<()> {
        // No table is made or moved meanwhile, so after storing the copy on disk is what memory says.
        let _tables = self.map.lock_all_tables(io).await;
        let _structure = self.lock_structure(io).await;
        self.store_locked(io).await?;
        let at = self.cluster.host_start(run.first).unwrap_or(HostOffset::ZERO);
        let bytes: Vec<u8> = self.map.l1_grown(entries).iter().flat_map(|raw| raw.to_be_bytes()).collect();
        io.file()?.event(Event::L1GrowWriteTable).await;
        write_bytes(io.file()?, at, &bytes).await?;
        io.file()?.event(Event::L1GrowActivateTable).await;
        let count = u32::try_from(entries)
            .map_err(|_| Error::new(Kind::TooLarge, "the L1 table exceeds the largest size of its format"))?;
        let old = self.header_now().l1();
        let l1 = Some(L1Table { at, entries: count });
        self.change_header(io, &HeaderChange { l1, ..HeaderChange::default() }).await?;
        self.map.grow_l1(entries);
        let old_clusters = self.cluster.clusters(u64::from(old.entries) * ENTRY_BYTES);
        if old_clusters > 0 {
            let old = self.clusters_of(old.at, old_clusters);
            self.owned.remove(old);
            self.frees.unlink(old, Cause::Other);
        }
        self.owned.add(run)
    }
}

/// Whether a backing image is longer than a disk of `len` bytes on it.
pub(super) fn shows_backing(io: Io<'_>, len: u64) -> bool {
    io.child(ChildKey::Backing).is_some_and(|backing| backing.len() > len)
}
