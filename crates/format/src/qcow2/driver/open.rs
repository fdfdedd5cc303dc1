//! Opening an image, and what it is opened for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use drystone_base::{Be, Error, HostOffset, Kind, Result};
use drystone_core::driver::NodeFacts;
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeLocks;

use super::free::Frees;
use super::map::Map;
use super::refs::Refs;
use super::{Qcow2, read_padded};
use crate::qcow2::bitmap::Bitmap;
use crate::qcow2::header::{Access, Header, ReadOnlyReason};

/// How an image is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qcow2Options {
    /// Nothing will be written.
    pub read_only: bool,
    /// Writing may invalidate the image's persistent bitmaps.
    pub drop_bitmaps: bool,
    /// Space that the disk gives back is given back by the file, too.
    pub pass_discard: bool,
    /// Most bytes of L2 tables in memory (changed ones can exceed it for a moment).
    pub l2_cache_bytes: u64,
    /// Most bytes of refcount blocks in memory (changed ones can exceed it for a moment).
    pub refcount_cache_bytes: u64,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self {
            read_only: false,
            drop_bitmaps: false,
            pass_discard: false,
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

impl Qcow2 {
    /// Opens the image in the file that `file` is at.
    ///
    /// # Errors
    /// [`Kind::InvalidImage`] for broken rules of the format, [`Kind::Unsupported`] for features that this build does not
    /// know, [`Kind::ReadOnly`] for an image that can be read only and was not opened read-only.
    pub async fn open(file: Io<'_>, options: Qcow2Options) -> Result<Opened> {
        let header = load_header(file).await?;
        demand_access(file, &header, options).await?;
        let l1 = load_table(file, header.l1().at, u64::from(header.l1().entries)).await?;
        let per_cluster = header.cluster().entries() as u64;
        let refcount_entries = u64::from(header.refcounts().clusters) * per_cluster;
        // Only writers count clusters.
        let refcounts = if options.read_only {
            Vec::new()
        } else {
            load_table(file, header.refcounts().at, refcount_entries).await?
        };
        let cluster = header.cluster();
        let facts = NodeFacts { len: header.len_guest(), request_alignment: 1, read_only: options.read_only };
        let backing_name = header.backing_name().map(<[u8]>::to_vec);
        let backing_format = header.extensions().backing_format().map(<[u8]>::to_vec);
        let driver = Self {
            version: header.version(),
            cluster,
            map: Map::new(cluster, header.version(), l1, options.l2_cache_bytes),
            refs: Refs::new(cluster, header.width(), refcounts, options.refcount_cache_bytes),
            frees: Frees::default(),
            in_flight: RangeLocks::default(),
            structure: RangeLocks::default(),
            is_marked: AtomicBool::new(header.autoclear().is_empty()),
            is_damaged: AtomicBool::new(false),
            tainted_end: AtomicU64::new(0),
            pass_discard: options.pass_discard,
            decompressed: super::read::Cache::default(),
            header: Mutex::new(header),
        };
        driver.fix_metadata();
        Ok(Opened { driver, facts, backing_name, backing_format })
    }
}

/// Reads and parses the header of the image in `file`.
pub async fn load_header(file: Io<'_>) -> Result<Header> {
    let invalid = |error| Error::new(Kind::InvalidImage, "the header is not valid").because(error);
    let start = read_padded(file, HostOffset::ZERO, 512).await?;
    let area = Header::area_len_bytes(&start).map_err(invalid)?;
    let bytes = read_padded(file, HostOffset::ZERO, area).await?;
    Header::parse(&bytes).map_err(invalid)
}

/// Reads a table of 8-byte entries that must lie inside of the file.
async fn load_table(file: Io<'_>, at: HostOffset, entries: u64) -> Result<Vec<u64>> {
    let len = entries * 8;
    let end = at.get().checked_add(len).filter(|end| *end <= file.len());
    if end.is_none() {
        let text =
            format!("a table of {len} bytes at {at} ends past the end of the file ({} bytes)", file.len());
        return Err(Error::new(Kind::InvalidImage, text));
    }
    let buf = file.read_new(at.in_child(), usize::try_from(len).unwrap_or(usize::MAX)).await?;
    let mut be = Be(buf.as_slice());
    Ok(std::iter::from_fn(|| be.u64().ok()).collect())
}

async fn demand_access(file: Io<'_>, header: &Header, options: Qcow2Options) -> Result<()> {
    let bitmaps = load_bitmaps(file, header).await;
    match header.access(&bitmaps) {
        Access::ReadWrite => Ok(()),
        Access::Refused(reason) => {
            Err(Error::new(Kind::Unsupported, "the image cannot be opened").because(reason))
        }
        Access::ReadOnly(ReadOnlyReason::Bitmaps(_)) if options.drop_bitmaps => Ok(()),
        Access::ReadOnly(_) if options.read_only => Ok(()),
        Access::ReadOnly(reason) => {
            Err(Error::new(Kind::ReadOnly, "the image cannot be opened for writing").because(reason))
        }
    }
}

/// The image's bitmaps, for naming them; none if they cannot be read.
async fn load_bitmaps(file: Io<'_>, header: &Header) -> Vec<Bitmap> {
    let Some(extension) = header.extensions().bitmaps() else { return Vec::new() };
    let len = usize::try_from(extension.directory_len_bytes).unwrap_or(usize::MAX);
    let Ok(bytes) = read_padded(file, extension.directory, len).await else { return Vec::new() };
    extension.parse_directory(&bytes, header.cluster()).unwrap_or_default()
}
