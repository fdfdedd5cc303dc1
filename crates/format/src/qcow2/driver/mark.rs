//! The header on disk: marks before the first write, changes, the mark of damage.
//!
//! A header is replaced in one sector, durably, with a flush before it. When that fails, either header may be on disk: the
//! old one is written again before anything else is, so what the new one points to must not be used until then (it goes
//! the way of unlinked clusters).
//!
//! Invariant: only the first sector changes, and the free part of the first cluster when the backing file gets another
//! name; unless it does, extensions and names stay where they are.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::driver::BackingFile;
use drystone_core::request::io::Io;

use super::refs::Run;
use super::{Qcow2, load_table, write_bytes};
use crate::qcow2::bitmap::BitmapsExtension;
use crate::qcow2::feature::IncompatibleBit;
use crate::qcow2::geometry::{ENTRY_BYTES, HostCluster};
use crate::qcow2::header::{Header, HeaderChange, Renamed, SECTOR_BYTES, Version};
use crate::qcow2::snapshot::{SnapshotError, Snapshots, TABLE_BYTES_MAX};

/// First attempt at reading the table of snapshots, whose length is known only when it was read.
const SNAPSHOT_TABLE_BYTES: u64 = 64 << 10;

/// The header as it is, or will be when it is certain again.
pub(super) struct HeaderNow {
    header: Mutex<(Header, Vec<u8>)>,
    is_uncertain: AtomicBool,
}

impl HeaderNow {
    /// For an image that starts with `bytes`.
    pub(super) fn new(header: Header, bytes: &[u8]) -> Self {
        let sector = bytes.iter().copied().take(SECTOR_BYTES).collect();
        Self { header: Mutex::new((header, sector)), is_uncertain: AtomicBool::new(false) }
    }

    fn get(&self) -> MutexGuard<'_, (Header, Vec<u8>)> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn replace(&self, other: Self) {
        *self.get() = other.header.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.is_uncertain.store(false, Ordering::Release);
    }
}

/// Whether an image may be written.
pub(super) struct Condition(AtomicU8);

impl Condition {
    /// The marks are not on disk.
    const UNMARKED: u8 = 0;
    /// The header on disk says what a written image must say, and its tables are known.
    const MARKED: u8 = 1;
    /// Damage was found: nothing is written any more.
    const DAMAGED: u8 = 2;
    /// The image is another one on disk than this driver knows: nothing is written any more before it is opened again.
    const AMENDED: u8 = 3;

    pub(super) fn new() -> Self {
        Self(AtomicU8::new(Self::UNMARKED))
    }

    #[inline]
    pub(super) fn is_marked(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::MARKED
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::DAMAGED
    }

    pub(super) fn is_amended(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::AMENDED
    }

    pub(super) fn set_amended(&self) {
        self.0.store(Self::AMENDED, Ordering::Release);
    }

    fn set_marked(&self) {
        let _ = self.0.compare_exchange(Self::UNMARKED, Self::MARKED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether that is news.
    fn set_damaged(&self) -> bool {
        self.0.swap(Self::DAMAGED, Ordering::AcqRel) != Self::DAMAGED
    }

    pub(super) fn reset(&self) {
        self.0.store(Self::UNMARKED, Ordering::Release);
    }
}

/// Data of the guest where the image has tables of its own.
#[derive(Debug, thiserror::Error)]
#[error("{len_bytes} bytes at {at} of the image")]
pub(super) struct Overlap {
    pub(super) at: HostOffset,
    pub(super) len_bytes: u64,
}

impl Qcow2 {
    /// What the image's header says now.
    #[must_use]
    pub fn header_now(&self) -> Header {
        self.header.get().0.clone()
    }

    /// Whether the header names a backing file.
    pub(super) fn names_backing(&self) -> bool {
        self.header.get().0.backing_name().is_some()
    }

    /// Whether the data file is a raw image of the disk.
    pub(super) fn is_data_raw(&self) -> bool {
        self.header.get().0.is_data_raw()
    }

    pub(super) fn demand_undamaged(&self) -> Result<()> {
        if self.condition.is_damaged() {
            return Err(Error::new(Kind::Corrupt, "the image is damaged; nothing is written to it any more"));
        }
        if self.condition.is_amended() {
            return Err(Error::new(Kind::Unsupported, "the image was amended; it has to be opened again"));
        }
        Ok(())
    }

    /// Passes a result on. After the first sign of damage nothing is written any more but that the image is damaged.
    pub(super) async fn watch<T>(&self, io: Io<'_>, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.kind() == Kind::Corrupt
        {
            if self.condition.set_damaged() {
                let overlap =
                    std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Overlap>());
                io.tell_damage(error.report(), overlap.map(|overlap| (overlap.at, overlap.len_bytes)));
            }
            // Who may not write leaves the mark to somebody who may.
            let _ = self.mark_damage(io).await;
        }
        result
    }

    /// Says in the header that the image is damaged, so that nobody opens it for writing before it is repaired.
    pub(super) async fn mark_damage(&self, io: Io<'_>) -> Result<()> {
        let is_needed = || {
            let is_marked = self.header.get().0.incompatible().has(IncompatibleBit::Corrupt);
            self.version == Version::V3 && !is_marked && !io.node().is_read_only()
        };
        if !is_needed() {
            return Ok(());
        }
        let _structure = self.lock_structure(io).await;
        if !is_needed() {
            return Ok(());
        }
        let incompatible = self.header.get().0.incompatible().with(IncompatibleBit::Corrupt, true);
        self.change_header(io, &HeaderChange { incompatible: Some(incompatible), ..HeaderChange::default() })
            .await
    }

    /// What must be done before the first write: no autoclear feature is left that we do not keep, and no two tables of
    /// the image overlap.
    pub(super) async fn mark_for_writing(&self, io: Io<'_>) -> Result<()> {
        self.demand_undamaged()?;
        if self.condition.is_marked() {
            return Ok(());
        }
        self.repair_if_dirty(io).await?;
        let _structure = self.lock_structure(io).await;
        if self.condition.is_marked() {
            return Ok(());
        }
        self.settle_header(io).await?;
        self.owned.clear();
        self.collect_tables(io).await?;
        self.mark_bitmaps(io).await?;
        let marked = self.header_now().for_writing();
        if let Some(marked) = marked.map_err(cannot_change)? {
            self.write_header(io, marked).await?;
        }
        self.condition.set_marked();
        Ok(())
    }

    pub(super) async fn collect_tables(&self, io: Io<'_>) -> Result<()> {
        let header = self.header_now();
        let whole = |at: HostOffset, bytes: u64| self.clusters_of(at, self.cluster.clusters(bytes));
        let mut runs = vec![
            Run { first: HostCluster::new(0), count: 1 },
            whole(header.l1().at, u64::from(header.l1().entries) * ENTRY_BYTES),
            self.clusters_of(header.refcounts().at, u64::from(header.refcounts().clusters)),
        ];
        if header.snapshots().count > 0 {
            let snapshots = load_snapshots(io.file()?, &header).await?;
            runs.push(whole(header.snapshots().at, snapshots.table_len_bytes));
            for snapshot in snapshots.list {
                let l1 = snapshot.l1(self.cluster);
                let l1 =
                    l1.map_err(|e| Error::new(Kind::Corrupt, "an internal snapshot is damaged").because(e))?;
                runs.push(whole(l1.at, u64::from(l1.entries) * ENTRY_BYTES));
            }
        }
        runs.extend(self.bitmaps.runs());
        for run in runs.into_iter().filter(|run| run.count > 0) {
            self.owned.add(run)?;
        }
        for block in self.refs.all_blocks()? {
            self.owned.add(self.clusters_of(block, 1))?;
        }
        for table in self.map.all_tables() {
            self.owned.add(self.clusters_of(table?.at, 1))?;
        }
        self.collect_inactive(io).await
    }

    /// Finds out anew where the L2 tables of internal snapshots are, if they are to be guarded. Before any of them is free.
    pub(super) async fn collect_inactive(&self, io: Io<'_>) -> Result<()> {
        if !self.options().guards_inactive {
            return Ok(());
        }
        let snapshots = self.snapshots_now(io).await?.list;
        let tables = self.snapshot_tables(io, &snapshots).await?;
        let cluster = |at: u64| self.cluster.host_cluster(HostOffset::new(at)).index();
        self.owned.set_inactive(tables.into_keys().map(cluster).collect());
        Ok(())
    }

    /// Replaces fields of the header, durably. With the structure lock held.
    pub(super) async fn change_header(&self, io: Io<'_>, change: &HeaderChange) -> Result<()> {
        let header = self.header_now().changed(change).map_err(cannot_change)?;
        self.write_header(io, header).await
    }

    /// Makes the header name another backing file, or none, and stores everything before that. Nobody else is inside.
    pub(super) async fn rename_backing(&self, io: Io<'_>, backing: Option<&BackingFile>) -> Result<()> {
        if backing.is_some() && self.is_data_raw() {
            let text = "an image whose data file is a raw image cannot have a backing file";
            return Err(Error::new(Kind::InvalidInput, text));
        }
        self.mark_for_writing(io).await?;
        let _structure = self.lock_structure(io).await;
        self.store_locked(io).await?;
        let name = backing.map(|backing| backing.name.as_slice());
        let format = backing.and_then(|backing| backing.format.as_deref());
        let renamed = {
            let now = self.header.get();
            now.0.renamed(&now.1, name, format).map_err(cannot_change)?
        };
        self.write_placed(io, renamed).await
    }

    /// Makes the header point to another directory of bitmaps, or to none, durably. With the structure lock held, and
    /// everything that it will point to written.
    pub(super) async fn point_to_bitmaps(&self, io: Io<'_>, bitmaps: Option<BitmapsExtension>) -> Result<()> {
        let placed = {
            let now = self.header.get();
            now.0.with_bitmaps(&now.1, bitmaps).map_err(cannot_change)?
        };
        self.write_placed(io, placed).await
    }

    /// Makes the header name another data file, durably. With the structure lock held.
    pub(super) async fn rename_data_file(&self, io: Io<'_>, name: &[u8]) -> Result<()> {
        let placed = {
            let now = self.header.get();
            now.0.with_data_file_name(&now.1, name).map_err(cannot_change)?
        };
        self.write_placed(io, placed).await
    }

    /// Fails if there is no place in the header that could point to bitmaps.
    pub(super) fn demand_header_room(&self) -> Result<()> {
        let now = self.header.get();
        let directory = HostOffset::new(self.cluster.bytes());
        let bitmaps = BitmapsExtension { count: 1, directory, directory_len_bytes: 1 };
        now.0.with_bitmaps(&now.1, Some(bitmaps)).map(drop).map_err(cannot_change)
    }

    /// Whether the header on disk may be another one than [`Self::header_now`].
    pub(super) fn header_is_uncertain(&self) -> bool {
        self.header.is_uncertain.load(Ordering::Acquire)
    }

    async fn write_placed(&self, io: Io<'_>, placed: Renamed) -> Result<()> {
        if let Some((at, name)) = &placed.name {
            write_bytes(io.file()?, HostOffset::new(*at), name).await?;
        }
        self.write_sector(io, placed.header, placed.sector).await
    }

    /// Makes the image one of another version. With the structure lock held, and everything stored.
    pub(super) async fn change_version(&self, io: Io<'_>, version: Version) -> Result<()> {
        let changed = {
            let now = self.header.get();
            now.0.in_version(&now.1, version).map_err(cannot_change)?
        };
        self.write_placed(io, changed).await
    }

    async fn write_header(&self, io: Io<'_>, header: Header) -> Result<()> {
        let mut bytes = self.header.get().1.clone();
        header.patch(&mut bytes);
        self.write_sector(io, header, bytes).await
    }

    /// Replaces the first sector, durably.
    async fn write_sector(&self, io: Io<'_>, header: Header, bytes: Vec<u8>) -> Result<()> {
        let file = io.file()?;
        // Nothing is uncertain otherwise.
        demand_writable(file)?;
        file.flush().await?;
        self.header.is_uncertain.store(true, Ordering::Release);
        write_bytes(file, HostOffset::ZERO, &bytes).await?;
        file.flush().await?;
        *self.header.get() = (header, bytes);
        self.header.is_uncertain.store(false, Ordering::Release);
        Ok(())
    }

    /// Writes the header again if it is not certain which one is on disk. With the structure lock held.
    pub(super) async fn settle_header(&self, io: Io<'_>) -> Result<()> {
        if !self.header.is_uncertain.load(Ordering::Acquire) {
            return Ok(());
        }
        self.write_header(io, self.header_now()).await
    }
}

/// Fails if the image has just become read-only.
pub(super) fn demand_writable(file: Io<'_>) -> Result<()> {
    if file.perm().writes() {
        return Ok(());
    }
    Err(Error::new(Kind::ReadOnly, "the image is read-only"))
}

fn cannot_change(error: crate::qcow2::header::HeaderError) -> Error {
    Error::new(Kind::InvalidImage, "cannot change the header").because(error)
}

pub(super) async fn load_snapshots(file: Io<'_>, header: &Header) -> Result<Snapshots> {
    let damaged = |error| Error::new(Kind::Corrupt, "the table of snapshots is damaged").because(error);
    let table = header.snapshots();
    let left = file.len().saturating_sub(table.at.get());
    let mut len = SNAPSHOT_TABLE_BYTES;
    loop {
        let bytes = load_table(file, table.at, usize::try_from(len.min(left.max(1))).unwrap_or(0)).await?;
        match Snapshots::parse(&bytes, table.count) {
            Err(SnapshotError::Truncated(_)) if len < left && len <= TABLE_BYTES_MAX => len *= 8,
            result => return result.map_err(damaged),
        }
    }
}
