//! Where the bytes are, from what is in memory: no wait, no allocation, no lock.
//!
//! Invariant: an answer was true at some moment of the request. A mapping that changes right after it does no harm: its
//! clusters are not used again before the request has ended (`free`).
//! A damaged entry is answered with "ask me": the driver then says what is wrong, and marks the image.

use drystone_base::{Error, GuestRange, HostOffset, Kind, LEN_MAX, Result};
use drystone_core::driver::{Extent, Place, Tail};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;

use super::frame::Slice;
use super::map::Spot;
use super::mark::Overlap;
use super::{ALLOCATION_BYTES_MAX, Qcow2};
use crate::qcow2::entry::{Allocated, L2Entry, Part, RawEntry};

impl Qcow2 {
    /// Where the first bytes of `range` are.
    pub(super) fn place(&self, range: GuestRange) -> Extent {
        let spot = self.map.spot(range.start());
        if let Some((extent, _)) = self.place_in_one(spot, range.len()) {
            return extent;
        }
        let found = self.map.slices.with(spot.slice, |slice| self.place_in(slice, spot, range.len()));
        found.unwrap_or_else(|| self.place_without_slice(spot))
    }

    /// Where `len` bytes are that one cluster of data holds: the short way for short requests.
    #[inline]
    fn place_in_one(&self, spot: Spot, len: u64) -> Option<(Extent, Allocated)> {
        let left = self.cluster.bytes() - spot.byte;
        if len > left {
            return None;
        }
        let raw = self.map.slices.with(spot.slice, |slice| slice.raw(spot.index))?;
        let data = L2Entry::plain_data(raw.descriptor, self.cluster)?;
        let l2 = self.map.l2();
        if l2.has_data_file() && data.at != self.map.place_in_data_file(spot) {
            return None;
        }
        let known = if l2.is_extended() {
            let (has_data, is_zero) = (raw.bitmap & u64::from(u32::MAX), raw.bitmap >> 32);
            let touched = u64::from(l2.touched(spot.byte, spot.byte + len.max(1)));
            if has_data & is_zero != 0 || touched & !has_data != 0 {
                return None;
            }
            len
        } else {
            left
        };
        Some((Extent { len: known, place: self.in_file(data.at.checked_add(spot.byte)?) }, data))
    }

    fn place_without_slice(&self, spot: Spot) -> Extent {
        match self.map.table(spot.slice) {
            Ok(None) => Extent { len: self.map.table_left_bytes(spot), place: Place::Backing },
            Ok(Some(_)) => Extent { len: self.map.slice_left_bytes(spot), place: Place::Load },
            Err(_) => Extent { len: self.cluster.bytes() - spot.byte, place: Place::Ask },
        }
    }

    #[inline]
    fn place_in(&self, slice: Slice<'_>, spot: Spot, len: u64) -> Extent {
        if self.map.l2().is_extended() {
            return self.place_in_parts(slice, spot, len);
        }
        let raw = slice.raw(spot.index);
        let one = |place| Extent { len: self.cluster.bytes() - spot.byte, place };
        // A run goes on while the next entry is the one that continues this.
        let run = |step: u64, place| {
            let wanted = self.clusters_at(spot, len);
            let behind = slice.raws(spot.index + 1, wanted.saturating_sub(1));
            let expected = (1_u64..).map(|n| raw.descriptor.wrapping_add(n.wrapping_mul(step)));
            let same = |(raw, expected): &(RawEntry, u64)| raw.descriptor == *expected;
            let count = 1 + behind.zip(expected).take_while(same).count();
            Extent { len: count as u64 * self.cluster.bytes() - spot.byte, place }
        };
        match self.map.entry(spot, raw) {
            Err(_) | Ok(L2Entry::Compressed(_) | L2Entry::Mixed(_)) => one(Place::Ask),
            Ok(L2Entry::Unallocated) => run(0, Place::Backing),
            Ok(L2Entry::Zero(None)) => run(0, Place::Zero { explicit: true }),
            Ok(L2Entry::Zero(Some(_))) => run(self.cluster.bytes(), Place::Zero { explicit: true }),
            Ok(L2Entry::Data(data)) => match data.at.checked_add(spot.byte) {
                Some(at) => run(self.cluster.bytes(), self.in_file(at)),
                None => one(Place::Ask),
            },
        }
    }

    /// As [`Self::place_in`], subcluster by subcluster.
    fn place_in_parts(&self, slice: Slice<'_>, spot: Spot, len: u64) -> Extent {
        let l2 = self.map.l2();
        let ask = Extent { len: self.cluster.bytes() - spot.byte, place: Place::Ask };
        let Ok(entry) = self.map.entry(spot, slice.raw(spot.index)) else { return ask };
        let first = self.subcluster_at(spot);
        let (part, mut count) = entry.run(first, l2);
        let at = entry.place().and_then(|place| place.at.checked_add(spot.byte));
        let place = match (part, at) {
            (Part::Unallocated, _) => Place::Backing,
            (Part::Zero, _) => Place::Zero { explicit: true },
            (Part::Data, Some(at)) => self.in_file(at),
            (Part::Data, None) | (Part::Compressed, _) => return ask,
        };
        let mut same = l2.subcluster_bytes() * u64::from(first + count) - spot.byte;
        let mut before = entry.place();
        let mut reaches_end = first + count == l2.subclusters();
        let behind = slice.raws(spot.index + 1, self.clusters_at(spot, len).saturating_sub(1));
        for (index, raw) in (spot.index + 1..).zip(behind) {
            let next = self.map.entry(Spot { index, ..spot }, raw).ok();
            let Some(next) = next.filter(|_| reaches_end) else { break };
            let follows = before.map(|place| Allocated { at: place.at.plus(self.cluster.bytes()), ..place });
            let next_part = next.run(0, l2);
            if next_part.0 != part || next.place() != follows {
                break;
            }
            count = next_part.1;
            before = next.place();
            same += u64::from(count) * l2.subcluster_bytes();
            reaches_end = count == l2.subclusters();
        }
        Extent { len: same, place }
    }

    /// The subcluster that a spot is in.
    pub(super) fn subcluster_at(&self, spot: Spot) -> u32 {
        u32::try_from(spot.byte / self.map.l2().subcluster_bytes()).unwrap_or(0)
    }

    /// How many clusters `len` bytes from `spot` on touch.
    fn clusters_at(&self, spot: Spot, len: u64) -> usize {
        usize::try_from(self.cluster.clusters(spot.byte + len.min(LEN_MAX))).unwrap_or(usize::MAX)
    }

    /// As [`Self::place`], for overwriting: in the file, or for the driver to do.
    pub(super) fn place_to_write(&self, io: Io<'_>, range: GuestRange) -> Result<Extent> {
        if range.end().get() > io.len() {
            let text = format!(
                "{range} lies past the end of the disk ({} bytes), which does not grow by writing",
                io.len()
            );
            return Err(Error::new(Kind::OutOfRange, text));
        }
        let spot = self.map.spot(range.start());
        if !self.condition.is_marked() {
            // The first write marks the image before it touches anything.
            self.demand_undamaged()?;
            return Ok(self.all_that_may_be_asked(spot));
        }
        if let Some((extent, data)) = self.place_in_one(spot, range.len())
            && data.copied
            && (self.map.l2().has_data_file() || !self.owned.holds(self.clusters_of(data.at, 1)))
        {
            return Ok(extent);
        }
        let found =
            self.map.slices.with(spot.slice, |slice| self.place_to_write_in(slice, spot, range.len()));
        if let Some(extent) = found {
            return Ok(extent);
        }
        match self.map.table(spot.slice) {
            Ok(Some(_)) => Ok(Extent { len: self.map.slice_left_bytes(spot), place: Place::Load }),
            _ => Ok(self.all_that_may_be_asked(spot)),
        }
    }

    #[inline]
    fn place_to_write_in(&self, slice: Slice<'_>, spot: Spot, len: u64) -> Extent {
        let entry = self.map.entry(spot, slice.raw(spot.index));
        let subcluster = self.subcluster_at(spot);
        if !entry.is_ok_and(|entry| has_data_in_place(entry, subcluster)) {
            return self.not_in_place(slice, spot, len);
        }
        let extent = self.place_in(slice, spot, len);
        if self.is_separate(extent, spot) { extent } else { Extent { place: Place::Ask, ..extent } }
    }

    /// Whether data in the file does not overlap the image's own tables.
    fn is_separate(&self, extent: Extent, spot: Spot) -> bool {
        let Place::Child { child, at, .. } = extent.place else { return false };
        child == ChildKey::DataFile
            || !self.owned.holds(self.clusters_of(at, self.cluster.clusters(spot.byte + extent.len)))
    }

    /// Clusters from `spot` on none of which can be overwritten where it is.
    fn not_in_place(&self, slice: Slice<'_>, spot: Spot, len: u64) -> Extent {
        let wanted = self.clusters_at(spot, len.min(ALLOCATION_BYTES_MAX));
        let entries = slice.raws(spot.index, wanted);
        let run = entries.take_while(|raw| !L2Entry::parse(*raw, self.map.l2()).is_ok_and(is_in_place));
        Extent { len: run.count().max(1) as u64 * self.cluster.bytes() - spot.byte, place: Place::Ask }
    }

    fn all_that_may_be_asked(&self, spot: Spot) -> Extent {
        let most = ALLOCATION_BYTES_MAX.max(self.cluster.bytes());
        Extent { len: self.map.slice_left_bytes(spot).min(most - spot.byte), place: Place::Ask }
    }

    /// As [`Self::place`], where damage is an error.
    pub(super) fn place_for_status(&self, io: Io<'_>, range: GuestRange) -> Result<Extent> {
        let mut extent = self.place(range);
        if let Place::Child { child: ChildKey::File | ChildKey::DataFile, at, .. } = extent.place {
            extent.place = self.place_beside_holes(io, at).unwrap_or(extent.place);
        }
        let spot = self.map.spot(range.start());
        if let Place::Backing | Place::Zero { .. } = extent.place
            && let Some(at) = self.space_at(spot)
        {
            extent.place = Place::Reserved { at, zero: extent.place != Place::Backing };
        }
        if extent.place == Place::Ask {
            self.map.table(spot.slice)?;
            let raw = self.map.slices.with(spot.slice, |slice| slice.raw(spot.index));
            self.map.parse(spot, raw.unwrap_or_default())?;
        }
        Ok(extent)
    }

    /// The space in the file that a spot has, with data or without.
    fn space_at(&self, spot: Spot) -> Option<HostOffset> {
        let raw = self.map.slices.with(spot.slice, |slice| slice.raw(spot.index))?;
        self.map.entry(spot, raw).ok()?.place()?.at.checked_add(spot.byte)
    }

    /// Data at `at` of the file that data is in.
    fn in_file(&self, at: HostOffset) -> Place {
        let child = if self.map.l2().has_data_file() { ChildKey::DataFile } else { ChildKey::File };
        Place::Child { child, at, tail: Tail::Zeroes, transparent: false }
    }

    /// Fails if the clusters of an entry hold tables.
    pub(super) fn demand_separate(&self, entry: L2Entry) -> Result<()> {
        match self.run_of(entry) {
            Some(run) if self.owned.holds(run) => {
                let error = Error::new(Kind::Corrupt, "guest data overlaps the image's own tables");
                let len_bytes = run.count * self.cluster.bytes();
                Err(match self.cluster.host_start(run.first) {
                    Some(at) => error.because(Overlap { at, len_bytes }),
                    None => error,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a cluster's bytes can all be overwritten where they are.
pub(super) fn is_in_place(entry: L2Entry) -> bool {
    matches!(entry, L2Entry::Data(Allocated { copied: true, .. }))
}

/// Whether a subcluster's bytes can be overwritten where they are.
pub(super) fn has_data_in_place(entry: L2Entry, subcluster: u32) -> bool {
    entry.place().is_some_and(|place| place.copied) && entry.part(subcluster) == Part::Data
}
