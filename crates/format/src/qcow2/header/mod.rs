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
mod encode;

pub use access::{Access, ReadOnlyReason, RefusedReason};
pub use encode::HeaderChange;

use drystone_base::{Be, HostOffset, LEN_MAX, Truncated};

use super::compress::Compression;
use super::extension::{ExtensionError, Extensions, until_nul};
use super::feature::{Autoclear, Compatible, Incompatible, IncompatibleBit};
use super::geometry::{ClusterBits, ENTRY_BYTES, HOST_END, L1_BYTES_MAX, REFCOUNT_TABLE_BYTES_MAX};
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

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file is not a qcow2 image.
    #[error("this is not a qcow2 image")]
    Magic,
    /// The bytes end inside of the header, its extensions or the backing file's name.
    #[error("the image ends inside of its header")]
    Truncated,
    /// Neither version 2 nor version 3.
    #[error("version {0} of qcow2 is not known")]
    Version(u32),
    /// No cluster size of this format.
    #[error("a cluster size of 2^{0} bytes is not supported, 2^9 to 2^21 are")]
    ClusterBits(u32),
    /// The header's length breaks a rule.
    #[error("a header length of {0} bytes is not a multiple of 8 from 104 to the cluster size")]
    HeaderLength(u32),
    /// The disk is too large.
    #[error("a disk of {0} bytes is too large")]
    LenGuest(u64),
    /// An encryption method that the specification does not name.
    #[error("encryption method {0} is not known")]
    Crypt(u32),
    /// The width of refcounts.
    #[error("refcounts of 2^{0} bits are not possible, 2^6 is the most")]
    RefcountOrder(u32),
    /// Field and feature bit contradict each other, or the type is not known.
    #[error("compression type {value} does not go with its feature bit, which is {bit}, or is not known")]
    CompressionType {
        /// The field.
        value: u8,
        /// The feature bit.
        bit: bool,
    },
    /// A table is too long.
    #[error("the {table} is too long ({len_bytes} bytes)")]
    TableLength {
        /// Which table.
        table: &'static str,
        /// Its length.
        len_bytes: u64,
    },
    /// A table is where none can be.
    #[error("the offset {at:#x} of the {table} is not valid")]
    TableOffset {
        /// Which table.
        table: &'static str,
        /// Its offset.
        at: u64,
    },
    /// The L1 table does not cover the disk.
    #[error("an L1 table of {entries} entries is too short for a disk that needs {needed}")]
    L1TooShort {
        /// Its entries.
        entries: u32,
        /// What the disk needs.
        needed: u64,
    },
    /// There is no refcount table.
    #[error("the image has no refcount table")]
    NoRefcountTable,
    /// Too many snapshots.
    #[error("{0} snapshots are too many")]
    Snapshots(u32),
    /// The name of the backing file is too long or not where it must be.
    #[error(
        "the name of the backing file ({len_bytes} bytes at {at:#x}) is too long or not in the first cluster"
    )]
    BackingName {
        /// Its offset.
        at: u64,
        /// Its length.
        len_bytes: u32,
    },
    /// The extensions break a rule.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
    /// Header, extensions and name are longer than a cluster.
    #[error("the header would be {0} bytes long, which is more than a cluster")]
    DoesNotFit(usize),
}

impl From<Truncated> for HeaderError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// The fixed fields, as they are stored.
struct Fields {
    version: Version,
    backing_at: u64,
    backing_len_bytes: u32,
    cluster: ClusterBits,
    len_guest: u64,
    crypt: u32,
    l1_entries: u32,
    l1_at: u64,
    refcounts_at: u64,
    refcounts_clusters: u32,
    snapshots_count: u32,
    snapshots_at: u64,
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_len: u32,
}

impl Header {
    /// How many bytes [`Self::parse`] wants to see: one cluster. `start` is the start of the file, of which the first
    /// [`PREFIX_BYTES`] are needed.
    ///
    /// # Errors
    /// [`HeaderError`] if this is no qcow2 image of a supported version and cluster size.
    pub fn area_len_bytes(start: &[u8]) -> Result<usize, HeaderError> {
        let mut be = Be(start);
        parse_version(&mut be)?;
        be.take(12)?;
        Ok(parse_cluster(&mut be)?.buffer_len())
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
            compression: parse_compression(&additional, incompatible)?,
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

    /// Length of the virtual disk in bytes, at most [`LEN_MAX`].
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

impl Fields {
    fn parse(be: &mut Be<'_>) -> Result<Self, HeaderError> {
        let version = parse_version(be)?;
        let (backing_at, backing_len_bytes) = (be.u64()?, be.u32()?);
        let cluster = parse_cluster(be)?;
        let mut fields = Self {
            version,
            backing_at,
            backing_len_bytes,
            cluster,
            len_guest: be.u64()?,
            crypt: be.u32()?,
            l1_entries: be.u32()?,
            l1_at: be.u64()?,
            refcounts_at: be.u64()?,
            refcounts_clusters: be.u32()?,
            snapshots_count: be.u32()?,
            snapshots_at: be.u64()?,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: RefcountWidth::BITS_16.order(),
            header_len: LEN_V2,
        };
        if version == Version::V3 {
            fields.incompatible = be.u64()?;
            fields.compatible = be.u64()?;
            fields.autoclear = be.u64()?;
            fields.refcount_order = be.u32()?;
            fields.header_len = be.u32()?;
        }
        Ok(fields)
    }

    /// Bytes of the header behind the fields that every version 3 header has.
    fn additional_len(&self) -> Result<usize, HeaderError> {
        if self.version == Version::V2 {
            return Ok(0);
        }
        let error = HeaderError::HeaderLength(self.header_len);
        if !self.header_len.is_multiple_of(8) || u64::from(self.header_len) > self.cluster.bytes() {
            return Err(error);
        }
        self.header_len.checked_sub(LEN_V3).and_then(|len| usize::try_from(len).ok()).ok_or(error)
    }

    fn check_len_guest(&self) -> Result<u64, HeaderError> {
        if self.len_guest > LEN_MAX { Err(HeaderError::LenGuest(self.len_guest)) } else { Ok(self.len_guest) }
    }

    fn parse_crypt(&self) -> Result<Crypt, HeaderError> {
        match self.crypt {
            0 => Ok(Crypt::None),
            1 => Ok(Crypt::Aes),
            2 => Ok(Crypt::Luks),
            other => Err(HeaderError::Crypt(other)),
        }
    }

    fn parse_l1(&self) -> Result<L1Table, HeaderError> {
        let len_bytes = u64::from(self.l1_entries) * ENTRY_BYTES;
        let at = self.table_at("active L1 table", self.l1_at, len_bytes, L1_BYTES_MAX)?;
        let needed = self.cluster.l1_entries(self.len_guest);
        if u64::from(self.l1_entries) < needed {
            return Err(HeaderError::L1TooShort { entries: self.l1_entries, needed });
        }
        Ok(L1Table { at, entries: self.l1_entries })
    }

    fn parse_refcounts(&self) -> Result<RefcountTable, HeaderError> {
        if self.refcounts_clusters == 0 {
            return Err(HeaderError::NoRefcountTable);
        }
        let len_bytes = u64::from(self.refcounts_clusters) * self.cluster.bytes();
        let at = self.table_at("refcount table", self.refcounts_at, len_bytes, REFCOUNT_TABLE_BYTES_MAX)?;
        Ok(RefcountTable { at, clusters: self.refcounts_clusters })
    }

    fn parse_snapshots(&self) -> Result<SnapshotTable, HeaderError> {
        if self.snapshots_count > SNAPSHOTS_MAX {
            return Err(HeaderError::Snapshots(self.snapshots_count));
        }
        // The length of the table is known only after it was read; one byte per snapshot is less than there can be.
        let at = self.table_at("snapshot table", self.snapshots_at, self.snapshots_count.into(), u64::MAX)?;
        Ok(SnapshotTable { at, count: self.snapshots_count })
    }

    fn table_at(
        &self,
        table: &'static str,
        at: u64,
        len_bytes: u64,
        max: u64,
    ) -> Result<HostOffset, HeaderError> {
        if len_bytes > max {
            return Err(HeaderError::TableLength { table, len_bytes });
        }
        let error = HeaderError::TableOffset { table, at };
        let offset =
            HostOffset::checked(at).filter(|&at| self.cluster.is_aligned(at)).ok_or(error.clone())?;
        // Where a table without entries starts means nothing.
        let possible =
            len_bytes == 0 || at != 0 && HOST_END.checked_sub(len_bytes).is_some_and(|last| at <= last);
        if possible { Ok(offset) } else { Err(error) }
    }

    /// The extensions and the name of the backing file.
    fn parse_area(
        &self,
        bytes: &[u8],
        autoclear: Autoclear,
    ) -> Result<(Extensions, Option<Vec<u8>>), HeaderError> {
        use super::feature::AutoclearBit::Bitmaps;
        let bad_name = HeaderError::BackingName { at: self.backing_at, len_bytes: self.backing_len_bytes };
        let header_len =
            usize::try_from(self.header_len).map_err(|_| HeaderError::HeaderLength(self.header_len))?;
        let area_end = match usize::try_from(self.backing_at).map_err(|_| bad_name.clone())? {
            0 => self.cluster.buffer_len(),
            at if at < header_len || at > self.cluster.buffer_len() => return Err(bad_name),
            at => at,
        };
        let area = bytes.get(header_len..area_end.min(bytes.len())).ok_or(HeaderError::Truncated)?;
        let whole = bytes.len() >= area_end;
        let extensions = Extensions::parse(area, whole, self.cluster, autoclear.has(Bitmaps));
        let extensions = extensions.map_err(|error| match error {
            ExtensionError::Truncated => HeaderError::Truncated,
            error => HeaderError::Extension(error),
        })?;
        if self.backing_at == 0 || self.backing_len_bytes == 0 {
            return Ok((extensions, None));
        }
        let name_end = usize::try_from(self.backing_len_bytes).ok().and_then(|len| area_end.checked_add(len));
        let name_end = name_end.filter(|&end| end <= self.cluster.buffer_len()).ok_or(bad_name.clone())?;
        if self.backing_len_bytes > BACKING_NAME_BYTES_MAX {
            return Err(bad_name);
        }
        let name = bytes.get(area_end..name_end).ok_or(HeaderError::Truncated)?;
        Ok((extensions, Some(name.to_vec())))
    }
}

fn parse_version(be: &mut Be<'_>) -> Result<Version, HeaderError> {
    if be.bytes()? != MAGIC {
        return Err(HeaderError::Magic);
    }
    match be.u32()? {
        2 => Ok(Version::V2),
        3 => Ok(Version::V3),
        other => Err(HeaderError::Version(other)),
    }
}

fn parse_cluster(be: &mut Be<'_>) -> Result<ClusterBits, HeaderError> {
    let bits = be.u32()?;
    ClusterBits::checked(bits).ok_or(HeaderError::ClusterBits(bits))
}

/// Spec "Additional fields": the field and its feature bit must agree; a field that is not present is 0.
fn parse_compression(additional: &[u8], incompatible: Incompatible) -> Result<Compression, HeaderError> {
    let value = additional.first().copied().unwrap_or(0);
    let bit = incompatible.has(IncompatibleBit::CompressionType);
    match (value, bit) {
        (0, false) => Ok(Compression::Deflate),
        (1, true) => Ok(Compression::Zstd),
        _ => Err(HeaderError::CompressionType { value, bit }),
    }
}

#[cfg(test)]
mod tests;
