//! Changing what an image is.
//!
//! | change | what is done |
//! |---|---|
//! | version 2 to 3 | the header is written anew |
//! | version 3 to 2 | clusters that read as zeroes become data, or nothing where nothing shows through; then the header |
//! | width of refcounts | all counts are written anew elsewhere, then the header points there (`recount`) |
//! | lazy refcounts | a bit in the header |
//!
//! Invariant: each change is one sector of the header, after everything that it needs is durable. This driver knows one
//! version and one width: once it has changed them on disk, it writes nothing any more.

use drystone_base::{Be, Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::{Amendment, WriteFlags};
use drystone_core::request::io::Io;

use super::mark::load_snapshots;
use super::zero::Become;
use super::{Qcow2, load_table};
use crate::qcow2::entry::{L2Entry, Part, RawEntry, parse_l1};
use crate::qcow2::feature::{CompatibleBit, IncompatibleBit};
use crate::qcow2::geometry::{ClusterBits, ENTRY_BYTES, HOST_END, HostCluster};
use crate::qcow2::header::{HeaderChange, Version};
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
        let compatible = self.header_now().compatible();
        if compatible.has(CompatibleBit::LazyRefcounts) == is_on {
            return Ok(());
        }
        if self.version == Version::V2 {
            let text = "version 2 images do not say whether their counts can be trusted";
            return Err(refused(Kind::Unsupported, "lazy_refcounts", text));
        }
        self.mark_for_writing(io).await?;
        self.store_metadata(io).await?;
        let _structure = self.lock_structure(io).await;
        let compatible = Some(compatible.with(CompatibleBit::LazyRefcounts, is_on));
        self.change_header(io, &HeaderChange { compatible, ..HeaderChange::default() }).await
    }

    /// Stores everything and gives back what was freed: the last that this driver writes but one header.
    async fn store_for_good(&self, io: Io<'_>) -> Result<()> {
        self.mark_for_writing(io).await?;
        self.store_to_leave(io).await
    }

    /// Fails if the image has what version 2 has not, and what cannot be expressed otherwise.
    async fn demand_simple(&self, io: Io<'_>) -> Result<()> {
        let no = |text: &str| Err(refused(Kind::Unsupported, "compat", text));
        let header = self.header_now();
        if self.refs.width != RefcountWidth::BITS_16 {
            return no("version 2 images have counts of 16 bits: change refcount_bits, too");
        }
        let dirty = header.incompatible().with(IncompatibleBit::Dirty, false);
        if !dirty.is_empty() {
            return no("the image has features that version 2 does not have");
        }
        if header.snapshots().count == 0 {
            return Ok(());
        }
        for snapshot in load_snapshots(io.file()?, &header).await?.list {
            let has_len = snapshot.len_guest.is_none_or(|len| len == header.len_guest());
            if !has_len || u32::try_from(snapshot.vm_state_bytes).is_err() {
                return no("an internal snapshot has a length or a state that version 2 cannot describe");
            }
            if self.has_zero_clusters(io, &snapshot).await? {
                return no(
                    "an internal snapshot has clusters that read as zeroes, which version 2 does not have",
                );
            }
        }
        Ok(())
    }

    async fn has_zero_clusters(&self, io: Io<'_>, snapshot: &Snapshot) -> Result<bool> {
        let file = io.file()?;
        let damaged = |text: &'static str| Error::new(Kind::Corrupt, text);
        let l1 = snapshot.l1(self.cluster);
        let l1 = l1.map_err(|error| damaged("an internal snapshot is damaged").because(error))?;
        let len = usize::try_from(u64::from(l1.entries) * ENTRY_BYTES).unwrap_or(usize::MAX);
        let bytes = if len == 0 { Vec::new() } else { load_table(file, l1.at, len).await? };
        for raw in words(&bytes) {
            let table = parse_l1(raw, self.cluster);
            let table = table.map_err(|error| damaged("an L1 table is damaged").because(error))?;
            let Some(table) = table else { continue };
            let bytes = load_table(file, table.at, self.cluster.buffer_len()).await?;
            for descriptor in words(&bytes) {
                let entry = L2Entry::parse(RawEntry { descriptor, bitmap: 0 }, self.map.l2());
                let entry = entry.map_err(|error| damaged("an L2 table is damaged").because(error))?;
                if matches!(entry, L2Entry::Zero(_)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
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

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut be = Be(bytes);
    std::iter::from_fn(move || be.u64().ok())
}

/// Where a table of so many clusters begins.
pub(super) fn place_of(cluster: ClusterBits, number: u64) -> Result<HostOffset> {
    let at = cluster.host_start(HostCluster::new(number));
    at.filter(|at| at.get() < HOST_END)
        .ok_or_else(|| Error::new(Kind::NoSpace, "the image has reached the largest size of its format"))
}
