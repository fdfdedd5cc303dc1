//! What a new image consists of.
//! ```text
//!  cluster 0   1 ..             ..                ..               end of file
//!  +--------+----------------+-----------------+----------------+
//!  | header | refcount table | refcount blocks | L1 table: zero |
//!  +--------+----------------+-----------------+----------------+
//!  the blocks count every cluster of the file, their own and the table's among them
//! ```
//! Invariants: options are checked as release 10.0 of the C tool checks them; the result passes the consistency check;
//! the header's first sector is the last piece, so that an interrupted creation leaves no image behind.
//! Not here: writing; looking at the backing file; space for data (`prealloc`).

mod prealloc;

pub use prealloc::TABLES_BYTES_MAX;

use drystone_base::{BeMut, HostOffset, LEN_MAX};

use super::compress::Compression;
use super::extension::Extensions;
use super::feature::{
    Autoclear, AutoclearBit, Compatible, CompatibleBit, Incompatible, IncompatibleBit, standard_names,
};
use super::geometry::{ClusterBits, ENTRY_BYTES, L1_BYTES_MAX};
use super::header::{
    self, BACKING_NAME_BYTES_MAX, Crypt, Header, HeaderError, L1Table, RefcountTable, SnapshotTable, Version,
};
use super::l2::{EXTENDED_CLUSTER_BYTES_MIN, L2Format};
use super::refcount::RefcountWidth;

/// The length of a disk is a multiple of this many bytes; shorter ones are rounded up.
const SECTOR_BYTES: u64 = 512;

/// What somebody asks of a new image. [`Self::new`] gives what they get who ask for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Length of the virtual disk in bytes.
    pub len_guest: u64,
    /// Bytes of a cluster.
    pub cluster_bytes: u64,
    /// Version of the format.
    pub version: Version,
    /// Bits of a refcount.
    pub refcount_bits: u64,
    /// Writers may postpone refcount updates.
    pub lazy_refcounts: bool,
    /// How clusters are compressed, if any are.
    pub compression: Compression,
    /// The name of the backing file.
    pub backing_name: Option<Vec<u8>>,
    /// The format of the backing file.
    pub backing_format: Option<Vec<u8>>,
    /// Subclusters.
    pub extended_l2: bool,
    /// The guest's data goes to a file of this name.
    pub data_file: Option<Vec<u8>>,
    /// That file is a raw image of the disk at any time.
    pub is_data_raw: bool,
    /// Every cluster of the disk has its place in the file from the start.
    pub is_mapped: bool,
}

/// What is wrong with the options of a new image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// No size of clusters.
    #[error("a cluster size of {0} bytes is not a power of two from 512 bytes to 2 MiB")]
    ClusterBytes(u64),
    /// No width of refcounts.
    #[error("a refcount width of {0} bits is not a power of two up to 64")]
    RefcountBits(u64),
    /// Subclusters of clusters that are too small.
    #[error("extended L2 entries need clusters of {EXTENDED_CLUSTER_BYTES_MIN} bytes or more, not {0}")]
    ExtendedL2(u64),
    /// Version 2 images have no such thing.
    #[error("{0} needs version 3 of the format")]
    NeedsV3(&'static str),
    /// The disk is too large.
    #[error("a disk of {len_bytes} bytes is too large for clusters of {cluster_bytes} bytes")]
    TooLarge {
        /// Length of the disk in bytes.
        len_bytes: u64,
        /// Bytes of a cluster.
        cluster_bytes: u64,
    },
    /// The name of the backing file.
    #[error("the name of the backing file is empty, or longer than {BACKING_NAME_BYTES_MAX} bytes")]
    BackingName,
    /// A backing file without its format: guessing it would let the guest choose it.
    #[error("the format of the backing file is missing")]
    BackingFormatMissing,
    /// A format without a backing file.
    #[error("the format of a backing file is given, but no backing file")]
    BackingNameMissing,
    /// A place for every cluster would hide the backing file.
    #[error("an image with a backing file cannot be preallocated")]
    MappedBacking,
    /// Too many tables to be made at once.
    #[error("preallocating this disk takes {0} bytes of tables, {TABLES_BYTES_MAX} are the most")]
    Tables(u64),
    /// No name of a data file.
    #[error("the name of the data file is empty")]
    DataFileName,
    /// What is raw is nowhere.
    #[error("data_file_raw=on needs a data file (data_file)")]
    RawWithoutDataFile,
    /// A raw image shows nothing of a backing file.
    #[error("an image whose data file is a raw image cannot have a backing file")]
    RawDataOverBacking,
    /// Header, extensions and the backing file's name do not fit into a cluster.
    #[error("the header of the image cannot hold this")]
    Header(#[from] HeaderError),
}

/// What to write for a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Length of the file in bytes. What no piece covers must read as zeroes.
    pub len_file: u64,
    /// Where to write what, in this order, the last only when the others are safe on disk.
    pub pieces: Vec<(HostOffset, Vec<u8>)>,
}

impl CreateOptions {
    /// A disk of `len_guest` bytes and nothing special.
    #[must_use]
    pub const fn new(len_guest: u64) -> Self {
        Self {
            len_guest,
            cluster_bytes: ClusterBits::DEFAULT.bytes(),
            version: Version::V3,
            refcount_bits: RefcountWidth::BITS_16.bits() as u64,
            lazy_refcounts: false,
            compression: Compression::Deflate,
            backing_name: None,
            backing_format: None,
            extended_l2: false,
            data_file: None,
            is_data_raw: false,
            is_mapped: false,
        }
    }

    /// Computes what to write.
    ///
    /// # Errors
    /// [`CreateError`] for options that contradict each other, are out of range or are not supported.
    pub fn layout(&self) -> Result<Layout, CreateError> {
        let cluster = ClusterBits::from_bytes(self.cluster_bytes)
            .ok_or(CreateError::ClusterBytes(self.cluster_bytes))?;
        let width = RefcountWidth::from_bits(self.refcount_bits)
            .ok_or(CreateError::RefcountBits(self.refcount_bits))?;
        self.check_version(width)?;
        self.check_data_file()?;
        self.check_backing()?;
        let plan = Plan::new(self, cluster, width)?;
        let mut header = self.encode_header(&plan)?;
        // Zeroes are written, too: a file that has less space than clusters in use looks as if these had been made in advance.
        header.resize(plan.whole(header.len()), 0);
        let mut pieces = vec![plan.refcount_table(), plan.refcount_blocks()];
        pieces.append(&mut plan.mapping());
        // A disk writes a sector as a whole or not at all: the first one makes the rest an image.
        let behind = header.split_off(header.len().min(header::SECTOR_BYTES));
        if !behind.is_empty() {
            pieces.push((HostOffset::ZERO.plus(header.len() as u64), behind));
        }
        pieces.push((HostOffset::ZERO, header));
        Ok(Layout { len_file: plan.len_file(), pieces })
    }

    fn check_version(&self, width: RefcountWidth) -> Result<(), CreateError> {
        let v3_only = [
            (width != RefcountWidth::BITS_16, "a refcount width other than 16 bits"),
            (self.lazy_refcounts, "lazy refcounts"),
            (self.compression != Compression::Deflate, "a compression type other than zlib"),
            (self.extended_l2, "extended L2 entries"),
            (self.data_file.is_some(), "an external data file"),
        ];
        match v3_only.into_iter().find(|&(wanted, _)| wanted && self.version == Version::V2) {
            Some((_, what)) => Err(CreateError::NeedsV3(what)),
            None => Ok(()),
        }
    }

    fn check_data_file(&self) -> Result<(), CreateError> {
        match &self.data_file {
            None if self.is_data_raw => Err(CreateError::RawWithoutDataFile),
            Some(_) if self.is_data_raw && self.backing_name.is_some() => {
                Err(CreateError::RawDataOverBacking)
            }
            Some(name) if name.is_empty() || name.contains(&0) => Err(CreateError::DataFileName),
            _ => Ok(()),
        }
    }

    /// Whether every cluster of the disk has its place from the start: what is in a raw data file must show.
    const fn is_mapped_at_once(&self) -> bool {
        self.is_mapped || self.is_data_raw
    }

    fn check_backing(&self) -> Result<(), CreateError> {
        if self.is_mapped && self.backing_name.is_some() && !self.extended_l2 {
            return Err(CreateError::MappedBacking);
        }
        match (&self.backing_name, &self.backing_format) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(CreateError::BackingNameMissing),
            (Some(name), _) if name.is_empty() || name.contains(&0) => Err(CreateError::BackingName),
            (Some(name), _) if name.len() > BACKING_NAME_BYTES_MAX as usize => Err(CreateError::BackingName),
            (Some(_), None) => Err(CreateError::BackingFormatMissing),
            (Some(_), Some(_)) => Ok(()),
        }
    }

    /// The feature names are left out where they leave no room for what the image needs.
    fn encode_header(&self, plan: &Plan) -> Result<Vec<u8>, CreateError> {
        let names = standard_names();
        let names = if self.version == Version::V3 { names.as_slice() } else { &[] };
        let header = |names| {
            let (format, data_file) = (self.backing_format.as_deref(), self.data_file.as_deref());
            plan.header(self, Extensions::of_new_image(format, data_file, names))
        };
        let encoded = match header(names).encode() {
            Err(HeaderError::DoesNotFit(_)) => header(&[]).encode()?,
            other => other?,
        };
        debug_assert!(Header::parse(&encoded).is_ok(), "a new image can be opened");
        Ok(encoded)
    }
}

/// Where everything in a new image is, in clusters.
struct Plan {
    cluster: ClusterBits,
    l2: L2Format,
    width: RefcountWidth,
    len_guest: u64,
    table_clusters: u64,
    block_clusters: u64,
    l1_entries: u64,
    total_clusters: u64,
    is_mapped: bool,
    /// The data file is a raw image.
    is_data_raw: bool,
}

impl Plan {
    fn new(options: &CreateOptions, cluster: ClusterBits, width: RefcountWidth) -> Result<Self, CreateError> {
        let too_large =
            CreateError::TooLarge { len_bytes: options.len_guest, cluster_bytes: cluster.bytes() };
        let rounded = options.len_guest.checked_next_multiple_of(SECTOR_BYTES).filter(|&len| len <= LEN_MAX);
        let len_guest = rounded.ok_or(too_large.clone())?;
        let standard = L2Format::standard(cluster, options.version);
        let l2 = standard.with_data_file(options.data_file.is_some()).with_extended(options.extended_l2);
        let l2 = l2.ok_or(CreateError::ExtendedL2(cluster.bytes()))?;
        let l1_entries = l2.l1_entries(len_guest);
        if l1_entries > L1_BYTES_MAX / ENTRY_BYTES {
            return Err(too_large);
        }
        let mut plan = Self {
            cluster,
            l2,
            width,
            len_guest,
            table_clusters: 1,
            block_clusters: 1,
            l1_entries,
            total_clusters: 0,
            is_mapped: options.is_mapped_at_once(),
            is_data_raw: options.is_data_raw,
        };
        if plan.l2_bytes() > TABLES_BYTES_MAX {
            return Err(CreateError::Tables(plan.l2_bytes()));
        }
        // Blocks count themselves and the table, so the numbers are raised until they suffice. A block counts at least
        // 64 clusters: a few rounds do.
        loop {
            plan.total_clusters =
                1 + plan.table_clusters + plan.block_clusters + plan.l1_clusters() + plan.mapped_clusters();
            let blocks = plan.total_clusters.div_ceil(width.per_block(cluster) as u64);
            let tables = cluster.clusters(blocks * ENTRY_BYTES);
            if (blocks, tables) == (plan.block_clusters, plan.table_clusters) {
                return Ok(plan);
            }
            (plan.block_clusters, plan.table_clusters) = (blocks, tables);
        }
    }

    const fn table_at(&self) -> HostOffset {
        HostOffset::new(self.cluster.bytes())
    }

    const fn blocks_at(&self) -> HostOffset {
        self.table_at().plus(self.table_clusters * self.cluster.bytes())
    }

    const fn l1_clusters(&self) -> u64 {
        self.cluster.clusters(self.l1_entries * ENTRY_BYTES)
    }

    const fn l1_at(&self) -> HostOffset {
        self.blocks_at().plus(self.block_clusters * self.cluster.bytes())
    }

    /// As many bytes in whole clusters.
    fn whole(&self, len: usize) -> usize {
        usize::try_from(self.cluster.bytes()).map_or(len, |cluster| len.next_multiple_of(cluster))
    }

    fn refcount_table(&self) -> (HostOffset, Vec<u8>) {
        let mut bytes = Vec::new();
        for block in 0..self.block_clusters {
            BeMut(&mut bytes).u64(self.blocks_at().get() + block * self.cluster.bytes());
        }
        bytes.resize(self.whole(bytes.len()), 0);
        (self.table_at(), bytes)
    }

    /// All blocks, which follow each other: a one for every cluster of the file.
    fn refcount_blocks(&self) -> (HostOffset, Vec<u8>) {
        let count = usize::try_from(self.total_clusters).unwrap_or(usize::MAX);
        let mut bytes = vec![0; (count * self.width.bits() as usize).div_ceil(8)];
        for index in 0..count {
            let stored = self.width.set(&mut bytes, index, 1);
            assert!(stored.is_some(), "the length was computed from the count");
        }
        bytes.resize(self.whole(bytes.len()), 0);
        (self.blocks_at(), bytes)
    }

    fn header(&self, options: &CreateOptions, extensions: Extensions) -> Header {
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX); // bounded by L1_BYTES_MAX
        let zstd = options.compression == Compression::Zstd;
        let additional = match options.version {
            Version::V2 => Vec::new(),
            Version::V3 => vec![u8::from(zstd), 0, 0, 0, 0, 0, 0, 0],
        };
        Header {
            version: options.version,
            cluster: self.cluster,
            len_guest: self.len_guest,
            crypt: Crypt::None,
            l1: L1Table { at: self.l1_at(), entries: small(self.l1_entries) },
            refcounts: RefcountTable { at: self.table_at(), clusters: small(self.table_clusters) },
            width: self.width,
            snapshots: SnapshotTable { at: HostOffset::ZERO, count: 0 },
            incompatible: Incompatible::EMPTY
                .with(IncompatibleBit::CompressionType, zstd)
                .with(IncompatibleBit::ExternalData, options.data_file.is_some())
                .with(IncompatibleBit::ExtendedL2, options.extended_l2),
            compatible: Compatible::EMPTY.with(CompatibleBit::LazyRefcounts, options.lazy_refcounts),
            autoclear: Autoclear::EMPTY.with(AutoclearBit::RawExternalData, options.is_data_raw),
            compression: options.compression,
            additional,
            extensions,
            backing_name: options.backing_name.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
