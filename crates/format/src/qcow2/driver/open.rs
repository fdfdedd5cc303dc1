//! Opening an image, and what it is opened for.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use drystone_base::{Be, Error, HostOffset, Kind, Result};
use drystone_core::driver::NodeFacts;
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeLocks;

use super::Qcow2;
use super::bitmaps::{Bitmaps, LoadedBitmaps, load_bitmaps};
use super::compressed::Presses;
use super::free::Frees;
use super::map::Map;
use super::mark::{Condition, HeaderNow};
use super::owned::Owned;
use super::refs::Refs;
use super::store::Rounds;
use crate::qcow2::header::{Access, Header, PREFIX_BYTES, ReadOnlyReason};

/// A table is read in pieces of this many bytes, so that no second copy of it is in memory.
const WORDS_BYTES_MAX: usize = 1 << 20;

/// How an image is opened, and what a reopening can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qcow2Options {
    /// Nothing will be written. A reopening changes this by the node's own mode.
    pub read_only: bool,
    /// Space that the disk gives back is given back by the file, too.
    pub pass_discard: bool,
    /// Clusters that the disk gives back keep their place in the image, which does not get more scattered by that.
    pub discard_keeps: bool,
    /// Most bytes of L2 tables in memory (changed ones can exceed it for a moment). A few slices of 4 KiB at least.
    pub l2_cache_bytes: u64,
    /// Most bytes of refcount blocks in memory (changed ones can exceed it for a moment). A few blocks at least.
    pub refcount_cache_bytes: u64,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self {
            read_only: false,
            pass_discard: false,
            discard_keeps: false,
            l2_cache_bytes: 32 << 20,
            refcount_cache_bytes: 8 << 20,
        }
    }
}

/// What a freshly opened image says about itself, beside the driver.
pub struct Opened {
    /// The driver.
    pub driver: Qcow2,
    /// For the node.
    pub facts: NodeFacts,
    /// The name of the backing file, as stored.
    pub backing_name: Option<Vec<u8>>,
    /// The format of the backing file, as stored.
    pub backing_format: Option<Vec<u8>>,
}

/// What is read of an image when it is opened.
pub(super) struct Loaded {
    pub(super) header: Header,
    /// The bytes that the header was parsed from.
    pub(super) bytes: Vec<u8>,
    pub(super) l1: Vec<u64>,
    /// The refcount table; empty if nothing will be written.
    pub(super) refcounts: Vec<u64>,
    pub(super) bitmaps: LoadedBitmaps,
}

impl Qcow2 {
    /// Opens the image in the file that `file` is at.
    ///
    /// # Errors
    /// [`Kind::InvalidImage`] for broken rules of the format, [`Kind::Unsupported`] for features that this build does not
    /// know, [`Kind::ReadOnly`] for an image that can be read only and was not opened read-only.
    pub async fn open(file: Io<'_>, options: Qcow2Options) -> Result<Opened> {
        let Loaded { header, bytes, l1, refcounts, bitmaps } = load_image(file, options).await?;
        let cluster = header.cluster();
        let facts = NodeFacts { len: header.len_guest(), request_alignment: 1, read_only: options.read_only };
        let backing_name = header.backing_name().map(<[u8]>::to_vec);
        let backing_format = header.extensions().backing_format().map(<[u8]>::to_vec);
        let driver = Self {
            version: header.version(),
            cluster,
            condition: Condition::new(),
            options: Mutex::new(options),
            owned: Owned::new(l1.len() + refcounts.len()),
            map: Map::new(header.l2(), l1, options.l2_cache_bytes),
            refs: Refs::new(cluster, header.width(), refcounts, options.refcount_cache_bytes),
            frees: Frees::default(),
            in_flight: RangeLocks::default(),
            structure: RangeLocks::default(),
            resizing: RangeLocks::default(),
            rounds: Rounds::default(),
            bitmaps: Bitmaps::new(bitmaps),
            trims: AtomicBool::new(false),
            pass_discard: AtomicBool::new(options.pass_discard),
            shows_snapshot: AtomicBool::new(false),
            decompressed: super::read::Cache::new(header.compression()),
            presses: Presses::new(header.compression()),
            header: HeaderNow::new(header, &bytes),
        };
        Ok(Opened { driver, facts, backing_name, backing_format })
    }
}

/// Reads what is always in memory of an image, if it may be opened like this.
pub(super) async fn load_image(file: Io<'_>, options: Qcow2Options) -> Result<Loaded> {
    let (header, bytes) = load_header_bytes(file).await?;
    demand_access(&header, options)?;
    let l1 = load_words(file, header.l1().at, u64::from(header.l1().entries)).await?;
    // Only writers count clusters.
    let entries = match options.read_only {
        true => 0,
        false => u64::from(header.refcounts().clusters) * header.cluster().entries() as u64,
    };
    let refcounts = load_words(file, header.refcounts().at, entries).await?;
    let bitmaps = load_bitmaps(file, &header).await?;
    Ok(Loaded { header, bytes, l1, refcounts, bitmaps })
}

/// Reads and parses the header of the image in `file`.
///
/// # Errors
/// [`Kind::InvalidImage`] if it breaks a rule of the format.
pub async fn load_header(file: Io<'_>) -> Result<Header> {
    load_header_bytes(file).await.map(|(header, _)| header)
}

pub(super) async fn load_header_bytes(file: Io<'_>) -> Result<(Header, Vec<u8>)> {
    let invalid = |error| Error::new(Kind::InvalidImage, "the header is not valid").because(error);
    let start = load_start(file, PREFIX_BYTES).await?;
    let area = Header::area_len_bytes(&start).map_err(invalid)?;
    let bytes = load_start(file, area).await?;
    let header = Header::parse(&bytes).map_err(invalid)?;
    Ok((header, bytes))
}

/// The first `len` bytes of a file, or all of it if it is shorter.
async fn load_start(file: Io<'_>, len: usize) -> Result<Vec<u8>> {
    let len = usize::try_from(file.len()).unwrap_or(usize::MAX).min(len);
    Ok(file.read_new(HostOffset::ZERO.in_child(), len).await?.as_slice().to_vec())
}

/// Reads a table of 8-byte entries that must lie inside of the file.
pub(super) async fn load_words(file: Io<'_>, at: HostOffset, entries: u64) -> Result<Vec<u64>> {
    let len = entries * 8;
    if at.get().checked_add(len).is_none_or(|end| end > file.len()) && len > 0 {
        let text =
            format!("a table of {len} bytes at {at} ends past the end of the file ({} bytes)", file.len());
        return Err(Error::new(Kind::InvalidImage, text));
    }
    let mut words = Vec::with_capacity(usize::try_from(entries).unwrap_or(0));
    for start in (0..len).step_by(WORDS_BYTES_MAX) {
        let part = usize::try_from(len - start).unwrap_or(usize::MAX).min(WORDS_BYTES_MAX);
        let buf = file.read_new(at.plus(start).in_child(), part).await?;
        let mut be = Be(buf.as_slice());
        words.extend(std::iter::from_fn(|| be.u64().ok()));
    }
    Ok(words)
}

fn demand_access(header: &Header, options: Qcow2Options) -> Result<()> {
    match header.access() {
        Access::ReadWrite => Ok(()),
        Access::Refused(reason) => {
            Err(Error::new(Kind::Unsupported, "the image cannot be opened").because(reason))
        }
        Access::ReadOnly(_) if options.read_only => Ok(()),
        // The first write repairs it (`dirty`).
        Access::ReadOnly(ReadOnlyReason::Dirty) => Ok(()),
        Access::ReadOnly(reason) => {
            Err(Error::new(Kind::ReadOnly, "the image cannot be opened for writing").because(reason))
        }
    }
}
