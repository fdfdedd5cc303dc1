//! A header back to bytes, and the changes that a running image makes to it.
//!
//! Invariant: what is encoded parses to the same header. Fields and extensions that this build does not know come out
//! as they went in, in their order. The backing file's name moves to right behind the extensions. A change of a running
//! image replaces fields where they are, so it needs no room that the image does not have.

use drystone_base::{Be, BeMut};

use super::fields::{Fields, parse_compression};
use super::{
    Crypt, Header, HeaderError, L1Table, LEN_V2, LEN_V3, MAGIC, RefcountTable, SnapshotTable, Version,
};
use crate::qcow2::compress::Compression;
use crate::qcow2::feature::{Autoclear, AutoclearBit, Compatible, Incompatible};
use crate::qcow2::refcount::RefcountWidth;

/// Fields of a header to replace; `None` keeps what is there.
#[derive(Debug, Clone, Default)]
pub struct HeaderChange {
    /// Length of the virtual disk in bytes.
    pub len_guest: Option<u64>,
    /// Where the active L1 table is.
    pub l1: Option<L1Table>,
    /// Where the refcount table is.
    pub refcounts: Option<RefcountTable>,
    /// Where the table of internal snapshots is.
    pub snapshots: Option<SnapshotTable>,
    /// The width of refcounts.
    pub width: Option<RefcountWidth>,
    /// Features that must be understood to open the image.
    pub incompatible: Option<Incompatible>,
    /// Features that may be ignored.
    pub compatible: Option<Compatible>,
    /// Features that a writer which does not know them clears.
    pub autoclear: Option<Autoclear>,
}

impl Header {
    /// The bytes of the header, its extensions and the backing file's name, to be written at the start of the file.
    ///
    /// # Errors
    /// [`HeaderError::DoesNotFit`] if they are longer than a cluster.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        let mut area = Vec::new();
        self.extensions.encode(&mut area);
        let name = self.backing_name.as_deref().unwrap_or_default();
        let header_len = self.header_len();
        let name_at = header_len + area.len();
        let len = name_at + name.len();
        if len > self.cluster.buffer_len() {
            return Err(HeaderError::DoesNotFit(len));
        }
        let mut out = Vec::with_capacity(len);
        self.encode_fixed(&mut out, if name.is_empty() { 0 } else { name_at as u64 }, name);
        assert_eq!(out.len(), header_len, "the fields fill the header");
        out.append(&mut area);
        out.extend_from_slice(name);
        Ok(out)
    }

    /// The header with some fields replaced.
    ///
    /// # Errors
    /// [`HeaderError`] if the result breaks a rule that [`Self::parse`] checks, such as an L1 table that does not cover
    /// the disk, or features in a version 2 image.
    pub fn changed(&self, change: &HeaderChange) -> Result<Self, HeaderError> {
        let mut header = self.clone();
        header.len_guest = change.len_guest.unwrap_or(self.len_guest);
        header.l1 = change.l1.unwrap_or(self.l1);
        header.refcounts = change.refcounts.unwrap_or(self.refcounts);
        header.snapshots = change.snapshots.unwrap_or(self.snapshots);
        header.width = change.width.unwrap_or(self.width);
        header.incompatible = change.incompatible.unwrap_or(self.incompatible);
        header.compatible = change.compatible.unwrap_or(self.compatible);
        header.autoclear = change.autoclear.unwrap_or(self.autoclear);
        let features = header.incompatible.raw() | header.compatible.raw() | header.autoclear.raw();
        let is_plain = features == 0 && header.width == RefcountWidth::BITS_16;
        if header.version == Version::V2 && !is_plain {
            return Err(HeaderError::Version(2));
        }
        if !header.autoclear.has(AutoclearBit::Bitmaps) {
            header.extensions.invalidate_bitmaps();
        }
        header.demand_fields()?;
        Ok(header)
    }

    /// Checks the fields that a change can replace. What is stored behind them stays where it is and was checked.
    fn demand_fields(&self) -> Result<(), HeaderError> {
        let mut fixed = Vec::with_capacity(self.header_len());
        self.encode_fixed(&mut fixed, 0, b"");
        let fields = Fields::parse(&mut Be(&fixed))?;
        fields.check_len_guest()?;
        fields.parse_l1()?;
        fields.parse_refcounts()?;
        fields.parse_snapshots()?;
        parse_compression(&self.additional, self.incompatible).map(drop)
    }

    /// Replaces, in the first bytes of the image (72 or 104 are enough), those that a [`HeaderChange`] changes.
    /// Everything else stays as it is stored.
    pub fn patch(&self, fixed: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(field) = fixed.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        put(24, &self.len_guest.to_be_bytes());
        put(36, &self.l1.entries.to_be_bytes());
        put(40, &self.l1.at.get().to_be_bytes());
        put(48, &self.refcounts.at.get().to_be_bytes());
        put(56, &self.refcounts.clusters.to_be_bytes());
        put(60, &self.snapshots.count.to_be_bytes());
        put(64, &self.snapshots.at.get().to_be_bytes());
        if self.version == Version::V3 {
            put(72, &self.incompatible.raw().to_be_bytes());
            put(80, &self.compatible.raw().to_be_bytes());
            put(88, &self.autoclear.raw().to_be_bytes());
            put(96, &self.width.order().to_be_bytes());
        }
    }

    pub(super) fn header_len(&self) -> usize {
        match self.version {
            Version::V2 => LEN_V2 as usize,
            Version::V3 => LEN_V3 as usize + self.additional.len(),
        }
    }

    pub(super) fn encode_fixed(&self, out: &mut Vec<u8>, name_at: u64, name: &[u8]) {
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX); // fits into a cluster
        BeMut(out)
            .bytes(&MAGIC)
            .u32(match self.version {
                Version::V2 => 2,
                Version::V3 => 3,
            })
            .u64(name_at)
            .u32(name_len)
            .u32(self.cluster.bits())
            .u64(self.len_guest)
            .u32(match self.crypt {
                Crypt::None => 0,
                Crypt::Aes => 1,
                Crypt::Luks => 2,
            })
            .u32(self.l1.entries)
            .u64(self.l1.at.get())
            .u64(self.refcounts.at.get())
            .u32(self.refcounts.clusters)
            .u32(self.snapshots.count)
            .u64(self.snapshots.at.get());
        if self.version == Version::V3 {
            let header_len = u32::try_from(self.header_len()).unwrap_or(u32::MAX); // fits into a cluster
            BeMut(out)
                .u64(self.incompatible.raw())
                .u64(self.compatible.raw())
                .u64(self.autoclear.raw())
                .u32(self.width.order())
                .u32(header_len)
                .bytes(&self.additional);
        }
        debug_assert!(
            self.additional.first().copied().unwrap_or(0) == u8::from(self.compression == Compression::Zstd),
            "the compression type is the first additional field"
        );
    }
}
