//! Opening an image, and what it is opened for.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use drystone_base::{Be, Error, HostOffset, Kind, Result};
use drystone_core::driver::NodeFacts;
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;
use drystone_core::request::serialise::RangeLocks;

use super::Qcow2;
use super::bitmaps::{Bitmaps, LoadedBitmaps, load_bitmaps};
use super::caches::{CacheOptions, Cleaning};
use super::compressed::Presses;
use super::free::Frees;
use super::holes::Holes;
use super::map::Map;
use super::mark::{Condition, HeaderNow};
use super::owned::Owned;
use super::passes::{PassDiscard, Passes};
use super::refs::Refs;
use super::store::Rounds;
use crate::qcow2::header::{Access, Header, PREFIX_BYTES, ReadOnlyReason};

/// A table is read in pieces of this many bytes, so that no second copy of it is in memory.
const WORDS_BYTES_MAX: usize = 1 << 20;

/// How an image is opened, and what a reopening can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Qcow2Options {
    /// Nothing will be written. A reopening changes this by the node's own mode.
    pub read_only: bool,
    /// Which freed space is given back by the file, too.
    pub pass_discard: PassDiscard,
    /// Clusters that the disk gives back keep their place in the image, which does not get more scattered by that.
    pub discard_keeps: bool,
    /// L2 tables of internal snapshots are kept from being overwritten, too: they are read for that before the first write.
    pub guards_inactive: bool,
    /// How much memory is taken for tables.
    pub caches: CacheOptions,
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
    /// Whether the guest's data is in another file, which the node needs as its child `data-file`.
    pub data_file: DataFile,
}

/// Where an image keeps the guest's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataFile {
    /// In its own file.
    Same,
    /// In another one: its name, if the image says it.
    Apart(Option<Vec<u8>>),
}

impl DataFile {
    fn of(header: &Header) -> Self {
        let name = || header.extensions().data_file().map(<[u8]>::to_vec);
        if header.l2().has_data_file() { Self::Apart(name()) } else { Self::Same }
    }
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
        let sizes = options.caches.sizes(&header)?;
        let facts = NodeFacts { len: header.len_guest(), request_alignment: 1, read_only: options.read_only };
        let backing_name = header.backing_name().map(<[u8]>::to_vec);
        let backing_format = header.extensions().backing_format().map(<[u8]>::to_vec);
        let data_file = DataFile::of(&header);
        let driver = Self {
            version: header.version(),
            cluster,
            condition: Condition::new(),
            options: Mutex::new(options),
            owned: Owned::new(l1.len() + refcounts.len()),
            map: Map::new(header.l2(), l1, (sizes.l2_bytes, sizes.l2_entry_bytes)),
            cleaning: Cleaning::every(sizes.clean_interval_ns),
            refs: Refs::new(cluster, header.width(), refcounts, sizes.refcount_bytes),
            frees: Frees::default(),
            holes: Holes::default(),
            in_flight: RangeLocks::default(),
            structure: RangeLocks::default(),
            resizing: RangeLocks::default(),
            rounds: Rounds::default(),
            bitmaps: Bitmaps::new(bitmaps),
            trims: AtomicBool::new(false),
            passes: Passes::new(options.pass_discard),
            shows_snapshot: AtomicBool::new(false),
            decompressed: super::read::Cache::new(header.compression()),
            presses: Presses::new(header.compression()),
            header: HeaderNow::new(header, &bytes),
        };
        Ok(Opened { driver, facts, backing_name, backing_format, data_file })
    }
}

/// Reads what is always in memory of an image, if it may be opened like this.
pub(super) async fn load_image(file: Io<'_>, options: Qcow2Options) -> Result<Loaded> {
    let (header, bytes) = load_header_bytes(file).await?;
    demand_access(&header, options)?;
    let l1 = load_words(file, header.l1().at, u64::from(header.l1().entries)).await?;
    // Only writers count clusters.
    let refcounts = match options.read_only {
        true => Vec::new(),
        false => load_refcount_table(file, &header).await?,
    };
    let bitmaps = load_bitmaps(file, &header).await?;
    Ok(Loaded { header, bytes, l1, refcounts, bitmaps })
}

/// Reads the refcount table.
pub(super) async fn load_refcount_table(file: Io<'_>, header: &Header) -> Result<Vec<u64>> {
    file.event(Event::ReftableLoad).await;
    let entries = u64::from(header.refcounts().clusters) * header.cluster().entries() as u64;
    load_words(file, header.refcounts().at, entries).await
}

/// Reads and parses the header of the image in `file`.
///
/// # Errors
/// [`Kind::InvalidImage`] if it breaks a rule of the format.
pub async fn load_header(file: Io<'_>) -> Result<Header> {
    load_header_bytes(file).await.map(|(header, _)| header)
}

async fn load_header_bytes(file: Io<'_>) -> Result<(Header, Vec<u8>)> {
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
        // The first write repairs it.
        Access::ReadOnly(ReadOnlyReason::Dirty) => Ok(()),
        Access::ReadOnly(_) if options.read_only => Ok(()),
        Access::ReadOnly(reason) => {
            Err(Error::new(Kind::ReadOnly, "the image cannot be opened for writing").because(reason))
        }
    }
}
