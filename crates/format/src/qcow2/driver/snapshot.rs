//! Internal snapshots of an open image. Nobody else is inside, so what is stored stays so.
//!
//! ```text
//!   create  dirty ─► counts up ─► flags ─► L1 table copied, list written ─► header: the new list ─► not dirty
//!   apply   dirty ─► counts up ─► flags ─► L1 table copied ─► header: the new L1 table and length ─► counts down ─► not dirty
//!   delete  dirty ─► list written ─► header: the new list ─► counts down ─► flags ─► not dirty
//! ```
//! The header decides in one sector, so a cut leaves the old state or the new one. Flags and counts do not agree meanwhile:
//! they cost a copy at worst, and whoever opens an image that says that it is dirty repairs it before the first write.
//! Version 2 of the format cannot say it; there a check finds the flags, and a repair that is asked for puts them right.
//!
//! Invariant: no data moves. The part of a snapshot's L1 table behind its disk is a machine's state: it stays there, and is
//! not part of the disk when the snapshot is applied.

use std::sync::atomic::Ordering;

use drystone_base::planted::{Mistake, is_planted};
use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_core::snapshots::{InternalSnapshots, NewSnapshot, SnapshotInfo};

use super::mark::{demand_writable, load_snapshots};
use super::open::load_words;
use super::passes::Cause;
use super::refs::Run;
use super::shared::Flags;
use super::{Qcow2, write_bytes};
use crate::qcow2::entry::{self, Allocated};
use crate::qcow2::geometry::{ENTRY_BYTES, L1_BYTES_MAX};
use crate::qcow2::header::{HeaderChange, L1Table, SNAPSHOTS_MAX, SnapshotTable};
use crate::qcow2::snapshot::{Snapshot, Snapshots};

/// Longest name, in bytes: its length is stored in 16 bits.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

impl Qcow2 {
    pub(super) async fn snapshots_now(&self, io: Io<'_>) -> Result<Snapshots> {
        let header = self.header_now();
        if header.snapshots().count == 0 {
            return Ok(Snapshots { list: Vec::new(), table_len_bytes: 0 });
        }
        load_snapshots(io.file()?, &header).await
    }

    /// The snapshot with this identifier, and its place in the list.
    fn find(&self, snapshots: &Snapshots, id: &[u8]) -> Result<(usize, L1Table)> {
        let missing = || {
            let text = format!("the image has no internal snapshot '{}'", String::from_utf8_lossy(id));
            Error::new(Kind::NotFound, text)
        };
        let index = snapshots.list.iter().position(|snapshot| snapshot.id == id).ok_or_else(missing)?;
        let snapshot = snapshots.list.get(index).ok_or_else(missing)?;
        let damaged =
            |error| Error::new(Kind::InvalidImage, "the internal snapshot is damaged").because(error);
        Ok((index, snapshot.l1(self.cluster).map_err(damaged)?))
    }

    /// Stores everything before internal snapshots change.
    async fn begin_snapshots(&self, io: Io<'_>) -> Result<()> {
        if self.map.l2().has_data_file() {
            let text = "an image with an external data file has no internal snapshots";
            return Err(Error::new(Kind::Unsupported, text));
        }
        // Counts that cannot be written must not change in memory either.
        demand_writable(io.file()?)?;
        self.mark_for_writing(io).await?;
        // All freed space, too: a search that fails could not wait for it.
        self.store_all(io).await
    }

    async fn take_snapshot(&self, io: Io<'_>, new: &NewSnapshot) -> Result<Snapshot> {
        if new.name.len() > NAME_BYTES_MAX {
            return Err(Error::new(Kind::TooLarge, "the name of the snapshot is too long"));
        }
        self.begin_snapshots(io).await?;
        let mut snapshots = self.snapshots_now(io).await?;
        if snapshots.list.len() >= SNAPSHOTS_MAX as usize {
            let text = format!("the image has {SNAPSHOTS_MAX} internal snapshots, more are not possible");
            return Err(Error::new(Kind::TooLarge, text));
        }
        self.unsettled(io, self.add_snapshot(io, new, &mut snapshots)).await
    }

    async fn add_snapshot(
        &self,
        io: Io<'_>,
        new: &NewSnapshot,
        snapshots: &mut Snapshots,
    ) -> Result<Snapshot> {
        let header = self.header_now();
        let l1 = self.map.l1_grown(0);
        let copy = self.reserve_for(io, l1.len() as u64 * ENTRY_BYTES).await?;
        let snapshot = Snapshot {
            id: unused_id(&snapshots.list),
            name: new.name.clone(),
            date_s: new.date_s,
            date_ns: new.date_ns,
            vm_clock_ns: new.vm_clock_ns,
            vm_state_bytes: 0,
            len_guest: Some(header.len_guest()),
            icount: new.icount,
            l1_at: copy.map_or(HostOffset::ZERO, |run| self.start_of(run)).get(),
            l1_entries: header.l1().entries,
            extra_len_bytes: 0,
            extra_unknown: Vec::new(),
        };
        let old_len_bytes = snapshots.table_len_bytes;
        snapshots.list.push(snapshot.clone());
        let shared = match self.share_active(io, copy, &l1).await {
            Ok(()) => self.replace_list(io, &snapshots.list, old_len_bytes).await,
            Err(error) => Err(error),
        };
        if let Err(error) = shared {
            // The header may name the copy until it is certain again.
            copy.into_iter().for_each(|run| self.frees.unlink(run, Cause::Other));
            return Err(error);
        }
        copy.map_or(Ok(()), |run| self.owned.add(run))?;
        self.collect_inactive(io).await?;
        self.store_all(io).await?;
        Ok(snapshot)
    }

    /// Counts the active mapping once more, and copies its L1 table.
    async fn share_active(&self, io: Io<'_>, copy: Option<Run>, l1: &[u64]) -> Result<()> {
        let tables = self.tables_of(l1)?;
        self.retain_tables(io, &tables).await?;
        let shared = async {
            self.store_metadata(io).await?;
            if !is_planted(Mistake::SnapshotKeepsFlags) {
                self.settle_flags(io, Flags::Clear).await?;
            }
            self.write_l1(io, copy, l1).await
        };
        if let Err(error) = shared.await {
            self.release_tables(io, &tables).await?;
            // If that fails, too, the flags cost a copy of each cluster.
            let _ = self.settle_flags(io, Flags::Counted).await;
            return Err(error);
        }
        Ok(())
    }

    async fn apply_snapshot(&self, io: Io<'_>, id: &[u8]) -> Result<u64> {
        if !io.node().bitmaps().is_empty() {
            let text = "the disk has dirty bitmaps, which could not tell what an internal snapshot changes";
            return Err(Error::new(Kind::InUse, text));
        }
        self.begin_snapshots(io).await?;
        let snapshots = self.snapshots_now(io).await?;
        let (index, table) = self.find(&snapshots, id)?;
        let header = self.header_now();
        if header.extensions().bitmaps().is_some() {
            let text = "the image's persistent bitmaps would not know what an internal snapshot changes";
            return Err(Error::new(Kind::InUse, text));
        }
        let stored_len = snapshots.list.get(index).and_then(|snapshot| snapshot.len_guest);
        let len = stored_len.unwrap_or(header.len_guest());
        let mut l1 = self.load_l1(io, table).await?;
        l1.iter_mut().for_each(|raw| *raw = entry::with_copied(*raw, false));
        // What is behind the disk is the machine's state.
        let entries = self.map.l2().l1_entries(len).max(l1.len() as u64);
        if entries * ENTRY_BYTES > L1_BYTES_MAX {
            return Err(Error::new(Kind::InvalidImage, "the internal snapshot's disk is too long"));
        }
        l1.resize(usize::try_from(entries).unwrap_or(usize::MAX), 0);
        self.unsettled(io, self.activate(io, &l1, len)).await?;
        Ok(len)
    }

    /// Makes a snapshot's L1 table the active one, of a disk of `len` bytes.
    async fn activate(&self, io: Io<'_>, l1: &[u64], len: u64) -> Result<()> {
        let old_table = self.header_now().l1();
        let entries = l1.len() as u64;
        let run = self.reserve_for(io, entries * ENTRY_BYTES).await?;
        let old = self.map.l1_grown(0);
        let tables = self.tables_of(l1)?;
        if let Err(error) = self.retain_tables(io, &tables).await {
            if let Some(run) = run {
                self.give_back(io, run).await;
            }
            return Err(error);
        }
        if let Err(error) = self.switch_l1(io, (run, l1), len).await {
            run.into_iter().for_each(|run| self.frees.unlink(run, Cause::Other));
            return Err(error);
        }
        self.end_apply(io, l1, &old, old_table).await
    }

    /// Makes `l1` the active table, durably, of a disk of `len` bytes.
    async fn switch_l1(&self, io: Io<'_>, (run, l1): (Option<Run>, &[u64]), len: u64) -> Result<()> {
        self.store_metadata(io).await?;
        for table in self.tables_of(l1)? {
            self.settle_table_flags(io, table, Flags::Clear).await?;
        }
        self.write_l1(io, run, l1).await?;
        let entries = u32::try_from(l1.len()).unwrap_or(u32::MAX);
        let at = run.map_or(HostOffset::ZERO, |run| self.start_of(run));
        let _structure = self.lock_structure(io).await;
        let change = HeaderChange {
            l1: Some(L1Table { at, entries }),
            len_guest: Some(len),
            ..HeaderChange::default()
        };
        self.change_header(io, &change).await
    }

    /// Lets go of what was active before.
    async fn end_apply(&self, io: Io<'_>, l1: &[u64], old: &[u64], old_table: L1Table) -> Result<()> {
        self.map.reset(l1);
        self.decompressed.forget();
        self.owned.clear();
        self.collect_tables(io).await?;
        let tables = self.tables_of(old)?;
        self.release_tables(io, &tables).await?;
        let clusters = self.cluster.clusters(u64::from(old_table.entries) * ENTRY_BYTES);
        if clusters > 0 {
            self.frees.make_ready(self.clusters_of(old_table.at, clusters), Cause::Snapshot);
        }
        self.store_all(io).await
    }

    async fn delete_snapshot(&self, io: Io<'_>, id: &[u8]) -> Result<()> {
        self.begin_snapshots(io).await?;
        let mut snapshots = self.snapshots_now(io).await?;
        let (index, table) = self.find(&snapshots, id)?;
        // Looked at before anything is changed.
        let l1 = self.load_l1(io, table).await?;
        let tables = self.tables_of(&l1)?;
        snapshots.list.remove(index);
        self.unsettled(io, self.remove_snapshot(io, &snapshots, table, &tables)).await
    }

    /// Makes `left` the list, and lets go of what the snapshot that is not in it any more had.
    async fn remove_snapshot(
        &self,
        io: Io<'_>,
        left: &Snapshots,
        table: L1Table,
        tables: &[Allocated],
    ) -> Result<()> {
        self.replace_list(io, &left.list, left.table_len_bytes).await?;
        self.collect_inactive(io).await?;
        self.release_tables(io, tables).await?;
        let clusters = self.cluster.clusters(u64::from(table.entries) * ENTRY_BYTES);
        if clusters > 0 {
            let run = self.clusters_of(table.at, clusters);
            self.owned.remove(run);
            self.frees.make_ready(run, Cause::Snapshot);
        }
        self.reap(io).await?;
        self.store_metadata(io).await?;
        self.settle_flags(io, Flags::Counted).await?;
        self.store_all(io).await
    }

    /// Writes the list of snapshots to a new place and makes the header point there, durably.
    async fn replace_list(&self, io: Io<'_>, list: &[Snapshot], old_len_bytes: u64) -> Result<()> {
        let header = self.header_now();
        let too_long = |error| Error::new(Kind::TooLarge, "the list of snapshots is too long").because(error);
        let bytes = Snapshots::encode(list, header.len_guest()).map_err(too_long)?;
        let run = self.reserve_for(io, bytes.len() as u64).await?;
        let result = self.write_list(io, run, &bytes, list.len()).await;
        if let Err(error) = result {
            run.into_iter().for_each(|run| self.frees.unlink(run, Cause::Other));
            return Err(error);
        }
        if header.snapshots().count > 0 && old_len_bytes > 0 {
            let old = self.clusters_of(header.snapshots().at, self.cluster.clusters(old_len_bytes));
            self.owned.remove(old);
            self.frees.unlink(old, Cause::Snapshot);
        }
        run.map_or(Ok(()), |run| self.owned.add(run))
    }

    async fn write_list(&self, io: Io<'_>, run: Option<Run>, bytes: &[u8], count: usize) -> Result<()> {
        let at = run.map_or(HostOffset::ZERO, |run| self.start_of(run));
        // The counts of its clusters first.
        self.store_metadata(io).await?;
        if let Some(run) = run {
            self.write_run(io, run, bytes).await?;
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let _structure = self.lock_structure(io).await;
        let snapshots = Some(SnapshotTable { at, count });
        self.change_header(io, &HeaderChange { snapshots, ..HeaderChange::default() }).await
    }

    async fn write_l1(&self, io: Io<'_>, run: Option<Run>, l1: &[u64]) -> Result<()> {
        let Some(run) = run else { return Ok(()) };
        let entries = l1.iter().flat_map(|raw| entry::with_copied(*raw, false).to_be_bytes());
        let bytes: Vec<u8> = entries.collect();
        self.write_run(io, run, &bytes).await
    }

    /// Writes whole clusters, which end in zeroes.
    async fn write_run(&self, io: Io<'_>, run: Run, bytes: &[u8]) -> Result<()> {
        let mut whole = bytes.to_vec();
        whole.resize(usize::try_from(run.count * self.cluster.bytes()).unwrap_or(usize::MAX), 0);
        write_bytes(io.file()?, self.start_of(run), &whole).await
    }

    pub(super) async fn load_l1(&self, io: Io<'_>, table: L1Table) -> Result<Vec<u64>> {
        load_words(io.file()?, table.at, u64::from(table.entries)).await
    }

    /// Clusters for `len_bytes` bytes; none for none.
    async fn reserve_for(&self, io: Io<'_>, len_bytes: u64) -> Result<Option<Run>> {
        match self.cluster.clusters(len_bytes) {
            0 => Ok(None),
            clusters => self.reserve_exactly(io, clusters).await.map(Some),
        }
    }

    pub(super) fn start_of(&self, run: Run) -> HostOffset {
        self.cluster.host_start(run.first).unwrap_or(HostOffset::ZERO)
    }

    async fn show_snapshot(&self, io: Io<'_>, id: &[u8]) -> Result<u64> {
        if !io.node().is_read_only() {
            let text = "an internal snapshot can be shown by an image that is open for reading only";
            return Err(Error::new(Kind::InvalidInput, text));
        }
        let snapshots = self.snapshots_now(io).await?;
        let (index, table) = self.find(&snapshots, id)?;
        let stored_len = snapshots.list.get(index).and_then(|snapshot| snapshot.len_guest);
        let len = stored_len.unwrap_or(self.header_now().len_guest());
        let l1 = self.load_l1(io, table).await?;
        if self.map.l2().l1_entries(len) > l1.len() as u64 {
            return Err(Error::new(Kind::InvalidImage, "the internal snapshot's L1 table is too short"));
        }
        self.map.reset(&l1);
        self.decompressed.forget();
        self.shows_snapshot.store(true, Ordering::Release);
        Ok(len)
    }
}

/// One more than the largest identifier that is a number.
fn unused_id(list: &[Snapshot]) -> Vec<u8> {
    let number = |snapshot: &Snapshot| std::str::from_utf8(&snapshot.id).ok()?.parse::<u64>().ok();
    let last = list.iter().filter_map(number).max().unwrap_or(0);
    last.saturating_add(1).to_string().into_bytes()
}

fn info(snapshot: Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        id: snapshot.id,
        name: snapshot.name,
        date_s: snapshot.date_s,
        date_ns: snapshot.date_ns,
        vm_clock_ns: snapshot.vm_clock_ns,
        vm_state_bytes: snapshot.vm_state_bytes,
        len_guest: snapshot.len_guest,
        icount: snapshot.icount,
    }
}

impl InternalSnapshots for Qcow2 {
    fn list<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<Vec<SnapshotInfo>>> {
        Box::pin(async move {
            let snapshots = self.snapshots_now(io).await;
            Ok(self.watch(io, snapshots).await?.list.into_iter().map(info).collect())
        })
    }

    fn create<'a>(&'a self, io: Io<'a>, new: &'a NewSnapshot) -> LocalFuture<'a, Result<SnapshotInfo>> {
        Box::pin(async move {
            let taken = self.take_snapshot(io, new).await;
            self.watch(io, taken).await.map(info)
        })
    }

    fn apply<'a>(&'a self, io: Io<'a>, id: &'a [u8]) -> LocalFuture<'a, Result<u64>> {
        Box::pin(async move {
            let applied = self.apply_snapshot(io, id).await;
            self.watch(io, applied).await
        })
    }

    fn delete<'a>(&'a self, io: Io<'a>, id: &'a [u8]) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let deleted = self.delete_snapshot(io, id).await;
            self.watch(io, deleted).await
        })
    }

    fn show<'a>(&'a self, io: Io<'a>, id: &'a [u8]) -> LocalFuture<'a, Result<u64>> {
        Box::pin(async move {
            let shown = self.show_snapshot(io, id).await;
            self.watch(io, shown).await
        })
    }
}
