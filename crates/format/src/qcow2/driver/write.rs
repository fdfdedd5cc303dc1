//! Writes that allocate: reserve, write data, publish, release what was there before.
//!
//! The guest clusters of a request are locked from before their entries are read until the new ones are published, so no
//! two requests allocate for one cluster, and a partial write sees what the one before it left.
//! Overwrites of clusters that are allocated already do not come here, unless they are the first write to the image.
//!
//! ```text
//!   cluster    | -  | D  | Z  | -  | -  |  Z |        D: data, Z: reads as zeroes, -: nothing
//!   request                    ..####
//!   written                   |..##|##..|             in place, or in a new cluster if there was no data
//!   written         |D   0   0|..##|##..|             in a new cluster, since the old data is elsewhere
//! ```
//! Subclusters that the request does not touch stay what they are. Without subclusters, the cluster is the only one.

use drystone_base::planted::{Mistake, is_planted};
use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, LEN_MAX, Result};
use drystone_buf::Buf;
use drystone_core::driver::{BufResult, WriteFlags};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::map::Spot;
use super::passes::{Cause, Freed};
use super::refs::Run;
use super::{ALLOCATION_BYTES_MAX, Qcow2};
use crate::qcow2::entry::{Allocated, L2Entry, Mixed, Part, RawEntry};

/// What clusters in one slice are before a write: raw entries and what they say. All are written in the same way.
pub(super) struct Before {
    spot: Spot,
    raw: Vec<RawEntry>,
    pub(super) entries: Vec<L2Entry>,
}

impl Before {
    /// What cluster `n` was.
    fn entry(&self, n: u64) -> L2Entry {
        let entry = usize::try_from(n).ok().and_then(|n| self.entries.get(n));
        entry.copied().unwrap_or(L2Entry::Unallocated)
    }
}

/// Where new data of some clusters goes.
struct Target {
    at: HostOffset,
    clusters: u64,
    /// The clusters were reserved for this write, rather than being the guest's already.
    reserved: Option<Run>,
}

impl Qcow2 {
    /// Writes a range of clusters of which some are not writable in place.
    pub(super) async fn write_clusters(
        &self,
        io: Io<'_>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> BufResult {
        if let Err(error) = self.mark_for_writing(io).await {
            return (Err(error), buf);
        }
        let range = GuestRange::new(at, buf.len() as u64);
        let _clusters = self.in_flight.lock(io, range.align_out(self.cluster.bytes()), "clusters").await;
        let mut done: Option<Buf> = None;
        let mut rest = buf;
        let mut at = at;
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            let (step, part, behind) = self.write_step(io, at, rest, flags).await;
            at = at.plus(part.len() as u64);
            done = Some(join(done, part));
            rest = behind;
            result = step;
        }
        let result = match result {
            Err(error) => Err(self.step_back_for_space(io, error).await),
            Ok(()) => Ok(()),
        };
        (result, join(done, rest))
    }

    /// Writes the first clusters that can be written in one go. Returns the buffer in the part that was written (or
    /// failed) and the rest.
    async fn write_step(
        &self,
        io: Io<'_>,
        at: GuestOffset,
        mut buf: Buf,
        flags: WriteFlags,
    ) -> (Result<()>, Buf, Buf) {
        let (before, target) = match self.prepare_step(io, at, buf.len() as u64).await {
            Ok(prepared) => prepared,
            Err(error) => return (Err(error), buf, Buf::empty()),
        };
        let room = target.clusters * self.cluster.bytes() - before.spot.byte;
        let behind = buf.split_off(usize::try_from(room).unwrap_or(usize::MAX).min(buf.len()));
        let (result, buf) = self.write_data(io, at, buf, flags, (&before, &target)).await;
        io.sim_point().await;
        let result = match result {
            Ok(()) => self.publish(io, &before, &target, buf.len() as u64).await,
            Err(error) => Err(error),
        };
        if result.is_err()
            && let Some(run) = target.reserved
        {
            // Nothing points there and nobody is writing there any more.
            self.give_back(io, run).await;
        }
        (result, buf, behind)
    }

    async fn prepare_step(&self, io: Io<'_>, at: GuestOffset, len: u64) -> Result<(Before, Target)> {
        self.reap_some(io).await?;
        self.store_if_full(io).await?;
        let before = self.look(io, at, len).await?;
        let target = self.find_target(io, &before).await?;
        Ok((before, target))
    }

    /// The entries of the clusters from `at` on that a write of `len` bytes touches, up to the end of the slice and up to
    /// where another way of writing begins.
    pub(super) async fn look(&self, io: Io<'_>, at: GuestOffset, len: u64) -> Result<Before> {
        let spot = self.map.spot(at);
        self.own_table(io, spot.slice).await?;
        let wanted = self.cluster.clusters(spot.byte + len.min(ALLOCATION_BYTES_MAX));
        let mut raw = self.map.entries(io, spot, usize::try_from(wanted).unwrap_or(usize::MAX)).await?;
        let mut entries = Vec::with_capacity(raw.len());
        for (n, raw) in raw.iter().enumerate() {
            let entry = self.map.parse(Spot { index: spot.index + n, ..spot }, *raw)?;
            let goes_on = self.map.l2().has_data_file() || continues(&entries, entry, self.cluster.bytes());
            if n > 0 && !goes_on {
                break;
            }
            self.demand_separate(entry)?;
            entries.push(entry);
        }
        raw.truncate(entries.len());
        Ok(Before { spot, raw, entries })
    }

    /// Where the data goes: where it is, where space was set aside, or into new clusters.
    async fn find_target(&self, io: Io<'_>, before: &Before) -> Result<Target> {
        let clusters = before.entries.len() as u64;
        if self.map.l2().has_data_file() {
            return Ok(Target { at: self.map.place_in_data_file(before.spot), clusters, reserved: None });
        }
        if let Some(Allocated { at, .. }) = before.entries.first().and_then(|first| own_space(*first)) {
            return Ok(Target { at, clusters, reserved: None });
        }
        let run = self.reserve(io, clusters).await?;
        let Some(at) = self.cluster.host_start(run.first) else {
            return Err(Error::new(Kind::NoSpace, "the image has reached the largest size of its format"));
        };
        Ok(Target { at, clusters: run.count, reserved: Some(run) })
    }

    /// Writes the data and, in new clusters, what surrounds it.
    async fn write_data(
        &self,
        io: Io<'_>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
        (before, target): (&Before, &Target),
    ) -> BufResult {
        let file = match self.data_file(io) {
            Ok(file) => file,
            Err(error) => return (Err(error), buf),
        };
        let byte = before.spot.byte;
        let place = target.at.plus(byte).in_child();
        let flags = WriteFlags { fua: false, ..flags };
        let end = byte + buf.len() as u64;
        let (start, stop) = self.cover(before, target, (byte, end));
        if (start, stop) == (byte, end) {
            file.event(Event::WriteAio).await;
            return file.write(place, buf, flags).await;
        }
        let old = match self.old_around(io, before, at.get() - byte, [start, byte, end, stop]).await {
            Ok(old) => old,
            Err(error) => return (Err(error), buf),
        };
        let is_bare = matches!(old, Old::Around(None, None));
        if is_bare && target.reserved.is_some() {
            file.event(Event::ClusterAllocSpace).await;
        }
        if is_bare && target.reserved.is_some_and(|run| self.refs.is_untouched(run.first, file.len())) {
            // The zeroes around it are there already.
            file.event(Event::WriteAio).await;
            return file.write(place, buf, flags).await;
        }
        let whole = old.with_data(byte - start, &buf, stop - end);
        if !is_bare {
            file.event(Event::CowWrite).await;
        }
        file.event(Event::WriteAio).await;
        let (result, _) = file.write(target.at.plus(start).in_child(), whole, flags).await;
        (result, buf)
    }

    /// Which bytes of the clusters are written when a request writes `first .. end` of them.
    fn cover(&self, before: &Before, target: &Target, (first, end): (u64, u64)) -> (u64, u64) {
        let (l2, is_new) = (self.map.l2(), target.reserved.is_some());
        let unit = l2.subcluster_bytes();
        let last = self.cluster.clusters(end).saturating_sub(1);
        let last_start = last * self.cluster.bytes();
        let index = |byte: u64| u32::try_from(byte / unit).unwrap_or(0);
        // What is elsewhere comes along.
        let [low, high] = [0, last].map(|n| if is_new { before.entry(n).subclusters(l2).data } else { 0 });
        let is_there = |n: u64, byte: u64| !is_new && before.entry(n).part(index(byte)) == Part::Data;
        let start = match is_there(0, first) {
            true => first,
            false => u64::from(index(first).min(low.trailing_zeros())) * unit,
        };
        let stop = match is_there(last, end - 1 - last_start) {
            true => end,
            false => {
                let behind =
                    u64::from((index(end - 1 - last_start) + 1).max(u32::BITS - high.leading_zeros()));
                last_start + behind * unit
            }
        };
        (start, stop)
    }

    /// What there was around `first .. end` in bytes `start .. stop` of clusters that begin at `clusters_at`.
    async fn old_around(
        &self,
        io: Io<'_>,
        before: &Before,
        clusters_at: u64,
        [start, first, end, stop]: [u64; 4],
    ) -> Result<Old> {
        let len = stop - start;
        let is_in_one = stop <= self.cluster.bytes() && first > start && end < stop;
        // What is between is read for nothing, but with one operation, and into the place from which it is written. If it
        // cannot be read, it is not needed.
        if is_in_one
            && end - first <= len / 2
            && clusters_at + stop <= io.len()
            && let Ok(whole) = self.surroundings(io, before, 0, (clusters_at + start, len)).await
        {
            return Ok(whole.map_or(Old::Around(None, None), Old::Whole));
        }
        let last = self.cluster.clusters(end).saturating_sub(1);
        let head = self.surroundings(io, before, 0, (clusters_at + start, first - start)).await?;
        let tail = self.surroundings(io, before, last, (clusters_at + end, stop - end)).await?;
        Ok(Old::Around(head, tail))
    }

    /// What a cluster showed around a write; `None` for zeroes.
    async fn surroundings(
        &self,
        io: Io<'_>,
        before: &Before,
        n: u64,
        (at, len): (u64, u64),
    ) -> Result<Option<Buf>> {
        let Some(at) = GuestOffset::checked(at) else { return Ok(None) };
        // Past the end of the disk there is nothing to preserve, except in the state of a machine.
        let end = if at.get() < self.state_start(io.len()) { io.len() } else { LEN_MAX };
        let len = len.min(end.saturating_sub(at.get()));
        self.old_bytes(io, at, before.entry(n), usize::try_from(len).unwrap_or(0)).await
    }

    /// Makes the new clusters visible and sets the old ones free. `len` bytes were written.
    async fn publish(&self, io: Io<'_>, before: &Before, target: &Target, len: u64) -> Result<()> {
        let count = usize::try_from(target.clusters).unwrap_or(usize::MAX).min(before.entries.len());
        let (expected, _) = before.raw.split_at_checked(count).unwrap_or_default();
        let end = before.spot.byte + len;
        let new: Vec<RawEntry> = (0_u64..)
            .zip(before.entries.iter().take(count))
            .map(|(n, old)| {
                let start = n * self.cluster.bytes();
                let (from, to) = (before.spot.byte.saturating_sub(start), end - start);
                let touched = self.map.l2().touched(from, to.min(self.cluster.bytes()));
                self.written(*old, target.at.plus(start), touched).encode(self.map.l2())
            })
            .collect();
        if expected == new {
            return Ok(());
        }
        self.map.publish(io, before.spot, expected, &new).await?;
        if target.reserved.is_some() {
            before
                .entries
                .iter()
                .take(count)
                .for_each(|entry| self.unlink_entry(io, *entry, Cause::Replaced));
        }
        Ok(())
    }

    /// What a cluster is when some of its subclusters were written, and it is at `at`.
    fn written(&self, old: L2Entry, at: HostOffset, touched: u32) -> L2Entry {
        let Mixed { data, zero, .. } = old.subclusters(self.map.l2());
        let place = Some(Allocated { at, copied: true });
        Mixed { place, data: data | touched, zero: zero & !touched }.entry(self.map.l2())
    }

    /// Makes new entries of clusters in one slice visible, which were all written in the same way, and sets free what they
    /// had before.
    pub(super) async fn replace_entries(&self, io: Io<'_>, at: GuestOffset, new: &[L2Entry]) -> Result<()> {
        let before = self.look(io, at, new.len() as u64 * self.cluster.bytes()).await?;
        assert_eq!(
            before.entries.len(),
            new.len(),
            "the entries were looked at before, and nobody else changes them"
        );
        let raw: Vec<RawEntry> = new.iter().map(|entry| entry.encode(self.map.l2())).collect();
        self.map.publish(io, before.spot, &before.raw, &raw).await?;
        before.entries.iter().for_each(|entry| self.unlink_entry(io, *entry, Cause::Replaced));
        Ok(())
    }

    /// The clusters that an entry refers to. Those of a data file are nobody else's, and not counted.
    pub(super) fn run_of(&self, entry: L2Entry) -> Option<Run> {
        if self.map.l2().has_data_file() {
            return None;
        }
        match entry {
            L2Entry::Compressed(stored) => {
                let end = stored.at.get() + u64::from(stored.stored_bytes);
                let first = self.cluster.host_cluster(stored.at).index();
                Some(Run::between(first, self.cluster.clusters(end)))
            }
            entry => entry.place().map(|place| self.clusters_of(place.at, 1)),
        }
    }

    /// The clusters of an entry that is not in the mapping any more.
    pub(super) fn unlink_entry(&self, io: Io<'_>, entry: L2Entry, cause: Cause) {
        match self.run_of(entry) {
            Some(run) if is_planted(Mistake::CountsBeforeMapping) => {
                self.frees.quarantine(io.grace_stamp(), vec![Freed { run, cause }]);
            }
            Some(run) => self.frees.unlink(run, cause),
            None => {}
        }
    }
}

/// Space that a cluster owns already: its data, or what was set aside for it.
fn own_space(entry: L2Entry) -> Option<Allocated> {
    entry.place().filter(|place| place.copied)
}

/// Whether `next` is written in the same way and place as the entries before it.
fn continues(entries: &[L2Entry], next: L2Entry, cluster_bytes: u64) -> bool {
    let (Some(first), count) = (entries.first(), entries.len() as u64) else { return false };
    match (own_space(*first), own_space(next)) {
        (None, None) => true,
        (Some(first), Some(next)) => next.at.get() == first.at.get() + count * cluster_bytes,
        _ => false,
    }
}

/// Joins parts of one buffer. A device that lost its part leaves a gap; the request has failed then.
pub(super) fn join(done: Option<Buf>, next: Buf) -> Buf {
    let Some(mut done) = done else { return next };
    match done.rejoin(next) {
        Ok(()) | Err(_) => done,
    }
}

/// What there was in clusters that are written anew.
enum Old {
    /// All of it; what the write replaces, too.
    Whole(Buf),
    /// What is before and what is behind; `None` for zeroes.
    Around(Option<Buf>, Option<Buf>),
}

impl Old {
    /// The clusters with `data` from their byte `first` on, and `tail_len` bytes behind it.
    fn with_data(self, first: u64, data: &Buf, tail_len: u64) -> Buf {
        let to_len = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let (mut whole, around) = match self {
            Self::Whole(whole) => (whole, [None, None]),
            Self::Around(head, tail) => {
                (Buf::zeroed(to_len(first) + data.len() + to_len(tail_len)), [head, tail])
            }
        };
        let (before, rest) = whole.as_mut_slice().split_at_mut(to_len(first));
        let (middle, after) = rest.split_at_mut(data.len());
        middle.copy_from_slice(data.as_slice());
        for (part, old) in [before, after].into_iter().zip(around) {
            if let Some(old) = old
                && let Some(part) = part.get_mut(..old.len())
            {
                part.copy_from_slice(old.as_slice());
            }
        }
        whole
    }
}
