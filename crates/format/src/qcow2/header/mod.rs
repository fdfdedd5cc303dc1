//! The header: the only way from the first bytes of an image to numbers that can be trusted.
//! ```text
//!  byte 0      4         8            16           20            24          32       36         40
//!  +-----------+---------+------------+------------+-------------+-----------+--------+----------+----------+
//!  | "QFI\xfb" | version | backing at | backing len| cluster_bits| disk size | crypt  | L1 count | L1 at    |
//!  +-----------+---------+------+-----+------+-----+--------+----+-------+---+--------+--+-------+----------+
//!  48 refcount table at | 56 its clusters | 60 snapshots | 64 snapshots at | 72 end of version 2
//!  72 incompatible | 80 compatible | 88 autoclear | 96 refcount_order | 100 header_length | 104 compression_type ..
//!  header_length: extensions, backing file name; all inside of the first cluster
//! ```
//! Invariants of a [`Header`]: every table is aligned to clusters, not longer than its limit, not in the header's own
//! cluster, and ends below 2^56; the L1 table covers the disk; the backing file's name lies in the first cluster behind
//! the header. Nothing says that a table lies inside of the file: who reads it looks.
//! Not here: what the image may be opened for ([`Access`] says), the tables' contents.

mod access;
mod backing;
mod encode;
mod error;
mod fields;

pub use access::{Access, ReadOnlyReason, RefusedReason};
pub use backing::{Renamed, SECTOR_BYTES};
pub use encode::HeaderChange;
pub use error::HeaderError;

use drystone_base::{Be, HostOffset};

use self::fields::Fields;
use super::compress::Compression;
use super::extension::{Extensions, until_nul};
use super::feature::{Autoclear, Compatible, Incompatible, IncompatibleBit};
use super::geometry::ClusterBits;
use super::l2::L2Format;
use super::refcount::RefcountWidth;

/// Spec "Header": `magic`.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// How many bytes [`Header::area_len_bytes`] needs.
pub const PREFIX_BYTES: usize = 24;
/// Most internal snapshots in an image (the limit of release 10.0 of the C tool).
pub const SNAPSHOTS_MAX: u32 = 65536;
/// Longest name of a backing file (spec "Header": `backing_file_size`).
pub const BACKING_NAME_BYTES_MAX: u32 = 1023;

/// Spec "Header": length of a version 2 header.
const LEN_V2: u32 = 72;
/// Spec "Header": least length of a version 3 header.
const LEN_V3: u32 = 104;

/// Version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// What QEMU 0.10 and later read.
    V2,
    /// What QEMU 1.1 and later read: feature bits, zero clusters, refcount widths.
    V3,
}

impl Version {
    /// The version that a value of the option `compat` names: `v2` or `0.10`, `v3` or `1.1`.
    #[must_use]
    pub fn from_compat(value: &str) -> Option<Self> {
        match value {
            "v2" | "0.10" => Some(Self::V2),
            "v3" | "1.1" => Some(Self::V3),
            _ => None,
        }
    }

    /// The release of QEMU that reads it first: what `info` shows as `compat`.
    #[must_use]
    pub const fn compat(self) -> &'static str {
        match self {
            Self::V2 => "0.10",
            Self::V3 => "1.1",
        }
    }
}

/// How the guest's data is encrypted (spec "Header": `crypt_method`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crypt {
    /// Not at all.
    None,
    /// AES-CBC with a key that is the password.
    Aes,
    /// LUKS.
    Luks,
}

/// Where the active L1 table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L1Table {
    /// Its start, the start of a cluster.
    pub at: HostOffset,
    /// Its number of entries.
    pub entries: u32,
}

/// Where the refcount table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefcountTable {
    /// Its start, the start of a cluster.
    pub at: HostOffset,
    /// Its length in clusters, at least 1.
    pub clusters: u32,
}

/// Where the table of internal snapshots is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotTable {
    /// Its start, the start of a cluster; means nothing without snapshots.
    pub at: HostOffset,
    /// How many snapshots it describes.
    pub count: u32,
}

/// A header whose numbers passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) version: Version,
    pub(super) cluster: ClusterBits,
    pub(super) len_guest: u64,
    pub(super) crypt: Crypt,
    pub(super) l1: L1Table,
    pub(super) refcounts: RefcountTable,
    pub(super) width: RefcountWidth,
    pub(super) snapshots: SnapshotTable,
    pub(super) incompatible: Incompatible,
    pub(super) compatible: Compatible,
    pub(super) autoclear: Autoclear,
    pub(super) compression: Compression,
    /// Version 3: the fields from byte 104 to `header_length`, known and unknown, as they were read.
    pub(super) additional: Vec<u8>,
    pub(super) extensions: Extensions,
    pub(super) backing_name: Option<Vec<u8>>,
}

impl Header {
    /// How many bytes [`Self::parse`] wants to see: one cluster. `start` is the start of the file, of which the first
    /// [`PREFIX_BYTES`] are needed.
    ///
    /// # Errors
    /// [`HeaderError`] if this is no qcow2 image of a supported version and cluster size.
    pub fn area_len_bytes(start: &[u8]) -> Result<usize, HeaderError> {
        let mut be = Be(start);
        fields::parse_version(&mut be)?;
        be.take(12)?;
        Ok(fields::parse_cluster(&mut be)?.buffer_len())
    }

    /// The only way to obtain a `Header`. `bytes` is the first cluster of the file, or its start if that holds all of
    /// the header, its extensions and the backing file's name.
    ///
    /// # Errors
    /// [`HeaderError`]: no number of a header that breaks a rule gets past here. The bytes allocated are at most the
    /// bytes given.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut be = Be(bytes);
        let fields = Fields::parse(&mut be)?;
        let cluster = fields.cluster;
        let additional = be.take(fields.additional_len()?)?.to_vec();
        let incompatible = Incompatible::from_raw(fields.incompatible);
        let autoclear = Autoclear::from_raw(fields.autoclear);
        let (extensions, backing_name) = fields.parse_area(bytes, autoclear)?;
        let width = RefcountWidth::from_order(fields.refcount_order);
        Ok(Self {
            version: fields.version,
            cluster,
            len_guest: fields.check_len_guest()?,
            crypt: fields.parse_crypt()?,
            l1: fields.parse_l1()?,
            refcounts: fields.parse_refcounts()?,
            width: width.ok_or(HeaderError::RefcountOrder(fields.refcount_order))?,
            snapshots: fields.parse_snapshots()?,
            incompatible,
            compatible: Compatible::from_raw(fields.compatible),
            autoclear,
            compression: fields::parse_compression(&additional, incompatible)?,
            additional,
            extensions,
            backing_name,
        })
    }

    /// Version of the format.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The size of clusters.
    #[must_use]
    pub const fn cluster(&self) -> ClusterBits {
        self.cluster
    }

    /// How L2 tables are to be read.
    #[must_use]
    pub fn l2(&self) -> L2Format {
        let standard = L2Format::standard(self.cluster, self.version);
        let l2 = standard.with_data_file(self.incompatible.has(IncompatibleBit::ExternalData));
        match l2.with_extended(self.incompatible.has(IncompatibleBit::ExtendedL2)) {
            Some(l2) => l2,
            None => unreachable!("no header with subclusters in small clusters passes"),
        }
    }

    /// Length of the virtual disk in bytes, at most [`LEN_MAX`](drystone_base::LEN_MAX).
    #[must_use]
    pub const fn len_guest(&self) -> u64 {
        self.len_guest
    }

    /// How the guest's data is encrypted.
    #[must_use]
    pub const fn crypt(&self) -> Crypt {
        self.crypt
    }

    /// Where the active L1 table is.
    #[must_use]
    pub const fn l1(&self) -> L1Table {
        self.l1
    }

    /// Where the refcount table is.
    #[must_use]
    pub const fn refcounts(&self) -> RefcountTable {
        self.refcounts
    }

    /// The width of refcounts.
    #[must_use]
    pub const fn width(&self) -> RefcountWidth {
        self.width
    }

    /// Where the table of internal snapshots is.
    #[must_use]
    pub const fn snapshots(&self) -> SnapshotTable {
        self.snapshots
    }

    /// Features that must be understood to open the image.
    #[must_use]
    pub const fn incompatible(&self) -> Incompatible {
        self.incompatible
    }

    /// Features that may be ignored.
    #[must_use]
    pub const fn compatible(&self) -> Compatible {
        self.compatible
    }

    /// Features that a writer which does not know them clears.
    #[must_use]
    pub const fn autoclear(&self) -> Autoclear {
        self.autoclear
    }

    /// How compressed clusters are compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// Header extensions.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The name of the backing file; `None` if there is none. What follows a NUL does not belong to it.
    #[must_use]
    pub fn backing_name(&self) -> Option<&[u8]> {
        self.backing_name.as_deref().map(until_nul).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests;
