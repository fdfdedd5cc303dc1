//! [`ByteModel`]: which bytes a disk may hold while many requests are in flight, and after a power cut.
//!
//! ```text
//!  write 1  |--a--|                          a read here sees a
//!  write 2         |-----b------|            a read that overlaps it sees a or b
//!  write 3                |--c--------|      afterwards b or c, sector by sector; once a read saw c, only c
//!  flush                                |--| from here on a cannot come back; b could, had nobody seen c before
//! ```
//! A write that ended before another began cannot be seen once the other has succeeded. A failed write, and one that never
//! ends, may be seen or not. What was seen while nothing was in flight stays. A flush that began after a write's end makes
//! the write durable; everything later may be lost in a power cut, sector by sector.
//!
//! Invariant: the model allows exactly what the contract of a disk allows, so a [`Mismatch`] is a bug of the disk or of
//! what lies on top of it. Kept as intervals: its cost depends on the number of differing pieces, not of bytes.
//!
//! Not here: which requests are made, and how.

mod content;
mod mismatch;
#[cfg(test)]
mod tests;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use drystone_base::GuestRange;

pub use content::Content;
pub use mismatch::Mismatch;
use version::{Held, Version, VersionId};

use crate::disk::Image;
use crate::pattern::Stamp;
use crate::ranges::RangeMap;

/// How a request on the model's disk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It worked.
    Done,
    /// It worked and is durable (FUA).
    Durable,
    /// It failed: any part of it may have happened.
    Failed,
}

impl<T, E> From<&Result<T, E>> for Ending {
    fn from(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Done } else { Self::Failed }
    }
}

/// What a range may hold after a discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardRule {
    /// What it held before, or zeroes.
    OldOrZero,
    /// Zeroes.
    Zero,
    /// Anything.
    Any,
}

/// A write in flight. One that is never ended may be seen for ever, or never.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a write ends"]
pub struct WriteInFlight {
    id: VersionId,
    crashes: u64,
    range: GuestRange,
    replaces: bool,
}

/// A read in flight.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a read ends, or is abandoned"]
pub struct ReadInFlight {
    id: u64,
    range: GuestRange,
}

/// A flush in flight.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a flush ends"]
pub struct FlushInFlight {
    begun: u64,
    crashes: u64,
}

/// The bytes that a disk may hold.
#[derive(Debug, Clone)]
pub struct ByteModel {
    moment: u64,
    versions: BTreeMap<VersionId, Version>,
    /// Every version that a read or a power cut could still show; nothing where that is version 0 only.
    held: RangeMap<Vec<Held>>,
    /// For each read in flight, what it may find.
    reads: BTreeMap<u64, RangeMap<Vec<VersionId>>>,
    /// Lengths that may be found after a power cut, each with the moment at which it was set; the last is visible.
    lens: Vec<(u64, u64)>,
    lens_in_flight: BTreeMap<VersionId, u64>,
    /// How many power cuts there were. A request does not outlive one.
    crashes: u64,
    sector_bytes: u64,
    has_odd_ends: bool,
    stamps: u32,
}

impl ByteModel {
    /// The model of a disk that holds `len` zero bytes, durably.
    #[must_use]
    pub fn zeroed(len: u64) -> Self {
        Self::new(Content::Zero, len)
    }

    /// The model of a disk that holds `image`, durably.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        Self::new(Content::Image(image.clone()), image.len())
    }

    fn new(first: Content, len: u64) -> Self {
        Self {
            moment: 0,
            versions: BTreeMap::from([(0, Version::first(first))]),
            held: RangeMap::new(),
            reads: BTreeMap::new(),
            lens: vec![(len, 0)],
            lens_in_flight: BTreeMap::new(),
            crashes: 0,
            sector_bytes: 512,
            has_odd_ends: false,
            stamps: 0,
        }
    }

    /// The same, for a disk that may mix two writes in flight in units of `sector_bytes` (512 unless told).
    #[must_use]
    pub fn with_sectors(self, sector_bytes: u64) -> Self {
        Self { sector_bytes: sector_bytes.max(1), ..self }
    }

    /// The same, for a disk in files that may end inside of a sector: while such an end moves, a read can find a sector
    /// that is of one write up to there and of another one behind.
    #[must_use]
    pub fn with_odd_ends(self) -> Self {
        Self { has_odd_ends: true, ..self }
    }

    /// Length in bytes, as far as completed requests say.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.lens.last().map_or(0, |&(len, _)| len)
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the disk may have the length `len` after a power cut.
    #[must_use]
    pub fn may_have_len(&self, len: u64) -> bool {
        self.lens
            .iter()
            .map(|(len, _)| len)
            .chain(self.lens_in_flight.values())
            .any(|&allowed| allowed == len)
    }

    /// A stamp that was not used before.
    pub fn fresh_stamp(&mut self) -> Stamp {
        self.stamps += 1;
        Stamp::new(self.stamps)
    }

    /// The number of pieces that differ in what they may hold.
    #[must_use]
    pub fn piece_count(&self) -> usize {
        self.held.piece_count()
    }

    /// A write of `content` was submitted.
    pub fn begin_write(&mut self, range: GuestRange, content: Content) -> WriteInFlight {
        self.begin(range, content, true)
    }

    /// A discard was submitted.
    pub fn begin_discard(&mut self, range: GuestRange, rule: DiscardRule) -> WriteInFlight {
        let content = if rule == DiscardRule::Any { Content::Any } else { Content::Zero };
        self.begin(range, content, rule != DiscardRule::OldOrZero)
    }

    /// A change of the length was submitted. Bytes between the old and the new length become zero.
    pub fn begin_resize(&mut self, len: u64) -> WriteInFlight {
        let old = self.len();
        let Some(range) = GuestRange::checked(old.min(len), old.abs_diff(len)) else {
            panic!("no disk has a length of {len}")
        };
        let write = self.begin(range, Content::Zero, true);
        self.lens_in_flight.insert(write.id, len);
        write
    }

    fn begin(&mut self, range: GuestRange, content: Content, replaces: bool) -> WriteInFlight {
        let begun = self.tick();
        let id = begun;
        let version = Version { content, begun, ended: None, replaces: false, is_durable: false };
        self.versions.insert(id, version);
        self.held.update(bounds(range), |held| {
            let mut held = held.cloned().unwrap_or_else(|| vec![Held::new(0)]);
            held.push(Held::new(id));
            Some(held)
        });
        for may_find in self.reads.values_mut() {
            may_find.update(bounds(range), |ids| ids.map(|ids| ids.iter().copied().chain([id]).collect()));
        }
        WriteInFlight { id, crashes: self.crashes, range, replaces }
    }

    /// The write has ended.
    pub fn end_write(&mut self, write: WriteInFlight, ending: Ending) {
        let ended = self.tick();
        let version = self.versions.get_mut(&write.id).filter(|_| write.crashes == self.crashes);
        let Some(version) = version else { return };
        version.ended = Some(ended);
        version.replaces = write.replaces && ending != Ending::Failed;
        version.is_durable = ending == Ending::Durable;
        let visible = self.len();
        if let Some(len) = self.lens_in_flight.remove(&write.id) {
            self.lens.push((len, ended));
            if ending == Ending::Failed {
                self.lens.push((visible, ended));
            }
        }
        if ending == Ending::Durable {
            self.bury(bounds(write.range), 0);
        }
    }

    /// A read was submitted.
    pub fn begin_read(&mut self, range: GuestRange) -> ReadInFlight {
        let id = self.tick();
        let mut may_find = RangeMap::new();
        for (at, held) in self.held.over(bounds(range)) {
            may_find.set(at, held.map_or_else(|| vec![0], |held| self.visible(held)));
        }
        self.reads.insert(id, may_find);
        ReadInFlight { id, range }
    }

    /// The read has returned `bytes`.
    pub fn end_read(&mut self, read: ReadInFlight, bytes: &[u8]) -> Result<(), Mismatch> {
        assert_eq!(bytes.len() as u64, read.range.len(), "a read returns what was asked for");
        self.tick();
        let Some(may_find) = self.reads.remove(&read.id) else { return Ok(()) };
        let start = read.range.start().get();
        for (at, ids) in may_find.iter() {
            let inside = crate::index(at.start - start)..crate::index(at.end - start);
            let found = bytes.get(inside).unwrap_or_default();
            if let [only] = ids.as_slice()
                && self.content(*only).is_at(at.start, found)
            {
                continue;
            }
            for (sector, bytes) in sectors(at.start, found, self.sector_bytes) {
                let fits = |id: &VersionId| self.content(*id).is_at(sector.start, bytes);
                let seen: Vec<VersionId> = ids.iter().copied().filter(fits).collect();
                if seen.is_empty() && self.has_odd_ends && self.is_cut_once(ids, read.id, sector.start, bytes)
                {
                    continue;
                }
                if seen.is_empty() {
                    return Err(Mismatch::new(
                        sector.start,
                        bytes,
                        ids.iter().map(|&id| self.describe(id)).collect(),
                    ));
                }
                self.settle(sector, ids, &seen, read.id);
            }
        }
        Ok(())
    }

    /// The read turned out to be about its first `len` bytes only.
    pub fn shorten_read(&mut self, read: ReadInFlight, len: u64) -> ReadInFlight {
        let range = read.range.take(len);
        if let Some(may_find) = self.reads.get_mut(&read.id) {
            may_find.clear(range.end().get()..u64::MAX);
        }
        ReadInFlight { id: read.id, range }
    }

    /// The read has failed, or nobody waits for it any more.
    pub fn abandon_read(&mut self, read: ReadInFlight) {
        self.reads.remove(&read.id);
    }

    /// A read that nothing was in flight with has returned `bytes`.
    pub fn check(&mut self, range: GuestRange, bytes: &[u8]) -> Result<(), Mismatch> {
        let read = self.begin_read(range);
        self.end_read(read, bytes)
    }

    /// A flush was submitted.
    pub fn begin_flush(&mut self) -> FlushInFlight {
        FlushInFlight { begun: self.tick(), crashes: self.crashes }
    }

    /// The flush has worked. (One that failed says nothing.)
    pub fn end_flush(&mut self, flush: FlushInFlight) {
        if flush.crashes != self.crashes {
            return;
        }
        for version in self.versions.values_mut() {
            version.is_durable |= version.has_ended_before(flush.begun);
        }
        self.bury(0..u64::MAX, flush.begun);
        let last_durable = self.lens.iter().rposition(|&(_, set)| set < flush.begun).unwrap_or(0);
        self.lens.drain(..last_durable);
        self.forget_versions();
    }

    /// The power went off: everything that no flush covered may be gone. Requests in flight never end.
    pub fn crash(&mut self) {
        let moment = self.tick();
        for version in self.versions.values_mut() {
            version.ended.get_or_insert(moment);
            version.replaces = false;
            version.is_durable = true;
        }
        self.held.update(0..u64::MAX, |held| {
            held.map(|held| held.iter().map(|held| Held::new(held.id)).collect())
        });
        self.reads.clear();
        self.crashes += 1;
        self.lens.extend(std::mem::take(&mut self.lens_in_flight).into_values().map(|len| (len, moment)));
        self.lens.iter_mut().for_each(|(_, set)| *set = moment);
    }

    /// After a power cut the disk turned out to be `len` bytes long.
    pub fn found_len(&mut self, len: u64) {
        assert!(self.may_have_len(len), "a length of {len} was never set, or was changed durably");
        self.lens = vec![(len, self.moment)];
    }

    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    fn content(&self, id: VersionId) -> &Content {
        self.versions.get(&id).map_or(&Content::Any, |version| &version.content)
    }

    /// Whether `bytes`, found at `at` while any of `ids` was in flight, are of one of them up to some place and of one of
    /// them from there on.
    fn is_cut_once(&self, ids: &[VersionId], moment: u64, at: u64, bytes: &[u8]) -> bool {
        let is_over = |id: &VersionId| self.versions.get(id).is_some_and(|one| one.has_ended_before(moment));
        let fits = |at: u64, part: &[u8]| ids.iter().any(|id| self.content(*id).is_at(at, part));
        let is_cut = |place: usize| {
            bytes
                .split_at_checked(place)
                .is_some_and(|(head, tail)| fits(at, head) && fits(at + place as u64, tail))
        };
        !ids.iter().all(is_over) && (1..bytes.len()).any(is_cut)
    }

    /// Which of `held` a read may find.
    fn visible(&self, held: &[Held]) -> Vec<VersionId> {
        let version = |one: &Held| self.versions.get(&one.id);
        let replaced = held.iter().filter_map(version).filter(|one| one.replaces).map(|one| one.begun).max();
        let is_seen = |one: &&Held| {
            let is_replaced = version(one).is_some_and(|one| one.has_ended_before(replaced.unwrap_or(0)));
            one.hidden.is_none() && !is_replaced
        };
        held.iter().filter(is_seen).map(|one| one.id).collect()
    }

    /// A read that began at `moment` and could have found any of `ids` has found one of `seen`. Where nothing was in
    /// flight with it, the others are not there.
    fn settle(&mut self, sector: Range<u64>, ids: &[VersionId], seen: &[VersionId], moment: u64) {
        let have_ended =
            ids.iter().all(|id| self.versions.get(id).is_some_and(|one| one.has_ended_before(moment)));
        if seen.len() == ids.len() || !have_ended {
            return;
        }
        let is_gone = |one: &Held| ids.contains(&one.id) && !seen.contains(&one.id);
        let mut changes = Vec::new();
        for (at, held) in self.held.over(sector) {
            let Some(held) = held.filter(|held| self.visible(held) == ids) else { continue };
            let is_durable = |one: &Held| self.versions.get(&one.id).is_some_and(|one| one.is_durable);
            let settled: Vec<Held> = match held.iter().all(is_durable) {
                true => held.iter().filter(|one| !is_gone(one)).copied().collect(),
                false => held.iter().map(|one| if is_gone(one) { one.hide(moment) } else { *one }).collect(),
            };
            changes.push((at, settled));
        }
        for (at, settled) in changes {
            self.held.set(at, settled);
        }
    }

    /// Drops what not even a power cut can bring back: what lies below something durable, and what was known not to be
    /// there at the moment `flushed`.
    fn bury(&mut self, range: Range<u64>, flushed: u64) {
        let mut changes = Vec::new();
        for (at, held) in self.held.over(range) {
            let Some(held) = held.filter(|held| held.len() > 1) else { continue };
            let version = |one: &Held| self.versions.get(&one.id);
            let durable = held.iter().filter_map(version).filter(|one| one.replaces && one.is_durable);
            let durable = durable.map(|one| one.begun).max().unwrap_or(0);
            let is_left = |one: &&Held| {
                let is_below = version(one).is_some_and(|one| one.has_ended_before(durable));
                !is_below && one.hidden.is_none_or(|hidden| hidden >= flushed)
            };
            let left: Vec<Held> = held.iter().filter(is_left).copied().collect();
            if left.len() < held.len() {
                changes.push((at, left));
            }
        }
        for (at, left) in changes {
            self.held.set(at, left);
        }
    }

    fn forget_versions(&mut self) {
        let mut used: BTreeSet<VersionId> =
            self.held.iter().flat_map(|(_, held)| held.iter().map(|one| one.id)).collect();
        used.extend(
            self.reads.values().flat_map(|may_find| may_find.iter().flat_map(|(_, ids)| ids.iter().copied())),
        );
        used.insert(0);
        self.versions.retain(|id, version| used.contains(id) || version.ended.is_none());
    }

    fn describe(&self, id: VersionId) -> String {
        match self.versions.get(&id) {
            None => "a write before the last flush".into(),
            Some(version) => {
                format!("{:?}{}", version.content, if version.ended.is_none() { " in flight" } else { "" })
            }
        }
    }
}

fn bounds(range: GuestRange) -> Range<u64> {
    range.start().get()..range.end().get()
}

/// `bytes`, which were found at `at`, by sectors.
fn sectors(at: u64, bytes: &[u8], sector_bytes: u64) -> impl Iterator<Item = (Range<u64>, &[u8])> {
    let mut rest = (at, bytes);
    std::iter::from_fn(move || {
        let (at, bytes) = rest;
        let len = crate::index(sector_bytes - at % sector_bytes).min(bytes.len());
        let (head, tail) = bytes.split_at_checked(len).filter(|(head, _)| !head.is_empty())?;
        rest = (at + len as u64, tail);
        Some((at..at + len as u64, head))
    })
}
