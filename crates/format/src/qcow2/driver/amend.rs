//! Changing what an image is.
//!
//! | change | what is done |
//! |---|---|
//! | version 2 to 3 | the header is written anew |
//! | version 3 to 2 | clusters that read as zeroes become data, or nothing where nothing shows through, in the tables of internal snapshots, too; then the header |
//! | width of refcounts | all counts are written anew elsewhere, then the header points there (`recount`) |
//! | lazy refcounts; a data file that is raw no more | a bit in the header |
//! | name of the data file | an extension of the header |
//!
//! Invariant: each change is one sector of the header, after everything that it needs is durable. This driver knows one
//! version and one width: once it has changed them on disk, it writes nothing any more.

use std::collections::BTreeMap;

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::{Amendment, WriteFlags, ZeroFlags};
use drystone_core::request::io::Io;

use super::passes::Cause;
use super::refs::Run;
use super::shared::Flags;
use super::zero::Become;
use super::{Qcow2, load_table, write_bytes};
use crate::qcow2::compress::Compression;
use crate::qcow2::entry::{Allocated, L2Entry, Part, RawEntry, Table};
use crate::qcow2::feature::{AutoclearBit, CompatibleBit, IncompatibleBit};
use crate::qcow2::geometry::{ClusterBits, HOST_END, HostCluster};
use crate::qcow2::header::{Header, HeaderChange, Version};
use crate::qcow2::refcount::RefcountWidth;
use crate::qcow2::snapshot::Snapshot;

impl Qcow2 {
    /// Changes one property. Nobody else is inside.
    pub(super) async fn amend_image(&self, io: Io<'_>, what: Amendment) -> Result<()> {
        match what {
            Amendment::Version(2) => self.downgrade(io).await,
            Amendment::Version(3) => self.upgrade(io).await,
            Amendment::Version(other) => {
                Err(refused(Kind::InvalidInput, "compat", &format!("there is no version {other}")))
            }
            Amendment::RefcountBits(bits) => self.change_width(io, bits).await,
            Amendment::LazyRefcounts(is_on) => self.change_laziness(io, is_on).await,
            Amendment::DataFileRaw(is_on) => self.change_rawness(io, is_on).await,
            Amendment::DataFileName(name) => self.change_data_file(io, &name).await,
        }
    }

    async fn upgrade(&self, io: Io<'_>) -> Result<()> {
        if self.version == Version::V3 {
            return Ok(());
        }
        self.store_for_good(io).await?;
        let _structure = self.lock_structure(io).await;
        self.change_version(io, Version::V3).await?;
        self.condition.set_amended();
        Ok(())
    }

    async fn downgrade(&self, io: Io<'_>) -> Result<()> {
        if self.version == Version::V2 {
            return Ok(());
        }
        self.demand_simple(io).await?;
        self.mark_for_writing(io).await?;
        self.drop_zero_clusters(io).await?;
        self.drop_zero_clusters_of_snapshots(io).await?;
        self.store_for_good(io).await?;
        let _structure = self.lock_structure(io).await;
        self.change_version(io, Version::V2).await?;
        self.condition.set_amended();
        Ok(())
    }

    async fn change_width(&self, io: Io<'_>, bits: u64) -> Result<()> {
        const KEY: &str = "refcount_bits";
        let width = RefcountWidth::from_bits(bits)
            .ok_or_else(|| refused(Kind::InvalidInput, KEY, "it is a power of two up to 64"))?;
        if width == self.refs.width {
            return Ok(());
        }
        if self.version == Version::V2 {
            return Err(refused(Kind::Unsupported, KEY, "version 2 images have counts of 16 bits"));
        }
        self.store_for_good(io).await?;
        let _structure = self.lock_structure(io).await;
        self.recount(io, width).await?;
        self.condition.set_amended();
        Ok(())
    }

    async fn change_laziness(&self, io: Io<'_>, is_on: bool) -> Result<()> {
        if self.header_now().compatible().has(CompatibleBit::LazyRefcounts) == is_on {
            return Ok(());
        }
        if self.version == Version::V2 {
            let text = "version 2 images do not say whether their counts can be trusted";
            return Err(refused(Kind::Unsupported, "lazy_refcounts", text));
        }
        self.store_and_change(io, |header| {
            let compatible = Some(header.compatible().with(CompatibleBit::LazyRefcounts, is_on));
            HeaderChange { compatible, ..HeaderChange::default() }
        })
        .await
    }

    /// Stores everything, then changes the header as it is by then: the first write takes features away from it.
    async fn store_and_change(&self, io: Io<'_>, change: impl FnOnce(&Header) -> HeaderChange) -> Result<()> {
        self.mark_for_writing(io).await?;
        self.store_metadata(io).await?;
        let _structure = self.lock_structure(io).await;
        self.change_header(io, &change(&self.header_now())).await
    }

    /// Stores everything and gives back what was freed: the last that this driver writes but one header.
    async fn store_for_good(&self, io: Io<'_>) -> Result<()> {
        self.mark_for_writing(io).await?;
        self.store_to_leave(io).await
    }

    async fn change_rawness(&self, io: Io<'_>, is_on: bool) -> Result<()> {
        let autoclear = self.header_now().autoclear();
        if self.is_data_raw() == is_on || !autoclear.has(AutoclearBit::RawExternalData) && !is_on {
            return Ok(());
        }
        if is_on {
            let text = "it cannot be switched on for an image that exists";
            return Err(refused(Kind::Unsupported, "data_file_raw", text));
        }
        self.store_and_change(io, |header| {
            let autoclear = Some(header.autoclear().with(AutoclearBit::RawExternalData, false));
            HeaderChange { autoclear, ..HeaderChange::default() }
        })
        .await
    }

    async fn change_data_file(&self, io: Io<'_>, name: &[u8]) -> Result<()> {
        if !self.map.l2().has_data_file() {
            let text = "the image has no external data file";
            return Err(refused(Kind::Unsupported, "data_file", text));
        }
        self.mark_for_writing(io).await?;
        self.store_metadata(io).await?;
        let _structure = self.lock_structure(io).await;
        self.rename_data_file(io, name).await
    }

    /// Fails if the image has what version 2 has not, and what cannot be expressed otherwise.
    async fn demand_simple(&self, io: Io<'_>) -> Result<()> {
        let no = |text: &str| Err(refused(Kind::Unsupported, "compat", text));
        let header = self.header_now();
        if self.refs.width != RefcountWidth::BITS_16 {
            return no("version 2 images have counts of 16 bits: change refcount_bits, too");
        }
        let features = header.incompatible().with(IncompatibleBit::Dirty, false);
        if !features.with(IncompatibleBit::CompressionType, false).is_empty() {
            return no("the image has features that version 2 does not have");
        }
        let snapshots = self.snapshots_now(io).await?.list;
        for snapshot in &snapshots {
            let has_len = snapshot.len_guest.is_none_or(|len| len == header.len_guest());
            if !has_len || u32::try_from(snapshot.vm_state_bytes).is_err() {
                return no("an internal snapshot has a length or a state that version 2 cannot describe");
            }
        }
        if header.compression() == Compression::Deflate {
            return Ok(());
        }
        let mut tables = self.snapshot_tables(io, &snapshots).await?;
        for table in self.map.all_tables() {
            tables.insert(table?.at.get(), 1);
        }
        for at in tables.into_keys() {
            let entries = self.load_entries(io, at).await?;
            if entries.iter().any(|(_, entry)| matches!(entry, L2Entry::Compressed(_))) {
                return no("clusters are compressed in a way that version 2 does not have");
            }
        }
        Ok(())
    }

    /// Where the L2 tables of internal snapshots are, and how many of these reach each.
    pub(super) async fn snapshot_tables(
        &self,
        io: Io<'_>,
        snapshots: &[Snapshot],
    ) -> Result<BTreeMap<u64, u64>> {
        let mut tables = BTreeMap::new();
        for snapshot in snapshots {
            let l1 = snapshot.l1(self.cluster);
            let damaged = |e| Error::new(Kind::Corrupt, "an internal snapshot is damaged").because(e);
            let l1 = self.load_l1(io, l1.map_err(damaged)?).await?;
            for table in self.tables_of(&l1)? {
                *tables.entry(table.at.get()).or_default() += 1;
            }
        }
        Ok(tables)
    }

    /// The entries of the L2 table at `at`, as they are on disk.
    async fn load_entries(&self, io: Io<'_>, at: u64) -> Result<Vec<(RawEntry, L2Entry)>> {
        let (at, l2) = (HostOffset::new(at), self.map.l2());
        let bytes = load_table(io.file()?, at, self.cluster.buffer_len()).await?;
        let entry = |(index, raw): (u64, RawEntry)| {
            let entry = L2Entry::parse(raw, l2).map_err(|fault| {
                let error = fault.at(Table::L2, at, index, raw.descriptor);
                Error::new(Kind::Corrupt, "an L2 table is damaged").because(error)
            })?;
            Ok((raw, entry))
        };
        (0..).zip(l2.raws(&bytes)).map(entry).collect()
    }

    /// Makes data, or nothing where nothing shows through, of clusters of internal snapshots that read as zeroes. The active
    /// mapping has none any more, so no table that is changed is one of its own.
    async fn drop_zero_clusters_of_snapshots(&self, io: Io<'_>) -> Result<()> {
        let snapshots = self.snapshots_now(io).await?.list;
        if snapshots.is_empty() {
            return Ok(());
        }
        self.store_all(io).await?;
        for (at, users) in self.snapshot_tables(io, &snapshots).await? {
            self.drop_zero_clusters_in(io, at, users).await?;
        }
        self.reap(io).await?;
        self.store_metadata(io).await?;
        self.settle_flags(io, Flags::Counted).await
    }

    /// The same, in one table that `users` internal snapshots share.
    async fn drop_zero_clusters_in(&self, io: Io<'_>, at: u64, users: u64) -> Result<()> {
        let before = self.load_entries(io, at).await?;
        if !before.iter().any(|(_, entry)| matches!(entry, L2Entry::Zero(_))) {
            return Ok(());
        }
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let replaced = match self.without_zeroes(io, &before, users, (&mut old, &mut new)).await {
            Ok(entries) => self.replace_table(io, at, (&before, &entries), &mut new).await,
            Err(error) => Err(error),
        };
        // What the table does not refer to.
        self.release_users(if replaced.is_ok() { &old } else { &new }, users);
        self.reap(io).await?;
        replaced?;
        self.store_if_full(io).await
    }

    /// The entries of a table with others for those that read as zeroes: what they gave up and what they took is noted in
    /// `old` and `new`.
    async fn without_zeroes(
        &self,
        io: Io<'_>,
        before: &[(RawEntry, L2Entry)],
        users: u64,
        (old, new): (&mut Vec<Run>, &mut Vec<Run>),
    ) -> Result<Vec<RawEntry>> {
        let mut entries = Vec::with_capacity(before.len());
        for (raw, entry) in before {
            let replaced = match entry {
                L2Entry::Zero(_) if !self.has_backing(io) => L2Entry::Unallocated,
                L2Entry::Zero(_) => {
                    let at = self.zeroed_cluster(io, users, new).await?;
                    L2Entry::Data(Allocated { at, copied: false })
                }
                _ => {
                    entries.push(*raw);
                    continue;
                }
            };
            old.extend(entry.place().map(|place| self.clusters_of(place.at, 1)));
            entries.push(replaced.encode(self.map.l2()));
        }
        // Counts and zeroes before the table that needs them.
        self.store_metadata(io).await?;
        Ok(entries)
    }

    /// Writes a table, durably. If that fails, the table is as before, or, if that cannot be written either, one of the two:
    /// then `new` is emptied, because it may be in use.
    async fn replace_table(
        &self,
        io: Io<'_>,
        at: u64,
        (before, entries): (&[(RawEntry, L2Entry)], &[RawEntry]),
        new: &mut Vec<Run>,
    ) -> Result<()> {
        let write = async |entries: &mut dyn Iterator<Item = RawEntry>| {
            let bytes: Vec<u8> = entries.flat_map(|raw| self.map.l2().bytes_of(raw)).collect();
            write_bytes(io.file()?, HostOffset::new(at), &bytes).await?;
            io.file()?.flush().await
        };
        let Err(error) = write(&mut entries.iter().copied()).await else { return Ok(()) };
        if write(&mut before.iter().map(|(raw, _)| *raw)).await.is_err() {
            new.clear();
        }
        Err(error)
    }

    /// A new cluster that holds zeroes, counted for each of `users`, and noted in `new`.
    async fn zeroed_cluster(&self, io: Io<'_>, users: u64, new: &mut Vec<Run>) -> Result<HostOffset> {
        let run = self.reserve_exactly(io, 1).await?;
        for counted in 1..users {
            if let Err(error) = self.refs.retain(io, &mut { run }).await {
                self.release_users(&[run], counted);
                return Err(error);
            }
        }
        new.push(run);
        let at = self.start_of(run);
        let range = GuestRange::new(at.in_child(), self.cluster.bytes());
        io.file()?.write_zeroes(range, ZeroFlags { may_unmap: true, ..ZeroFlags::default() }).await?;
        Ok(at)
    }

    /// Clusters that so many do not need any more.
    fn release_users(&self, runs: &[Run], users: u64) {
        for run in runs {
            (0..users).for_each(|_| self.frees.make_ready(*run, Cause::Other));
        }
    }

    /// Makes data, or nothing where nothing shows through, of clusters that read as zeroes.
    async fn drop_zero_clusters(&self, io: Io<'_>) -> Result<()> {
        let bytes = self.cluster.bytes();
        let end = io.len().next_multiple_of(bytes);
        let mut at = GuestOffset::ZERO;
        while at.get() < end {
            let spot = self.map.spot(at);
            if self.map.table(spot.slice)?.is_none() {
                at = at.plus(self.map.table_left_bytes(spot).min(end - at.get()));
                continue;
            }
            if self.entry_at(io, at).await?.part(0) == Part::Zero {
                self.drop_zero_cluster(io, at).await?;
            }
            at = at.plus(bytes);
        }
        Ok(())
    }

    async fn drop_zero_cluster(&self, io: Io<'_>, at: GuestOffset) -> Result<()> {
        if !self.has_backing(io) {
            let cluster = GuestRange::new(at, self.cluster.bytes());
            return self.change_clusters(io, cluster, Become::Unmapped).await;
        }
        let zeroes = Buf::zeroed(self.cluster.buffer_len());
        self.write_clusters(io, at, zeroes, WriteFlags::default()).await.0
    }
}

fn refused(kind: Kind, option: &str, text: &str) -> Error {
    Error::new(kind, text.to_owned()).in_option(option)
}

/// Where a table of so many clusters begins.
pub(super) fn place_of(cluster: ClusterBits, number: u64) -> Result<HostOffset> {
    let at = cluster.host_start(HostCluster::new(number));
    at.filter(|at| at.get() < HOST_END)
        .ok_or_else(|| Error::new(Kind::NoSpace, "the image has reached the largest size of its format"))
}
