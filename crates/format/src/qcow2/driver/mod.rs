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
//! | [`open`], `stage` | opening and reopening, and what an image is opened for |
//! | `place` | where the bytes are |
//! | [`caches`] | how much of the tables is in memory, and for how long |
//! | `map` (`l1`, `cache`, `frame`, `runs`, `segments`) | the mapping in memory |
//! | `refs`, `reserve`, `growth` | refcounts in memory, the search for free clusters, a larger refcount table |
//! | `owned` | where the image's tables are |
//! | `write`, `table` | writes that allocate, copy-on-write; L2 tables |
//! | `compressed`, `pack` | compressed writes; places for what they store |
//! | `zero` | zeroes and discards |
//! | `free` | clusters on their way back |
//! | `store`, `mark` | what reaches the disk, in which order; the header |
//! | `bitmaps` | persistent bitmaps |
//! | `resize`, `preallocate`, `shrink` | another length of the disk |
//! | `amend`, `recount` | another version of the format; refcounts of another width |
//! | `mend` | the repair of an image that was not closed |
//! | `snapshot`, `shared` | internal snapshots; clusters that several mappings use |
//! | `state` | the state of a machine, behind the disk |
//! | `read` | compressed clusters, parts of old clusters |
//!
//! Invariants: on disk, a mapping is never ahead of its data, nor of the count of its clusters; a count is never behind
//! the last mapping; space that was unmapped is not used again before every request has ended that could have seen the
//! mapping. So a cut at any moment leaves leaks at worst.
//!
//! Order of resources: the size, guest clusters, an L2 table or slice, the structure lock, a refcount block.

mod amend;
mod bitmaps;
mod cache;
pub mod caches;
mod compressed;
mod frame;
mod free;
mod growth;
mod holes;
mod l1;
mod map;
mod mark;
mod mend;
pub mod open;
mod owned;
mod pack;
pub mod passes;
mod place;
mod preallocate;
mod read;
mod recount;
mod refs;
mod reserve;
mod resize;
mod runs;
mod segments;
mod shared;
mod shrink;
mod snapshot;
mod source;
mod stage;
mod state;
mod store;
mod table;
mod write;
mod zero;

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::bitmap::stored::{StoredBitmap, StoredChange};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{
    Access, Amendment, BackingFile, BufResult, Driver, Extent, StageRequest, Staged, WriteFlags, ZeroFlags,
};
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeLocks;
use drystone_core::runtime::LocalFuture;
use drystone_core::snapshots::InternalSnapshots;

use super::geometry::ClusterBits;
use super::header::{Header, Version};
use bitmaps::Bitmaps;
use caches::Cleaning;
use free::Frees;
use holes::Holes;
use map::Map;
use mark::{Condition, HeaderNow};
use open::Qcow2Options;
use owned::Owned;
use passes::Passes;
use refs::{Refs, Run};
use store::Rounds;

/// Most bytes that one allocating write takes at once.
const ALLOCATION_BYTES_MAX: u64 = 8 << 20;

/// An open qcow2 image.
pub struct Qcow2 {
    version: Version,
    cluster: ClusterBits,
    header: HeaderNow,
    condition: Condition,
    options: Mutex<Qcow2Options>,
    map: Map,
    refs: Refs,
    owned: Owned,
    frees: Frees,
    holes: Holes,
    cleaning: Cleaning,
    /// Guest clusters whose mapping is being changed.
    in_flight: RangeLocks,
    /// Storing metadata, growing tables, changing the header: one at a time.
    structure: RangeLocks,
    /// Changing the size of the disk: one at a time.
    resizing: RangeLocks,
    rounds: Rounds,
    bitmaps: Bitmaps,
    /// The disk has become shorter, so the file may.
    trims: AtomicBool,
    /// Which freed space is discarded in the file.
    passes: Passes,
    /// The mapping is that of an internal snapshot.
    shows_snapshot: AtomicBool,
    decompressed: read::Cache,
    presses: compressed::Presses,
}

/// Reads `len` bytes of a table; what lies past the end of the file is zeroes, but its start must be inside.
async fn load_table(file: Io<'_>, at: HostOffset, len: usize) -> Result<Vec<u8>> {
    let mut bytes = load_table_as_is(file, at, len).await?.as_slice().to_vec();
    bytes.resize(len, 0);
    Ok(bytes)
}

/// As [`load_table`], without what lies past the end of the file.
async fn load_table_as_is(file: Io<'_>, at: HostOffset, len: usize) -> Result<Buf> {
    let left = file.len().saturating_sub(at.get());
    if left == 0 {
        let text = format!("a table at {at} lies past the end of the file ({} bytes)", file.len());
        return Err(Error::new(Kind::Corrupt, text));
    }
    let stored = usize::try_from(left).unwrap_or(usize::MAX).min(len);
    file.read_new(at.in_child(), stored).await
}

/// Writes bytes into a file.
async fn write_bytes(file: Io<'_>, at: HostOffset, bytes: &[u8]) -> Result<()> {
    file.write(at.in_child(), Buf::copy_of(bytes), WriteFlags::default()).await.0
}

impl Qcow2 {
    fn clusters_of(&self, at: HostOffset, count: u64) -> Run {
        Run { first: self.cluster.host_cluster(at), count }
    }

    /// How the image was opened, as far as it was not reopened since.
    fn options(&self) -> Qcow2Options {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_options(&self, options: Qcow2Options) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }
}

impl Driver for Qcow2 {
    fn format_name(&self) -> &'static str {
        "qcow2"
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        match access {
            Access::Write => self.place_to_write(io, range),
            Access::Read => Ok(self.place(range)),
            Access::Status => self.place_for_status(io, range),
        }
    }

    fn load<'a>(&'a self, io: Io<'a>, range: GuestRange, access: Access) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.clean_caches(io);
            if access == Access::Status && self.count_for_status(io).await {
                return Ok(());
            }
            let result = self.map.load(io, self.map.spot(range.start()).slice).await;
            self.watch(io, result).await
        })
    }

    fn load_now(&self, io: Io<'_>, range: GuestRange) -> bool {
        self.clean_caches(io);
        self.map.load_now(io, self.map.spot(range.start()).slice)
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let mut buf = buf;
            let result = self.read_cluster(io, at, buf.as_mut_slice()).await;
            (self.watch(io, result).await, buf)
        })
    }

    fn takes_compressed(&self) -> bool {
        !self.map.l2().has_data_file()
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let (result, buf) = match flags.compressed {
                true => self.write_parts(io, at, buf, &[], flags).await,
                false => self.write_clusters(io, at, buf, flags).await,
            };
            (self.watch(io, result).await, buf)
        })
    }

    fn press(&self, at: GuestOffset, bytes: &mut [u8]) -> Vec<u32> {
        self.press_clusters(at, bytes)
    }

    fn unpress(&self, parts: &[u32], bytes: &mut [u8]) -> Result<()> {
        self.unpress_clusters(parts, bytes)
    }

    fn write_pressed<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        parts: &'a [u32],
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let (result, buf) = self.write_parts(io, at, buf, parts, flags).await;
            (self.watch(io, result).await, buf)
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.zero_range(io, range, flags).await;
            self.watch(io, result).await
        })
    }

    fn discard<'a>(&'a self, io: Io<'a>, range: GuestRange) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.discard_range(io, range).await;
            self.watch(io, result).await
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.clean_caches(io);
            let result = self.store_metadata(io).await;
            self.watch(io, result).await
        })
    }

    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.set_len(io, len, preallocation).await;
            self.watch(io, result).await
        })
    }

    fn change_backing_file<'a>(
        &'a self,
        io: Io<'a>,
        backing: Option<&'a BackingFile>,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.rename_backing(io, backing).await;
            self.watch(io, result).await
        })
    }

    fn amend<'a>(&'a self, io: Io<'a>, what: Amendment) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.amend_image(io, what).await;
            self.watch(io, result).await
        })
    }

    fn take_loaded_bitmaps(&self) -> Vec<StoredBitmap> {
        self.bitmaps.take_loaded()
    }

    fn change_bitmaps<'a>(&'a self, io: Io<'a>, changes: &'a [StoredChange]) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.prepare_bitmaps(io, changes).await;
            self.watch(io, result).await
        })
    }

    fn make_empty<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.empty(io).await;
            self.watch(io, result).await
        })
    }

    fn snapshots(&self) -> Option<&dyn InternalSnapshots> {
        Some(self)
    }

    fn read_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let mut buf = buf;
            let result = self.load_state(io, at, buf.as_mut_slice()).await;
            (self.watch(io, result).await, buf)
        })
    }

    fn write_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let (result, buf) = self.save_state(io, at, buf).await;
            (self.watch(io, result).await, buf)
        })
    }

    fn stage<'a>(&'a self, request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        Box::pin(async move { self.prepare(request) })
    }

    fn store<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.store_to_leave(io).await;
            self.watch(io, result).await
        })
    }
}
