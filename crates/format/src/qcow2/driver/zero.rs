//! Zeroes and discards: whole subclusters by their entries, the rest by writing zero bytes. Only whole clusters give back
//! their space.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::map::Spot;
use super::passes::Cause;
use super::refs::Run;
use crate::qcow2::entry::{Allocated, L2Entry, Mixed, Part, RawEntry};
use crate::qcow2::header::Version;

/// What becomes of the clusters of a range.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Become {
    /// They read as zeroes, whatever the image will lie on, and keep the space that they have.
    ZeroKeeping,
    /// They read as zeroes, whatever the image will lie on, and give their space back.
    ZeroGiving,
    /// Likewise, and what is in that space does not matter any more: the file may have it back.
    Kept,
    /// They read as zeroes, and give their space back. What reads as zeroes already stays as it is.
    Zero,
    /// Where there is something, it gives its space back; it reads as zeroes if anything would show through.
    Discarded,
    /// They show what is at their places in the data file.
    Mapped,
    /// They are nowhere, whatever shows through: behind the end of the disk.
    Unmapped,
}

impl Become {
    /// Whether clusters are marked as zeroes where nothing is and nothing shows through.
    const fn marks(self) -> bool {
        matches!(self, Self::ZeroKeeping | Self::ZeroGiving)
    }
}

impl Qcow2 {
    /// Whether something shows through where this image has nothing: now, or when it is opened with its backing file.
    pub(super) fn has_backing(&self, io: Io<'_>) -> bool {
        io.child(ChildKey::Backing).is_some() || self.names_backing()
    }

    /// Makes a range read as zeroes.
    pub(super) async fn zero_range(&self, io: Io<'_>, range: GuestRange, flags: ZeroFlags) -> Result<()> {
        self.demand_inside(io, range)?;
        let by_unmapping = self.version == Version::V2 && flags.may_unmap && !self.has_backing(io);
        if self.version == Version::V2 && !by_unmapping {
            return Err(Error::new(Kind::Unsupported, "version 2 images have no zero clusters"));
        }
        if self.is_data_raw() {
            return self.zero_data(io, range, flags).await;
        }
        let (head, middle, tail) = split(io, range, self.map.l2().subcluster_bytes());
        let (low, whole, high) = split(io, middle, self.cluster.bytes());
        if flags.fast_only {
            let is_easy = self.is_zero_at(io, head).await? && self.is_zero_at(io, tail).await?;
            if !is_easy || self.is_compressed(io, low).await? || self.is_compressed(io, high).await? {
                let text = "parts of clusters cannot be zeroed without writing";
                return Err(Error::new(Kind::Unsupported, text));
            }
        }
        let goal = match (by_unmapping, flags.may_unmap) {
            (true, _) => Become::Discarded,
            (false, true) if self.options().discard_keeps => Become::Kept,
            (false, true) => Become::ZeroGiving,
            (false, false) => Become::ZeroKeeping,
        };
        self.change_clusters(io, whole, goal).await?;
        for part in [low, high] {
            match self.change_clusters(io, part, goal).await {
                Err(error) if error.kind() == Kind::Unsupported && self.is_compressed(io, part).await? => {
                    self.write_zero_bytes(io, part).await?;
                }
                result => result?,
            }
        }
        for edge in [head, tail] {
            if !self.mark_edge(io, edge).await? {
                self.write_zero_bytes(io, edge).await?;
            }
        }
        Ok(())
    }

    /// Whether a part of a subcluster reads as zeroes.
    async fn is_zero_at(&self, io: Io<'_>, edge: GuestRange) -> Result<bool> {
        Ok(edge.is_empty() || self.reads_as_zeroes(io, edge.start()).await?)
    }

    /// Makes zeroes of the subcluster that a part lies in, if there is nothing and nothing shows through. Whether it did.
    async fn mark_edge(&self, io: Io<'_>, edge: GuestRange) -> Result<bool> {
        if edge.is_empty() || self.version == Version::V2 || !self.is_nothing_at(io, edge.start()).await? {
            return Ok(false);
        }
        self.mark_for_writing(io).await?;
        let _clusters = self.in_flight.lock(io, edge.align_out(self.cluster.bytes()), "clusters").await;
        let whole = edge.align_out(self.map.l2().subcluster_bytes());
        let whole = whole.take(io.len().saturating_sub(whole.start().get()));
        // Somebody may have written beside it in between.
        if !self.is_nothing_at(io, edge.start()).await? {
            return Ok(false);
        }
        self.change_clusters_locked(io, whole, Become::ZeroKeeping).await?;
        Ok(true)
    }

    async fn is_nothing_at(&self, io: Io<'_>, at: GuestOffset) -> Result<bool> {
        let part = self.entry_at(io, at).await?.part(self.subcluster_at(self.map.spot(at)));
        Ok(part == Part::Unallocated && !self.has_backing(io))
    }

    /// Makes a range read as zeroes in a raw data file. What is not mapped reads as zeroes already.
    async fn zero_data(&self, io: Io<'_>, range: GuestRange, flags: ZeroFlags) -> Result<()> {
        self.mark_for_writing(io).await?;
        let data = self.data_file(io)?;
        let inside = data.len().saturating_sub(range.start().get()).min(range.len());
        match range.take(inside) {
            inside if inside.is_empty() => Ok(()),
            inside => data.write_zeroes(inside, ZeroFlags { fua: false, ..flags }).await,
        }
    }

    async fn is_compressed(&self, io: Io<'_>, range: GuestRange) -> Result<bool> {
        Ok(!range.is_empty() && matches!(self.entry_at(io, range.start()).await?, L2Entry::Compressed(_)))
    }

    /// The contents of a range do not matter any more.
    pub(super) async fn discard_range(&self, io: Io<'_>, range: GuestRange) -> Result<()> {
        if self.version == Version::V2 && self.has_backing(io) {
            // The backing image would show through.
            return Ok(());
        }
        if self.is_data_raw() {
            self.mark_for_writing(io).await?;
            self.discard_data(io, range).await;
            return Ok(());
        }
        let keeps = self.options().discard_keeps && self.version == Version::V3;
        let goal = if keeps { Become::Kept } else { Become::Discarded };
        self.mark_for_writing(io).await?;
        let _clusters = self.in_flight.lock(io, range.align_out(self.cluster.bytes()), "clusters").await;
        // Not before: if the disk grows, its last cluster is not whole any more, and what follows may be written.
        let (_, middle, _) = split(io, range, self.cluster.bytes());
        self.change_clusters_locked(io, middle, goal).await
    }

    fn demand_inside(&self, io: Io<'_>, range: GuestRange) -> Result<()> {
        if range.end().get() <= io.len() {
            return Ok(());
        }
        let text = format!("{range} lies past the end of the disk ({} bytes)", io.len());
        Err(Error::new(Kind::OutOfRange, text))
    }

    async fn write_zero_bytes(&self, io: Io<'_>, range: GuestRange) -> Result<()> {
        if range.is_empty() || self.reads_as_zeroes(io, range.start()).await? {
            return Ok(());
        }
        let zeroes = Buf::zeroed(usize::try_from(range.len()).unwrap_or(0));
        self.write_clusters(io, range.start(), zeroes, WriteFlags::default()).await.0
    }

    /// Whether the subcluster at `at` reads as zeroes without looking at anybody's bytes.
    async fn reads_as_zeroes(&self, io: Io<'_>, at: GuestOffset) -> Result<bool> {
        let entry = self.entry_at(io, at).await?;
        Ok(match entry.part(self.subcluster_at(self.map.spot(at))) {
            Part::Zero => true,
            Part::Unallocated => !self.has_backing(io),
            Part::Data | Part::Compressed => false,
        })
    }

    /// Changes whole clusters, or whole subclusters of one cluster, one slice at a time. Fails with
    /// [`Kind::Unsupported`], having done nothing, for a part of a compressed cluster; and for what was whole until the disk
    /// became longer.
    pub(super) async fn change_clusters(&self, io: Io<'_>, range: GuestRange, goal: Become) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.mark_for_writing(io).await?;
        let _clusters = self.in_flight.lock(io, range.align_out(self.cluster.bytes()), "clusters").await;
        let end = range.end().get();
        if end < io.len() && !end.is_multiple_of(self.map.l2().subcluster_bytes()) {
            return Err(Error::new(Kind::Unsupported, "the disk has grown, and ends elsewhere"));
        }
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
        let hides_nothing = hides_nothing && goal != Become::Mapped && !goal.marks();
        if hides_nothing && self.map.table(spot.slice)?.is_none() {
            return Ok(self.map.table_left_bytes(spot).min(range.len()));
        }
        self.own_table(io, spot.slice).await?;
        let len = self.map.slice_left_bytes(spot).min(range.len());
        let count = usize::try_from(self.cluster.clusters(spot.byte + len)).unwrap_or(0);
        let raw = self.map.entries(io, spot, count).await?;
        let mut entries = Vec::with_capacity(count);
        let mut new = Vec::with_capacity(count);
        for (n, raw) in raw.iter().enumerate() {
            let entry = self.map.parse(Spot { index: spot.index + n, ..spot }, *raw)?;
            self.demand_separate(entry)?;
            let touched = self.touched_in(io, range.take(len), spot, n as u64);
            let changed = match touched == self.map.l2().all_subclusters() {
                true if goal == Become::Mapped => Some(self.mapped(spot, n as u64, entry)),
                true => Some(self.changed(entry, goal, has_backing)),
                false => self.changed_in_part(entry, touched, has_backing || goal.marks()),
            };
            new.push(changed.ok_or_else(|| {
                Error::new(Kind::Unsupported, "a part of a compressed cluster cannot be zeroed")
            })?);
            entries.push(entry);
        }
        let encoded: Vec<RawEntry> = new.iter().map(|entry| entry.encode(self.map.l2())).collect();
        if encoded != raw {
            self.map.publish(io, spot, &raw, &encoded).await?;
            let given_up = entries.iter().zip(&new).filter(|(old, new)| !keeps_space(**old, **new));
            given_up.for_each(|(old, _)| self.unlink_entry(io, *old, Cause::Request));
            // Where something else shows through, not before it does: after a power cut the old mapping may be there.
            if self.map.l2().has_data_file() && goal != Become::Unmapped {
                self.give_back_data(io, range.take(len), (&entries, &new)).await;
            }
        }
        if goal == Become::Kept {
            self.discard_kept(io, entries.iter().zip(&new)).await?;
        }
        Ok(len)
    }

    /// Gives the file back what clusters held that read as zeroes now and keep their place, once the disk knows that. Who
    /// writes there next waits for this request.
    async fn discard_kept<'e>(
        &self,
        io: Io<'_>,
        changed: impl Iterator<Item = (&'e L2Entry, &'e L2Entry)>,
    ) -> Result<()> {
        if !self.passes.has(Cause::Request) {
            return Ok(());
        }
        let kept = changed.filter(|(old, new)| old != new && keeps_space(**old, **new));
        let runs: Vec<Run> = kept.filter_map(|(_, new)| self.run_of(*new)).collect();
        if !runs.is_empty() {
            self.store_metadata(io).await?;
        }
        for run in runs {
            self.discard_in_file(io, run).await;
        }
        Ok(())
    }

    /// A cluster that shows what the data file has.
    fn mapped(&self, spot: Spot, n: u64, entry: L2Entry) -> L2Entry {
        let at = self.map.place_in_data_file(spot).plus(n * self.cluster.bytes());
        if entry == L2Entry::Unallocated { L2Entry::Data(Allocated { at, copied: true }) } else { entry }
    }

    /// Gives back space in the data file: that of whole clusters which `range` begins with and that own it no more. Their
    /// mapping is gone for whoever comes now; who found it before reads or writes beside a request that does the same.
    async fn give_back_data(&self, io: Io<'_>, range: GuestRange, (old, new): (&[L2Entry], &[L2Entry])) {
        let mut rest = range;
        let mut owned = old.iter().zip(new).map(|(old, new)| !keeps_space(*old, *new)).peekable();
        while let Some(is_over) = owned.next() {
            let mut count = 1;
            while owned.next_if_eq(&is_over).is_some() {
                count += 1;
            }
            let run = rest.take(count * self.cluster.bytes());
            rest = rest.skip(run.len());
            if is_over {
                self.discard_data(io, run).await;
            }
        }
    }

    /// Gives back space in the data file, if such is wanted. Advice: a failure does no harm. It reads as zeroes then, never
    /// as anything else: a raw data file is looked at, and any other is after a power cut before the mapping was stored.
    pub(super) async fn discard_data(&self, io: Io<'_>, range: GuestRange) {
        let Ok(data) = self.data_file(io) else { return };
        let inside = data.len().saturating_sub(range.start().get()).min(range.len());
        let inside = range.take(inside);
        if !inside.is_empty() && self.passes.has(Cause::Request) {
            let flags = ZeroFlags { may_unmap: true, fast_only: true, fua: false, unchanged: false };
            let _ = data.write_zeroes(inside, flags).await;
        }
    }

    /// The subclusters of cluster `n` from `spot` on that a range which starts there covers. Behind the end of the disk
    /// there is nothing to keep.
    fn touched_in(&self, io: Io<'_>, range: GuestRange, spot: Spot, n: u64) -> u32 {
        let bytes = self.cluster.bytes();
        let from = if n == 0 { spot.byte } else { 0 };
        let to = match range.end().get() >= io.len() {
            true => bytes,
            false => (spot.byte + range.len() - n * bytes).min(bytes),
        };
        self.map.l2().touched(from, to)
    }

    /// A cluster of which some subclusters read as zeroes now, also those that are nowhere if they are marked; `None` if it is
    /// compressed.
    fn changed_in_part(&self, entry: L2Entry, touched: u32, marks: bool) -> Option<L2Entry> {
        if matches!(entry, L2Entry::Compressed(_)) {
            return None;
        }
        let Mixed { place, data, zero } = entry.subclusters(self.map.l2());
        // What is nowhere reads as zeroes already if there is nothing below.
        let touched = if marks { touched } else { touched & (data | zero) };
        Some(Mixed { place, data: data & !touched, zero: zero | touched }.entry(self.map.l2()))
    }

    fn changed(&self, entry: L2Entry, goal: Become, has_backing: bool) -> L2Entry {
        match (goal, entry) {
            (
                Become::ZeroKeeping | Become::Kept,
                L2Entry::Data(place @ Allocated { copied: true, .. })
                | L2Entry::Mixed(Mixed { place: Some(place @ Allocated { copied: true, .. }), .. }),
            ) => L2Entry::Zero(Some(place)),
            (Become::ZeroKeeping | Become::Kept, L2Entry::Zero(_)) => entry,
            // Reads as zeroes already.
            (Become::Kept | Become::Zero, L2Entry::Unallocated) if !has_backing => entry,
            (Become::ZeroKeeping | Become::ZeroGiving | Become::Kept | Become::Zero, _) => {
                L2Entry::Zero(None)
            }
            (Become::Unmapped, _) => L2Entry::Unallocated,
            (Become::Discarded, L2Entry::Unallocated) if !has_backing => entry,
            (Become::Discarded, _) if self.version == Version::V2 => L2Entry::Unallocated,
            (Become::Discarded, _) => L2Entry::Zero(None),
            (Become::Mapped, _) => entry,
        }
    }
}

/// Parts of units at the ends, and whole units between. The last unit of the disk is whole at its end.
fn split(io: Io<'_>, range: GuestRange, unit_bytes: u64) -> (GuestRange, GuestRange, GuestRange) {
    let start = range.start().get().next_multiple_of(unit_bytes).min(range.end().get());
    let end = if range.end().get() >= io.len() {
        range.end().get()
    } else {
        range.end().align_down(unit_bytes).get()
    };
    let end = end.max(start);
    let head = range.take(start - range.start().get());
    let middle = range.skip(head.len()).take(end - start);
    (head, middle, range.skip(head.len() + middle.len()))
}

/// Whether the new entry still owns what the old one did.
fn keeps_space(old: L2Entry, new: L2Entry) -> bool {
    let at = |entry: L2Entry| entry.place().map(|place| place.at);
    match (old, at(old)) {
        (L2Entry::Compressed(_), _) => old == new,
        (_, None) => true,
        (_, place) => at(new) == place,
    }
}
