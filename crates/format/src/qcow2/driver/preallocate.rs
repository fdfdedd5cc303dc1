//! Space for clusters that nobody has written yet, when the disk grows.
//!
//! | mode | entries | the file |
//! |---|---|---|
//! | `metadata` | data (with subclusters, space only); zero clusters with space where a backing image would show | reaches to the last cluster, with holes |
//! | `falloc` | data | the file system has set the space aside |
//! | `full` | data | zero bytes are written |
//!
//! Invariant: space is zeroes in the file before anything points to it, whatever was there before.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::Preallocation;
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::request::io::Io;

use super::Qcow2;
use super::refs::Run;
use super::resize::shows_backing;
use crate::qcow2::entry::{Allocated, L2Entry, Mixed};

/// Zero bytes that are written at once.
const ZEROES_BYTES_MAX: u64 = 1 << 20;
/// The least that a file is made longer by.
const SECTOR_BYTES: u64 = 512;

/// How clusters get their space.
#[derive(Clone, Copy)]
struct Manner {
    preallocation: Preallocation,
    /// They are zero clusters that keep space, rather than data.
    as_zeroes: bool,
}

impl Qcow2 {
    /// Gives space to the clusters from the one in which the old disk ended to the end of the new one. In a data file, they
    /// have it.
    pub(super) async fn preallocate(
        &self,
        io: Io<'_>,
        (old_len, len): (u64, u64),
        preallocation: Preallocation,
    ) -> Result<()> {
        if preallocation == Preallocation::Off || self.map.l2().has_data_file() {
            return Ok(());
        }
        let as_zeroes = preallocation == Preallocation::Metadata && shows_backing(io, old_len);
        let range = self.clusters_between(self.preallocate_tail(io, old_len, as_zeroes).await?, len);
        let _clusters = self.in_flight.lock(io, range, "clusters").await;
        let mut rest = range;
        let mut end_file = 0;
        while !rest.is_empty() {
            self.reap_some(io).await?;
            self.store_if_full(io).await?;
            let manner = Manner { preallocation, as_zeroes };
            let (run, bytes) = self.preallocate_run(io, rest, manner).await?;
            end_file = end_file.max(run.bounds().1 << self.cluster.bits());
            rest = rest.skip(bytes);
        }
        self.reach_to(io, end_file).await
    }

    /// Gives space to the cluster in which the old disk ended; where what is left to do begins.
    async fn preallocate_tail(&self, io: Io<'_>, old_len: u64, as_zeroes: bool) -> Result<u64> {
        let (start, end) = (GuestOffset::new(old_len).align_down(self.cluster.bytes()), old_len);
        let end = end.next_multiple_of(self.cluster.bytes());
        if end == old_len {
            return Ok(end);
        }
        if self.map.l2().subcluster_bytes() == self.cluster.bytes() {
            self.write_zeroes_behind(io, old_len, end).await?;
            return Ok(end);
        }
        // Space says nothing about subclusters.
        let is_bare = self.entry_at(io, start).await? == L2Entry::Unallocated && !as_zeroes;
        Ok(if is_bare { start.get() } else { end })
    }

    /// Makes the file reach to the end of clusters that nobody uses yet. Not by setting its length: others make it longer, too.
    async fn reach_to(&self, io: Io<'_>, end_file: u64) -> Result<()> {
        let file = io.file()?;
        if file.len() >= end_file {
            return Ok(());
        }
        let at = GuestOffset::new(end_file - SECTOR_BYTES);
        file.write(at, Buf::zeroed(512), WriteFlags::default()).await.0
    }

    /// Gives space to the first clusters of `range`: which, and how many bytes of the disk that were.
    async fn preallocate_run(&self, io: Io<'_>, range: GuestRange, manner: Manner) -> Result<(Run, u64)> {
        let before = self.look(io, range.start(), range.len()).await?;
        let run = self.reserve(io, before.entries.len() as u64).await?;
        let result = self.fill_and_map(io, range.start(), run, manner).await;
        if result.is_err() {
            self.give_back(io, run).await;
        }
        result.map(|()| (run, run.count * self.cluster.bytes()))
    }

    async fn fill_and_map(&self, io: Io<'_>, at: GuestOffset, run: Run, manner: Manner) -> Result<()> {
        self.fill(io, run, manner.preallocation).await?;
        let no_place = || Error::new(Kind::NoSpace, "the image has reached the largest size of its format");
        let first = self.cluster.host_start(run.first).ok_or_else(no_place)?;
        let places =
            (0..run.count).map(|n| Allocated { at: first.plus(n * self.cluster.bytes()), copied: true });
        let has_subclusters = self.map.l2().subcluster_bytes() < self.cluster.bytes();
        let entry = |place| match (manner.as_zeroes, has_subclusters) {
            (true, _) => L2Entry::Zero(Some(place)),
            (false, true) => L2Entry::Mixed(Mixed { place: Some(place), data: 0, zero: 0 }),
            (false, false) => L2Entry::Data(place),
        };
        self.replace_entries(io, at, &places.map(entry).collect::<Vec<_>>()).await
    }

    /// Makes new clusters zeroes in the file, with as much space as is asked for.
    async fn fill(&self, io: Io<'_>, run: Run, preallocation: Preallocation) -> Result<()> {
        let file = io.file()?;
        let (first, end) = run.bounds();
        let range = GuestRange::checked(first << self.cluster.bits(), (end - first) << self.cluster.bits());
        let range = range.ok_or_else(|| {
            Error::new(Kind::NoSpace, "the image has reached the largest size of its format")
        })?;
        match preallocation {
            Preallocation::Off | Preallocation::Metadata => {
                if self.refs.is_untouched(run.first, file.len()) {
                    return Ok(());
                }
                file.write_zeroes(range, ZeroFlags { may_unmap: true, ..ZeroFlags::default() }).await
            }
            Preallocation::Falloc => file.write_zeroes(range, ZeroFlags::default()).await,
            Preallocation::Full => {
                let mut zeroes = Buf::zeroed(usize::try_from(range.len().min(ZEROES_BYTES_MAX)).unwrap_or(0));
                let mut rest = range;
                while !rest.is_empty() {
                    let part = rest.take(ZEROES_BYTES_MAX);
                    let behind = zeroes.split_off(usize::try_from(part.len()).unwrap_or(0));
                    let (result, back) = file.write(part.start(), zeroes, WriteFlags::default()).await;
                    result?;
                    zeroes = super::write::join(Some(back), behind);
                    rest = rest.skip(part.len());
                }
                Ok(())
            }
        }
    }
}
