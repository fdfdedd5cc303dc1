//! Who refers to which clusters.
//!
//! L1 tables are read first, and what they refer to is collected by offset; then every L2 table is read once, in the
//! order of the file, and counts as often as it was referred to. So a chain of snapshots costs one pass.
//!
//! Invariant: entries that break a rule are reported and then followed as far as they can be, so that one damaged
//! entry does not make everything behind it look lost.
//! Not here: refcounts ([`super::compare`]).

use drystone_base::{Error, HostOffset, LEN_MAX};

use super::finding::{Finding, Structure};
use super::reader::Source;
use super::{Check, CheckError, Uses};
use crate::qcow2::bitmap::{self, Bitmap, TableEntry};
use crate::qcow2::entry::{self, Allocated, Compressed, EntryFault, L2Entry, RawEntry, Table};
use crate::qcow2::geometry::ENTRY_BYTES;
use crate::qcow2::header::L1Table;
use crate::qcow2::snapshot::{SnapshotError, Snapshots, TABLE_BYTES_MAX};

/// What a collected L2 table takes in memory, with room for the map's own needs.
const TABLE_MEMORY_BYTES: usize = 40;
/// The first try at reading the snapshot table, whose length is not known before.
const SNAPSHOT_BYTES_FIRST: usize = 64 << 10;

impl<S: Source, F: FnMut(&Finding)> Check<'_, S, F> {
    /// The header and what it alone refers to.
    pub(super) fn walk_header(&mut self) -> Result<(), CheckError> {
        self.refer(Structure::Header, HostOffset::ZERO, self.cluster.bytes(), 1)?;
        if let Some(header) = self.header.extensions().encryption() {
            self.refer(Structure::EncryptionHeader, header.at, header.len_bytes, 1)?;
        }
        Ok(())
    }

    /// The active L1 table.
    pub(super) async fn walk_active(&mut self) -> Result<(), CheckError> {
        self.walk_l1(self.header.l1(), true).await
    }

    /// The snapshot table and the L1 tables of the snapshots.
    pub(super) async fn walk_snapshots(&mut self) -> Result<(), CheckError> {
        let table = self.header.snapshots();
        if table.count == 0 {
            return Ok(());
        }
        let snapshots = self.read_snapshots().await?;
        self.refer(Structure::SnapshotTable, table.at, snapshots.table_len_bytes, 1)?;
        for (index, snapshot) in snapshots.list.iter().enumerate() {
            if snapshot.is_incomplete(self.header.version()) {
                self.report(&Finding::SnapshotIncomplete { index }, 1);
                if let Some(mending) = &mut self.mending {
                    mending.snapshots.faults += 1;
                }
            }
            match snapshot.l1(self.cluster) {
                Ok(l1) => self.walk_l1(l1, false).await?,
                Err(error) => self.report(&Finding::SnapshotL1 { index, error }, 1),
            }
        }
        if let Some(mending) = &mut self.mending {
            mending.snapshots.old_len_bytes = snapshots.table_len_bytes;
            mending.snapshots.list = snapshots.list;
        }
        Ok(())
    }

    async fn read_snapshots(&mut self) -> Result<Snapshots, CheckError> {
        let table = self.header.snapshots();
        let mut bytes = Vec::new();
        loop {
            let at = table.at.checked_add(bytes.len() as u64).unwrap_or(HostOffset::new(LEN_MAX));
            let more = bytes.len().max(SNAPSHOT_BYTES_FIRST);
            let read = self.reader.read(at, more).await;
            bytes.append(&mut read.map_err(|error| CheckError::Read(Structure::SnapshotTable, error))?);
            let parsed = match &self.mending {
                Some(_) => self.save_snapshots(&bytes),
                None => Snapshots::parse(&bytes, table.count),
            };
            match parsed {
                Err(SnapshotError::Truncated(_)) if bytes.len() as u64 <= TABLE_BYTES_MAX => {}
                result => return Ok(result?),
            }
        }
    }

    /// An L1 table: counts its references to L2 tables and collects them.
    async fn walk_l1(&mut self, l1: L1Table, active: bool) -> Result<(), CheckError> {
        let what = if active { Structure::ActiveL1 } else { Structure::SnapshotL1 };
        let len_bytes = u64::from(l1.entries) * ENTRY_BYTES;
        self.refer(what, l1.at, len_bytes, 1)?;
        if !active && !self.may_read(what, l1.at, len_bytes) {
            return Ok(());
        }
        let mut index = 0;
        loop {
            let entries = match self.reader.read_entries(l1.at, l1.entries.into(), index).await {
                Ok(entries) if entries.is_empty() => return Ok(()),
                Ok(entries) => entries,
                Err(error) if active => return Err(CheckError::Read(what, error)),
                Err(error) => {
                    self.unreadable(what, l1.at, &error);
                    return Ok(());
                }
            };
            for raw in entries {
                if raw != 0 {
                    self.walk_l1_entry(l1.at, index, raw, active)?;
                }
                index += 1;
            }
        }
    }

    fn walk_l1_entry(
        &mut self,
        l1: HostOffset,
        index: u64,
        raw: u64,
        active: bool,
    ) -> Result<(), CheckError> {
        let Some(table) = entry::l1_shape(raw) else {
            self.report(&Finding::EntryWithoutTable { at: l1, index, raw }, 1);
            return Ok(());
        };
        if let reserved @ 1.. = entry::l1_reserved(raw) {
            self.report(&Finding::entry(EntryFault::Reserved(reserved), Table::L1, l1, index, raw), 1);
        }
        self.refer(Structure::L2, table.at, self.cluster.bytes(), 1)?;
        if active {
            self.claim(table.at, table.copied, 1)?;
        }
        if !self.cluster.is_aligned(table.at) {
            self.report(&Finding::entry(EntryFault::Misaligned(table.at), Table::L1, l1, index, raw), 1);
        }
        if table.at.get() >= self.reader.len_file() {
            return Ok(()); // Nothing but zeroes there.
        }
        if !self.tables.contains_key(&table.at) {
            self.counters.memory().take(TABLE_MEMORY_BYTES)?;
        }
        let uses = self.tables.entry(table.at).or_default();
        let uses = if active { &mut uses.active } else { &mut uses.inactive };
        *uses = uses.saturating_add(1);
        Ok(())
    }

    /// The L2 tables that were collected.
    pub(super) async fn walk_tables(&mut self) -> Result<(), CheckError> {
        while let Some((at, uses)) = self.tables.pop_first() {
            if self.may_read(Structure::L2, at, self.cluster.bytes()) {
                match self.reader.read(at, self.cluster.buffer_len()).await {
                    Ok(bytes) => self.walk_l2(at, &bytes, uses)?,
                    Err(error) => self.unreadable(Structure::L2, at, &error),
                }
            }
        }
        Ok(())
    }

    fn walk_l2(&mut self, at: HostOffset, bytes: &[u8], uses: Uses) -> Result<(), CheckError> {
        let all = u64::from(uses.active) + u64::from(uses.inactive);
        let mut walk = L2Walk { table: at, active: uses.active.into(), all, follows: None };
        let l2 = self.header.l2();
        for (index, raw) in (0..).zip(l2.raws(bytes)) {
            if raw.is_empty() {
                continue;
            }
            if self.drops_place(at, index, raw)? {
                continue;
            }
            let bitmap_fault = L2Entry::bitmap_fault(raw, l2);
            let fault = L2Entry::fault(raw, l2).filter(|fault| *fault == EntryFault::CopiedCompressed);
            for fault in bitmap_fault.into_iter().chain(fault) {
                let descriptor = raw.descriptor;
                self.report(&Finding::entry(fault, Table::L2, walk.table, index, descriptor), walk.all);
            }
            match L2Entry::shape(raw, l2) {
                L2Entry::Compressed(_) if l2.has_data_file() => {
                    let fault = EntryFault::CompressedApart;
                    let found = Finding::entry(fault, Table::L2, walk.table, index, raw.descriptor);
                    self.report(&found, walk.all);
                }
                // The C tool looks no further either.
                L2Entry::Compressed(_) if bitmap_fault.is_some() => {}
                L2Entry::Compressed(stored) => self.walk_compressed(&walk, stored)?,
                // Zeroes that keep the first cluster of a data file look like zeroes that keep none.
                L2Entry::Zero(Some(place)) if place.at.get() == 0 => {}
                entry => self.walk_standard(&mut walk, index, raw, entry.place())?,
            }
        }
        Ok(())
    }

    fn walk_compressed(&mut self, walk: &L2Walk, stored: Compressed) -> Result<(), CheckError> {
        // Their sectors are shared with neighbours, so they are fragmented by nature.
        self.outcome.clusters_allocated += walk.active;
        self.outcome.clusters_compressed += walk.active;
        self.outcome.clusters_fragmented += walk.active;
        self.refer(Structure::Compressed, stored.at, stored.stored_bytes.into(), walk.all)
    }

    fn walk_standard(
        &mut self,
        walk: &mut L2Walk,
        index: u64,
        raw: RawEntry,
        data: Option<Allocated>,
    ) -> Result<(), CheckError> {
        let raw = raw.descriptor;
        if let reserved @ 1.. = L2Entry::reserved(raw, self.header.version()) {
            self.report(
                &Finding::entry(EntryFault::Reserved(reserved), Table::L2, walk.table, index, raw),
                walk.all,
            );
        }
        let Some(Allocated { at, copied }) = data else { return Ok(()) };
        if !self.cluster.is_aligned(at) {
            self.report(
                &Finding::entry(EntryFault::Misaligned(at), Table::L2, walk.table, index, raw),
                walk.all,
            );
        }
        self.outcome.clusters_allocated += walk.active;
        if walk.follows.is_some_and(|expected| expected != at) {
            self.outcome.clusters_fragmented += walk.active;
        }
        walk.follows = at.checked_add(self.cluster.bytes());
        if self.header.l2().has_data_file() {
            return Ok(()); // Nobody counts the clusters of another file.
        }
        self.refer(Structure::Data, at, self.cluster.bytes(), walk.all)?;
        if walk.active > 0 { self.claim(at, copied, walk.active) } else { Ok(()) }
    }

    /// The directory of bitmaps, their tables and clusters; nothing if the bitmaps are not valid any more.
    pub(super) async fn walk_bitmaps(&mut self) -> Result<(), CheckError> {
        let Some(extension) = self.header.extensions().bitmaps() else { return Ok(()) };
        let (at, len_bytes) = (extension.directory, extension.directory_len_bytes);
        self.refer(Structure::BitmapDirectory, at, len_bytes, 1)?;
        let len = usize::try_from(len_bytes).map_err(|_| CheckError::Memory)?;
        let directory = self.reader.read(at, len).await;
        let directory = directory.map_err(|error| CheckError::Read(Structure::BitmapDirectory, error))?;
        match extension.parse_directory(&directory, self.cluster) {
            Ok(bitmaps) => {
                for bitmap in &bitmaps {
                    self.walk_bitmap(bitmap).await?;
                }
            }
            Err(error) => self.report(&Finding::Bitmaps(error), 1),
        }
        Ok(())
    }

    async fn walk_bitmap(&mut self, bitmap: &Bitmap) -> Result<(), CheckError> {
        let (what, at) = (Structure::BitmapTable, bitmap.table);
        let len_bytes = u64::from(bitmap.table_entries) * ENTRY_BYTES;
        self.refer(what, at, len_bytes, 1)?;
        if !self.may_read(what, at, len_bytes) {
            return Ok(());
        }
        let mut index = 0;
        loop {
            let entries = match self.reader.read_entries(at, bitmap.table_entries.into(), index).await {
                Ok(entries) if entries.is_empty() => return Ok(()),
                Ok(entries) => entries,
                Err(error) => {
                    self.unreadable(what, at, &error);
                    return Ok(());
                }
            };
            index += entries.len() as u64;
            for raw in entries {
                match bitmap::parse_table_entry(raw, self.cluster) {
                    Ok(TableEntry::Data(data)) => {
                        self.refer(Structure::BitmapData, data, self.cluster.bytes(), 1)?
                    }
                    Ok(TableEntry::Clear | TableEntry::Set) => {}
                    Err(raw) => self.report(&Finding::BitmapEntry { at, raw }, 1),
                }
            }
        }
    }

    /// Whether a table may be read; a check error if all tables together are too long.
    fn may_read(&mut self, what: Structure, at: HostOffset, len_bytes: u64) -> bool {
        let allowed = self.reader.spend(at, len_bytes);
        allowed.map_err(|error| self.unreadable(what, at, &error)).is_ok()
    }

    fn unreadable(&mut self, what: Structure, at: HostOffset, error: &Error) {
        self.report(&Finding::Unreadable { what, at, error: error.report() }, 1);
    }
}

/// An L2 table on the way.
struct L2Walk {
    /// Where it starts.
    table: HostOffset,
    /// How often the active L1 table refers to it.
    active: u64,
    /// How often any L1 table does.
    all: u64,
    /// Where the next data cluster is if it follows the last one.
    follows: Option<HostOffset>,
}
