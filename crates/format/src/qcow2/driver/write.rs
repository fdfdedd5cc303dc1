//! Writes that allocate: reserve, write data, publish, release what was there before.
//!
//! The guest clusters of a request are locked from before their entries are read until the new ones are published, so no
//! two requests allocate for one cluster, and a partial write sees what the one before it left.
//! Overwrites of clusters that are allocated already do not come here.

use std::sync::atomic::Ordering;

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::{BufResult, WriteFlags};
use drystone_core::request::io::Io;

use super::map::Spot;
use super::refs::{Growth, Run};
use super::{ALLOCATION_BYTES_MAX, Qcow2, in_place, write_bytes};
use crate::qcow2::entry::{Allocated, L2Entry, encode_l1};
use crate::qcow2::header::{HeaderChange, RefcountTable};

/// How long a request that finds no space waits for freed space before it looks again.
const SPACE_RETRY_NS: u64 = 1_000_000;

/// What a range of clusters in one slice is before a write: raw entries and what they say.
struct Before {
    spot: Spot,
    raw: Vec<u64>,
    entries: Vec<L2Entry>,
}

/// Where new data of some clusters goes.
struct Target {
    at: HostOffset,
    clusters: usize,
    /// The clusters were reserved for this write, rather than set aside earlier.
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
        if let Err(error) = self.before_write(io).await {
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
            done = Some(match done.take() {
                None => part,
                Some(mut done) => match done.rejoin(part) {
                    Ok(()) | Err(_) => done,
                },
            });
            rest = behind;
            result = step;
        }
        let buf = match done {
            None => rest,
            Some(mut done) => match done.rejoin(rest) {
                Ok(()) | Err(_) => done,
            },
        };
        (result, buf)
    }

    async fn before_write(&self, io: Io<'_>) -> Result<()> {
        self.mark_for_writing(io).await?;
        self.reap(io).await?;
        self.store_if_full(io).await
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
        let before = match self.look(io, at, buf.len() as u64).await {
            Ok(before) => before,
            Err(error) => return (Err(error), buf, Buf::empty()),
        };
        let target = match self.find_target(io, &before).await {
            Ok(target) => target,
            Err(error) => return (Err(error), buf, Buf::empty()),
        };
        let room = target.clusters as u64 * self.cluster.bytes() - before.spot.byte;
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(buf.len());
        let behind = buf.split_off(len);
        let (result, buf) = self.write_target(io, at, buf, flags, (&before, &target)).await;
        (result, buf, behind)
    }

    /// The entries of the clusters from `at` on that a write of `len` bytes touches, up to the end of the slice and up to
    /// where another way of writing begins.
    async fn look(&self, io: Io<'_>, at: GuestOffset, len: u64) -> Result<Before> {
        let spot = self.map.spot(at);
        self.own_table(io, spot.l1_index).await?;
        let wanted = self.cluster.clusters(spot.byte + len.min(ALLOCATION_BYTES_MAX));
        let max = usize::try_from(wanted).unwrap_or(usize::MAX).min(self.map.slice_entries() - spot.index);
        let raw = loop {
            let raws =
                |slice: &super::map::Slice| (0..max).map(|n| slice.raw(spot.index + n)).collect::<Vec<u64>>();
            if let Some(raw) = self.map.with(spot.slice, raws) {
                break raw;
            }
            self.map.load(io, spot).await?;
        };
        let mut entries = Vec::with_capacity(raw.len());
        for (n, raw) in raw.iter().enumerate() {
            let entry = self.map.parse(Spot { index: spot.index + n, ..spot }, *raw)?;
            if n > 0 && !continues(&entries, entry, self.cluster.bytes()) {
                break;
            }
            entries.push(entry);
        }
        let raw = raw.into_iter().take(entries.len()).collect();
        Ok(Before { spot, raw, entries })
    }

    /// Where the data goes: where it is, where space was set aside, or into new clusters.
    async fn find_target(&self, io: Io<'_>, before: &Before) -> Result<Target> {
        let clusters = before.entries.len();
        if let Some(Allocated { at, .. }) = before.entries.first().and_then(|first| own_space(*first)) {
            return Ok(Target { at, clusters, reserved: None });
        }
        let run = self.reserve(io, clusters as u64).await?;
        let Some(at) = self.cluster.host_start(run.first) else {
            return Err(Error::new(Kind::NoSpace, "the image has reached the largest size of its format"));
        };
        Ok(Target { at, clusters: usize::try_from(run.count).unwrap_or(clusters), reserved: Some(run) })
    }

    async fn write_target(
        &self,
        io: Io<'_>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
        (before, target): (&Before, &Target),
    ) -> BufResult {
        let (result, buf) = self.write_data(io, at, buf, flags, (before, target)).await;
        io.sim_point().await;
        let result = match result {
            Ok(()) => self.publish(io, before, target, self.touched(before, buf.len())).await,
            Err(error) => Err(error),
        };
        if result.is_err()
            && let Some(run) = target.reserved
        {
            // Nothing points there and nobody is writing there any more. What was written may have made the file longer.
            let end = target.at.get() + run.count * self.cluster.bytes();
            self.tainted_end.fetch_max(end, Ordering::AcqRel);
            // If that fails, too, the clusters leak.
            let _ = self.refs.release(io, run).await;
        }
        (result, buf)
    }

    fn touched(&self, before: &Before, len: usize) -> usize {
        usize::try_from(self.cluster.clusters(before.spot.byte + len as u64)).unwrap_or(usize::MAX)
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
        let file = match io.file() {
            Ok(file) => file,
            Err(error) => return (Err(error), buf),
        };
        let byte = before.spot.byte;
        let place = target.at.plus(byte).in_child();
        let flags = WriteFlags { fua: false, ..flags };
        if before.entries.first().is_some_and(|first| in_place(*first)) {
            return file.write(place, buf, flags).await;
        }
        let touched = self.touched(before, buf.len());
        let end = byte + buf.len() as u64;
        let tail_len = touched as u64 * self.cluster.bytes() - end;
        let head = self.surroundings(io, before, 0, (at.get() - byte, byte)).await;
        let tail = self.surroundings(io, before, touched - 1, (at.get() + buf.len() as u64, tail_len)).await;
        let (head, tail) = match (head, tail) {
            (Ok(head), Ok(tail)) => (head, tail),
            (Err(error), _) | (_, Err(error)) => return (Err(error), buf),
        };
        let is_fresh = target.reserved.is_some()
            && target.at.get() >= file.len().max(self.tainted_end.load(Ordering::Acquire));
        let is_bare = byte == 0 && tail_len == 0;
        if is_bare || (is_fresh && head.is_none() && tail.is_none()) {
            return file.write(place, buf, flags).await;
        }
        let whole = assemble(byte, &buf, tail_len, (head, tail));
        let (result, _) = file.write(target.at.in_child(), whole, flags).await;
        (result, buf)
    }

    /// What a cluster showed around a write; `None` for zeroes.
    async fn surroundings(
        &self,
        io: Io<'_>,
        before: &Before,
        n: usize,
        (at, len): (u64, u64),
    ) -> Result<Option<Buf>> {
        let (Some(entry), Some(at)) = (before.entries.get(n), GuestOffset::checked(at)) else {
            return Ok(None);
        };
        // Past the end of the disk there is nothing to preserve.
        let len = len.min(io.len().saturating_sub(at.get()));
        self.old_bytes(io, at, *entry, usize::try_from(len).unwrap_or(0)).await
    }

    /// Makes the new clusters visible and sets the old ones free.
    async fn publish(&self, io: Io<'_>, before: &Before, target: &Target, touched: usize) -> Result<()> {
        let entries = before.entries.get(..touched).unwrap_or(&before.entries);
        let expected = before.raw.get(..entries.len()).unwrap_or_default();
        let new: Vec<u64> = (0..entries.len() as u64)
            .map(|n| Allocated { at: target.at.plus(n * self.cluster.bytes()), copied: true })
            .map(|place| L2Entry::Data(place).encode(self.cluster))
            .collect();
        if expected == new {
            return Ok(());
        }
        loop {
            match self.map.publish(before.spot, expected, &new) {
                Some(result) => break result?,
                None => self.map.load(io, before.spot).await?,
            }
        }
        if target.reserved.is_some() {
            for entry in entries {
                self.unlink_entry(*entry);
            }
            self.give_back_untouched(io, target, touched).await?;
        }
        Ok(())
    }

    /// Reserved clusters that the buffer did not reach.
    async fn give_back_untouched(&self, io: Io<'_>, target: &Target, touched: usize) -> Result<()> {
        let Some(run) = target.reserved.filter(|run| run.count > touched as u64) else { return Ok(()) };
        let first = crate::qcow2::geometry::HostCluster::new(run.first.index() + touched as u64);
        self.refs.release(io, Run { first, count: run.count - touched as u64 }).await
    }

    /// The clusters of an entry that is not in the mapping any more.
    pub(super) fn unlink_entry(&self, entry: L2Entry) {
        match entry {
            L2Entry::Unallocated | L2Entry::Zero(None) => {}
            L2Entry::Data(place) | L2Entry::Zero(Some(place)) => {
                self.frees.unlink(self.clusters_of(place.at, 1))
            }
            L2Entry::Compressed(stored) => {
                let end = stored.at.get() + u64::from(stored.stored_bytes);
                let first = self.cluster.host_cluster(stored.at).index();
                let count = self.cluster.clusters(end) - first;
                self.frees.unlink(self.clusters_of(stored.at, count));
            }
        }
    }

    /// Reserves clusters, growing the refcount table if it is full, and storing and waiting for freed space if the file
    /// cannot grow.
    pub(super) async fn reserve(&self, io: Io<'_>, count: u64) -> Result<Run> {
        loop {
            match self.refs.reserve(io, count).await {
                Ok(Some(run)) => return Ok(run),
                Ok(None) => self.grow_refcount_table(io).await?,
                Err(error) if error.kind() == Kind::NoSpace && self.frees.any() => {
                    self.store_metadata(io).await?;
                    self.reap(io).await?;
                    return Err(io.step_back(io.local().now_ns() + SPACE_RETRY_NS));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn grow_refcount_table(&self, io: Io<'_>) -> Result<()> {
        let len_before = self.refs.table_len();
        let _structure = self.lock_structure(io).await;
        if self.refs.table_len() > len_before {
            return Ok(());
        }
        self.store_locked(io).await?;
        let growth = self.refs.plan_growth()?;
        let file = io.file()?;
        for block in &growth.blocks {
            write_bytes(file, block.at, &block.bytes).await?;
        }
        let bytes: Vec<u8> = growth.table.iter().flat_map(|raw| raw.to_be_bytes()).collect();
        write_bytes(file, growth.at, &bytes).await?;
        self.switch_refcount_table(io, growth).await
    }

    async fn switch_refcount_table(&self, io: Io<'_>, growth: Growth) -> Result<()> {
        let old = self.header().refcounts();
        let clusters = u32::try_from(growth.clusters).map_err(|_| {
            Error::new(Kind::NoSpace, "the refcount table has reached the largest size of its format")
        })?;
        let change = HeaderChange {
            refcounts: Some(RefcountTable { at: growth.at, clusters }),
            ..HeaderChange::default()
        };
        let header = self.header().changed(&change);
        let header = header
            .map_err(|error| Error::new(Kind::InvalidImage, "cannot change the header").because(error))?;
        self.write_header(io, header).await?;
        self.refs.install(growth);
        self.fix_metadata();
        // Nobody reads the old table: its clusters need no grace period, but the order on disk is the same.
        self.frees.unlink(self.clusters_of(old.at, u64::from(old.clusters)));
        Ok(())
    }

    /// Makes sure that there is an L2 table that may be written in place.
    pub(super) async fn own_table(&self, io: Io<'_>, l1_index: usize) -> Result<()> {
        if self.map.table(l1_index)?.is_some_and(|table| table.copied) {
            return Ok(());
        }
        let _table = self.map.lock_table(io, l1_index).await;
        let old = self.map.table(l1_index)?;
        if old.is_some_and(|table| table.copied) {
            return Ok(());
        }
        let run = self.reserve(io, 1).await?;
        let result = self.make_table(io, l1_index, run, old).await;
        if result.is_err() {
            let end = (run.first.index() + run.count) << self.cluster.bits();
            self.tainted_end.fetch_max(end, Ordering::AcqRel);
            let _ = self.refs.release(io, run).await;
        }
        result
    }

    /// Writes a new table, empty or a copy of one that others use, too, and links it.
    async fn make_table(&self, io: Io<'_>, l1_index: usize, run: Run, old: Option<Allocated>) -> Result<()> {
        let Some(at) = self.cluster.host_start(run.first) else {
            return Err(Error::new(Kind::NoSpace, "the image has reached the largest size of its format"));
        };
        let file = io.file()?;
        let bytes = match old {
            None => vec![0; self.cluster.buffer_len()],
            Some(table) => super::read_padded(file, table.at, self.cluster.buffer_len()).await?,
        };
        write_bytes(file, at, &bytes).await?;
        io.sim_point().await;
        self.map.set_table(l1_index, encode_l1(Some(Allocated { at, copied: true })));
        if let Some(table) = old {
            self.frees.unlink(self.clusters_of(table.at, 1));
        }
        Ok(())
    }
}

/// Space that a cluster owns already: its data, or what was set aside for it.
fn own_space(entry: L2Entry) -> Option<Allocated> {
    match entry {
        L2Entry::Data(place) | L2Entry::Zero(Some(place)) if place.copied => Some(place),
        _ => None,
    }
}

/// Whether `next` is written in the same way and place as the entries before it.
fn continues(entries: &[L2Entry], next: L2Entry, cluster_bytes: u64) -> bool {
    let (Some(first), count) = (entries.first(), entries.len() as u64) else { return false };
    if in_place(*first) != in_place(next) {
        return false;
    }
    match (own_space(*first), own_space(next)) {
        (None, None) => true,
        (Some(first), Some(next)) => next.at.get() == first.at.get() + count * cluster_bytes,
        _ => false,
    }
}

/// Whole clusters: what was there before, the data, what was there behind.
fn assemble(byte: u64, data: &Buf, tail_len: u64, (head, tail): (Option<Buf>, Option<Buf>)) -> Buf {
    let to_len = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
    let mut whole = Buf::zeroed(to_len(byte) + data.len() + to_len(tail_len));
    let (before, rest) = whole.as_mut_slice().split_at_mut(to_len(byte));
    let (middle, after) = rest.split_at_mut(data.len());
    middle.copy_from_slice(data.as_slice());
    for (part, old) in [(before, head), (after, tail)] {
        if let Some(old) = old
            && let Some(part) = part.get_mut(..old.len())
        {
            part.copy_from_slice(old.as_slice());
        }
    }
    whole
}
