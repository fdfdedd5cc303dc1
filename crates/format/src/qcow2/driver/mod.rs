//! The qcow2 driver: an open image as a node of the graph.
//!
//! ```text
//!   locate ── map (L1, slices of L2 tables) ──► Child(file, at) | Zero | Backing | Ask | Load
//!   write  ── lock guest clusters ─ reserve (refs) ─ data ─ publish (map) ─ old clusters to quarantine (free)
//!   flush  ── store: counts ═ data │ refcount table │ L2 │ L1        each │ is a flush of the file
//!   free   ── unlinked ─ store ─► quarantined ─ grace period ─► counts go down, space can be used again
//! ```
//! | module | what |
//! |---|---|
//! | [`open`] | opening, and what an image is opened for |
//! | `map` | the mapping in memory |
//! | `refs` | refcounts in memory, free clusters |
//! | `write` | writes that allocate, copy-on-write |
//! | `zero` | zeroes and discards |
//! | `free` | clusters on their way back |
//! | `store` | what reaches the disk, in which order |
//! | `resize` | growing the disk |
//! | `read` | compressed clusters, parts of old clusters |
//!
//! Invariants: on disk, a mapping is never ahead of its data, nor of the count of its clusters; a count is never behind
//! the last mapping; space that was unmapped is not used again before every request has ended that could have seen the
//! mapping. So a cut at any moment leaves leaks at worst.
//!
//! Order of resources: guest clusters, then an L2 table or slice, then the structure lock, then a refcount block.

mod free;
mod map;
pub mod open;
mod read;
mod refs;
mod resize;
mod source;
mod store;
mod write;
mod zero;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::Preallocation;
use drystone_core::driver::{Access, BufResult, Driver, Extent, Place, Tail, WriteFlags, ZeroFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeLocks;
use drystone_core::runtime::LocalFuture;

use super::entry::L2Entry;
use super::geometry::{ClusterBits, HostCluster};
use super::header::{Header, Version};
use free::Frees;
use map::{Map, Slice, Spot};
use refs::{Refs, Run};

/// Most clusters that one allocating write takes at once.
const ALLOCATION_BYTES_MAX: u64 = 8 << 20;

/// An open qcow2 image.
pub struct Qcow2 {
    version: Version,
    cluster: ClusterBits,
    header: Mutex<Header>,
    map: Map,
    refs: Refs,
    frees: Frees,
    /// Guest clusters whose mapping is being changed.
    in_flight: RangeLocks,
    /// Storing metadata, growing tables, changing the header: one at a time.
    structure: RangeLocks,
    /// The header on disk says what a written image must say.
    is_marked: AtomicBool,
    /// Damage was found: nothing is written any more.
    is_damaged: AtomicBool,
    /// Below this, bytes of the file may be other than zero though the file was never known to be longer.
    tainted_end: AtomicU64,
    /// Freed space is discarded in the file.
    pass_discard: bool,
    decompressed: read::Cache,
}

/// Reads `len` bytes at `at` of a file; what lies past its end is zeroes, but `at` itself must be inside.
async fn read_padded(file: Io<'_>, at: HostOffset, len: usize) -> Result<Vec<u8>> {
    let here = file.len().checked_sub(at.get()).filter(|left| *left > 0);
    let Some(left) = here else {
        let text = format!("metadata at {at} lies past the end of the file ({} bytes)", file.len());
        return Err(Error::new(Kind::InvalidImage, text));
    };
    let stored = usize::try_from(left).unwrap_or(usize::MAX).min(len);
    let buf = file.read_new(at.in_child(), stored).await?;
    let mut bytes = buf.as_slice().to_vec();
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Writes bytes into a file.
async fn write_bytes(file: Io<'_>, at: HostOffset, bytes: &[u8]) -> Result<()> {
    file.write(at.in_child(), Buf::copy_of(bytes), WriteFlags::default()).await.0
}

impl Qcow2 {
    fn header(&self) -> MutexGuard<'_, Header> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the image's header says now.
    #[must_use]
    pub fn header_now(&self) -> Header {
        self.header().clone()
    }

    fn demand_undamaged(&self) -> Result<()> {
        if self.is_damaged.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Corrupt, "the image is damaged; nothing is written to it any more"));
        }
        Ok(())
    }

    /// Passes a result on; after the first sign of damage nothing is written any more.
    fn watch<T>(&self, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt) {
            self.is_damaged.store(true, Ordering::Release);
        }
        result
    }

    fn clusters_of(&self, at: HostOffset, count: u64) -> Run {
        Run { first: self.cluster.host_cluster(at), count }
    }

    /// Tells the allocator where header and tables are.
    fn fix_metadata(&self) {
        let header = self.header();
        let whole = |at: HostOffset, bytes: u64| self.clusters_of(at, self.cluster.clusters(bytes));
        let fixed = vec![
            Run { first: HostCluster::new(0), count: 1 },
            whole(header.l1().at, u64::from(header.l1().entries) * 8),
            whole(header.refcounts().at, u64::from(header.refcounts().clusters) * self.cluster.bytes()),
        ];
        drop(header);
        self.refs.set_fixed(fixed);
    }

    /// Where the first clusters of `range` are, from what is in memory.
    fn place(&self, spot: Spot, range: GuestRange, access: Access) -> Result<Extent> {
        let Some(_table) = self.map.table(spot.l1_index)? else {
            let place = if access == Access::Write { Place::Ask } else { Place::Backing };
            let len = if access == Access::Write {
                self.map
                    .slice_left_bytes(spot)
                    .min(ALLOCATION_BYTES_MAX.max(self.cluster.bytes() - spot.byte))
            } else {
                self.map.table_left_bytes(spot)
            };
            return Ok(Extent { len, place });
        };
        let wanted = self.cluster.clusters(spot.byte + range.len());
        let found = self.map.with(spot.slice, |slice| self.place_in(slice, spot, wanted, access));
        found.unwrap_or(Ok(Extent { len: self.map.slice_left_bytes(spot), place: Place::Load }))
    }

    fn place_in(&self, slice: &Slice, spot: Spot, wanted: u64, access: Access) -> Result<Extent> {
        let max = usize::try_from(wanted).unwrap_or(usize::MAX).min(self.map.slice_entries() - spot.index);
        let first = self.map.parse(spot, slice.raw(spot.index))?;
        let run = |fits: &dyn Fn(u64, L2Entry) -> bool| -> Result<u64> {
            let mut count = 1;
            while count < max {
                let entry = self.map.parse(spot, slice.raw(spot.index + count))?;
                if !fits(count as u64, entry) {
                    break;
                }
                count += 1;
            }
            Ok(count as u64 * self.cluster.bytes() - spot.byte)
        };
        if access == Access::Write && !in_place(first) {
            let most = ALLOCATION_BYTES_MAX.max(self.cluster.bytes());
            let len = run(&|_, entry| !in_place(entry))?.min(most - spot.byte);
            return Ok(Extent { len, place: Place::Ask });
        }
        match first {
            L2Entry::Unallocated => {
                Ok(Extent { len: run(&|_, e| e == L2Entry::Unallocated)?, place: Place::Backing })
            }
            L2Entry::Zero(_) => {
                let len = run(&|_, entry| matches!(entry, L2Entry::Zero(_)))?;
                Ok(Extent { len, place: Place::Zero { explicit: true } })
            }
            L2Entry::Compressed(_) => Ok(Extent { len: self.cluster.bytes() - spot.byte, place: Place::Ask }),
            L2Entry::Data(data) => {
                let len = run(&|n, entry| match entry {
                    L2Entry::Data(next) => {
                        next.at.get() == data.at.get() + n * self.cluster.bytes()
                            && (access != Access::Write || next.copied)
                    }
                    _ => false,
                })?;
                self.data_extent(data.at, spot.byte, len, access)
            }
        }
    }

    fn data_extent(&self, at: HostOffset, byte: u64, len: u64, access: Access) -> Result<Extent> {
        if access == Access::Write
            && self.refs.is_fixed(self.clusters_of(at, self.cluster.clusters(byte + len)))
        {
            return Err(Error::new(
                Kind::Corrupt,
                format!("guest data at {at} overlaps the image's own tables"),
            ));
        }
        let at = HostOffset::checked(at.get() + byte)
            .ok_or_else(|| Error::new(Kind::Corrupt, "guest data lies past the largest file"))?;
        let place = Place::Child { child: ChildKey::File, at, tail: Tail::Zeroes, transparent: false };
        Ok(Extent { len, place })
    }
}

/// Whether a cluster's bytes can be overwritten where they are.
fn in_place(entry: L2Entry) -> bool {
    matches!(entry, L2Entry::Data(data) if data.copied)
}

impl Driver for Qcow2 {
    fn format_name(&self) -> &'static str {
        "qcow2"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        let spot = self.map.spot(range.start());
        if access == Access::Write {
            self.demand_undamaged()?;
            if !self.is_marked.load(Ordering::Acquire) {
                // The first write marks the image before it touches anything.
                let len = self
                    .map
                    .slice_left_bytes(spot)
                    .min(ALLOCATION_BYTES_MAX.max(self.cluster.bytes()) - spot.byte);
                return Ok(Extent { len, place: Place::Ask });
            }
        }
        self.watch(self.place(spot, range, access))
    }

    fn load<'a>(&'a self, io: Io<'a>, range: GuestRange, _access: Access) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { self.watch(self.map.load(io, self.map.spot(range.start())).await) })
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let mut buf = buf;
            let result = self.read_compressed(io, at, buf.as_mut_slice()).await;
            (self.watch(result), buf)
        })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let (result, buf) = self.write_clusters(io, at, buf, flags).await;
            (self.watch(result), buf)
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { self.watch(self.zero_range(io, range, flags).await) })
    }

    fn discard<'a>(&'a self, io: Io<'a>, range: GuestRange) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { self.watch(self.discard_range(io, range).await) })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { self.watch(self.store_metadata(io).await) })
    }

    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { self.watch(self.grow(io, len, preallocation).await) })
    }

    fn store<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { self.watch(self.store_all(io).await) })
    }
}
