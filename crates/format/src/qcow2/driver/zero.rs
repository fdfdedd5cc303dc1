//! Zeroes and discards: whole clusters by their entries, the rest by writing zero bytes.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::map::Spot;
use crate::qcow2::entry::{Allocated, L2Entry};
use crate::qcow2::header::Version;

/// What becomes of the clusters of a range.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Become {
    /// They read as zeroes, and keep the space that they have.
    ZeroKeeping,
    /// They read as zeroes, and give their space back.
    Zero,
    /// Where there is something, it gives its space back; it reads as zeroes if anything would show through.
    Discarded,
    /// They are nowhere, whatever shows through: behind the end of the disk.
    Unmapped,
}

impl Qcow2 {
    /// Whether something shows through where this image has nothing: now, or when it is opened with its backing file.
    fn has_backing(&self, io: Io<'_>) -> bool {
        io.child(ChildKey::Backing).is_some() || self.names_backing()
    }

    /// Makes a range read as zeroes.
    pub(super) async fn zero_range(&self, io: Io<'_>, range: GuestRange, flags: ZeroFlags) -> Result<()> {
        self.demand_inside(io, range)?;
        let by_unmapping = self.version == Version::V2 && flags.may_unmap && !self.has_backing(io);
        if self.version == Version::V2 && !by_unmapping {
            return Err(Error::new(Kind::Unsupported, "version 2 images have no zero clusters"));
        }
        let (head, middle, tail) = self.split(io, range);
        if flags.fast_only && !(head.is_empty() && tail.is_empty()) {
            return Err(Error::new(Kind::Unsupported, "parts of clusters cannot be zeroed without writing"));
        }
        let goal = match (by_unmapping, flags.may_unmap) {
            (true, _) => Become::Discarded,
            (false, true) => Become::Zero,
            (false, false) => Become::ZeroKeeping,
        };
        self.change_clusters(io, middle, goal).await?;
        for edge in [head, tail] {
            self.write_zero_bytes(io, edge).await?;
        }
        Ok(())
    }

    /// The contents of a range do not matter any more.
    pub(super) async fn discard_range(&self, io: Io<'_>, range: GuestRange) -> Result<()> {
        if self.version == Version::V2 && self.has_backing(io) {
            // The backing image would show through.
            return Ok(());
        }
        let (_, middle, _) = self.split(io, range);
        self.change_clusters(io, middle, Become::Discarded).await
    }

    fn demand_inside(&self, io: Io<'_>, range: GuestRange) -> Result<()> {
        if range.end().get() <= io.len() {
            return Ok(());
        }
        let text = format!("{range} lies past the end of the disk ({} bytes)", io.len());
        Err(Error::new(Kind::OutOfRange, text))
    }

    /// Parts of clusters at the ends, and whole clusters between. The last cluster of the disk is whole at its end.
    fn split(&self, io: Io<'_>, range: GuestRange) -> (GuestRange, GuestRange, GuestRange) {
        let bytes = self.cluster.bytes();
        let start = range.start().get().next_multiple_of(bytes).min(range.end().get());
        let end = if range.end().get() >= io.len() {
            range.end().get()
        } else {
            range.end().align_down(bytes).get()
        };
        let end = end.max(start);
        let head = range.take(start - range.start().get());
        let middle = range.skip(head.len()).take(end - start);
        (head, middle, range.skip(head.len() + middle.len()))
    }

    async fn write_zero_bytes(&self, io: Io<'_>, range: GuestRange) -> Result<()> {
        if range.is_empty() || self.reads_as_zeroes(io, range.start()).await? {
            return Ok(());
        }
        let zeroes = Buf::zeroed(usize::try_from(range.len()).unwrap_or(0));
        self.write_clusters(io, range.start(), zeroes, WriteFlags::default()).await.0
    }

    /// Whether the cluster at `at` reads as zeroes without looking at anybody's bytes.
    async fn reads_as_zeroes(&self, io: Io<'_>, at: GuestOffset) -> Result<bool> {
        Ok(match self.entry_at(io, at).await? {
            L2Entry::Zero(_) => true,
            L2Entry::Unallocated => !self.has_backing(io),
            L2Entry::Data(_) | L2Entry::Compressed(_) => false,
        })
    }

    /// Changes whole clusters, one slice at a time.
    pub(super) async fn change_clusters(&self, io: Io<'_>, range: GuestRange, goal: Become) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.mark_for_writing(io).await?;
        let _clusters = self.in_flight.lock(io, range.align_out(self.cluster.bytes()), "clusters").await;
        self.change_clusters_locked(io, range, goal).await
    }

    /// As [`Self::change_clusters`], of clusters that are locked.
    pub(super) async fn change_clusters_locked(
        &self,
        io: Io<'_>,
        range: GuestRange,
        goal: Become,
    ) -> Result<()> {
        let mut rest = range;
        while !rest.is_empty() {
            self.reap_some(io).await?;
            self.store_if_full(io).await?;
            let done = self.change_slice(io, rest, goal).await?;
            rest = rest.skip(done);
        }
        Ok(())
    }

    /// Changes the clusters of `range` that are in its first slice; returns how many bytes that were.
    async fn change_slice(&self, io: Io<'_>, range: GuestRange, goal: Become) -> Result<u64> {
        let spot = self.map.spot(range.start());
        let has_backing = self.has_backing(io);
        let hides_nothing = !has_backing || self.version == Version::V2 || goal == Become::Unmapped;
        if hides_nothing && self.map.table(spot.slice)?.is_none() {
            return Ok(self.map.table_left_bytes(spot).min(range.len()));
        }
        self.own_table(io, spot.slice).await?;
        let len = self.map.slice_left_bytes(spot).min(range.len());
        let count = usize::try_from(self.cluster.clusters(spot.byte + len)).unwrap_or(0);
        let raw = self.map.entries(io, spot, count).await?;
        let mut entries = Vec::with_capacity(count);
        for (n, raw) in raw.iter().enumerate() {
            let entry = self.map.parse(Spot { index: spot.index + n, ..spot }, *raw)?;
            self.demand_separate(entry)?;
            entries.push(entry);
        }
        let new: Vec<L2Entry> = entries.iter().map(|entry| self.changed(*entry, goal, has_backing)).collect();
        let encoded: Vec<u64> = new.iter().map(|entry| entry.encode(self.cluster)).collect();
        if encoded != raw {
            self.map.publish(io, spot, &raw, &encoded).await?;
            let given_up = entries.iter().zip(&new).filter(|(old, new)| !keeps_space(**old, **new));
            given_up.for_each(|(old, _)| self.unlink_entry(io, *old));
        }
        Ok(len)
    }

    fn changed(&self, entry: L2Entry, goal: Become, has_backing: bool) -> L2Entry {
        match (goal, entry) {
            (Become::ZeroKeeping, L2Entry::Data(place @ Allocated { copied: true, .. })) => {
                L2Entry::Zero(Some(place))
            }
            (Become::ZeroKeeping, L2Entry::Zero(_)) => entry,
            // Reads as zeroes already.
            (Become::ZeroKeeping | Become::Zero, L2Entry::Unallocated) if !has_backing => entry,
            (Become::ZeroKeeping | Become::Zero, _) => L2Entry::Zero(None),
            (Become::Unmapped, _) => L2Entry::Unallocated,
            (Become::Discarded, L2Entry::Unallocated) if !has_backing => entry,
            (Become::Discarded, _) if self.version == Version::V2 => L2Entry::Unallocated,
            (Become::Discarded, _) => L2Entry::Zero(None),
        }
    }
}

/// Whether the new entry still owns what the old one did.
fn keeps_space(old: L2Entry, new: L2Entry) -> bool {
    match (old, new) {
        (
            L2Entry::Data(place) | L2Entry::Zero(Some(place)),
            L2Entry::Zero(Some(kept)) | L2Entry::Data(kept),
        ) => place.at == kept.at,
        (L2Entry::Unallocated | L2Entry::Zero(None), _) => true,
        (L2Entry::Compressed(_), _)
        | (_, L2Entry::Unallocated | L2Entry::Zero(None) | L2Entry::Compressed(_)) => old == new,
    }
}
