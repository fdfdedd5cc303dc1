//! The fields of a header, one by one: read as they are stored, then each checked.
//!
//! Invariant: a length is compared with its limit before it is multiplied, an offset with the end of what can be
//! addressed before anything is added to it.
//! Not here: fields that are sets of features, which may hold anything.

use drystone_base::{Be, HostOffset, LEN_MAX};

use super::{
    BACKING_NAME_BYTES_MAX, Crypt, HeaderError, L1Table, LEN_V2, LEN_V3, MAGIC, RefcountTable, SNAPSHOTS_MAX,
    SnapshotTable, Version,
};
use crate::qcow2::compress::Compression;
use crate::qcow2::extension::{ExtensionError, Extensions};
use crate::qcow2::feature::{Autoclear, AutoclearBit, Incompatible, IncompatibleBit};
use crate::qcow2::geometry::{ClusterBits, ENTRY_BYTES, HOST_END, L1_BYTES_MAX, REFCOUNT_TABLE_BYTES_MAX};
use crate::qcow2::l2::L2Format;
use crate::qcow2::refcount::RefcountWidth;

/// The fixed fields, as they are stored.
pub(super) struct Fields {
    pub(super) version: Version,
    pub(super) backing_at: u64,
    pub(super) backing_len_bytes: u32,
    pub(super) cluster: ClusterBits,
    pub(super) len_guest: u64,
    pub(super) crypt: u32,
    pub(super) l1_entries: u32,
    pub(super) l1_at: u64,
    pub(super) refcounts_at: u64,
    pub(super) refcounts_clusters: u32,
    pub(super) snapshots_count: u32,
    pub(super) snapshots_at: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) header_len: u32,
}

impl Fields {
    pub(super) fn parse(be: &mut Be<'_>) -> Result<Self, HeaderError> {
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
    pub(super) fn additional_len(&self) -> Result<usize, HeaderError> {
        if self.version == Version::V2 {
            return Ok(0);
        }
        let error = HeaderError::HeaderLength(self.header_len);
        if !self.header_len.is_multiple_of(8) || u64::from(self.header_len) > self.cluster.bytes() {
            return Err(error);
        }
        self.header_len.checked_sub(LEN_V3).and_then(|len| usize::try_from(len).ok()).ok_or(error)
    }

    pub(super) fn check_len_guest(&self) -> Result<u64, HeaderError> {
        if self.len_guest > LEN_MAX { Err(HeaderError::LenGuest(self.len_guest)) } else { Ok(self.len_guest) }
    }

    pub(super) fn parse_crypt(&self) -> Result<Crypt, HeaderError> {
        match self.crypt {
            0 => Ok(Crypt::None),
            1 => Ok(Crypt::Aes),
            2 => Ok(Crypt::Luks),
            other => Err(HeaderError::Crypt(other)),
        }
    }

    /// How L2 tables are to be read.
    pub(super) fn l2(&self) -> Result<L2Format, HeaderError> {
        let features = Incompatible::from_raw(self.incompatible);
        L2Format::standard(self.cluster, self.version)
            .with_data_file(features.has(IncompatibleBit::ExternalData))
            .with_extended(features.has(IncompatibleBit::ExtendedL2))
            .ok_or(HeaderError::ExtendedL2(self.cluster.bytes()))
    }

    pub(super) fn parse_l1(&self) -> Result<L1Table, HeaderError> {
        let len_bytes = u64::from(self.l1_entries) * ENTRY_BYTES;
        let at = self.table_at("active L1 table", self.l1_at, len_bytes, L1_BYTES_MAX)?;
        let needed = self.l2()?.l1_entries(self.len_guest);
        if u64::from(self.l1_entries) < needed {
            return Err(HeaderError::L1TooShort { entries: self.l1_entries, needed });
        }
        Ok(L1Table { at, entries: self.l1_entries })
    }

    pub(super) fn parse_refcounts(&self) -> Result<RefcountTable, HeaderError> {
        if self.refcounts_clusters == 0 {
            return Err(HeaderError::NoRefcountTable);
        }
        let len_bytes = u64::from(self.refcounts_clusters) * self.cluster.bytes();
        let at = self.table_at("refcount table", self.refcounts_at, len_bytes, REFCOUNT_TABLE_BYTES_MAX)?;
        Ok(RefcountTable { at, clusters: self.refcounts_clusters })
    }

    pub(super) fn parse_snapshots(&self) -> Result<SnapshotTable, HeaderError> {
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
    pub(super) fn parse_area(
        &self,
        bytes: &[u8],
        autoclear: Autoclear,
    ) -> Result<(Extensions, Option<Vec<u8>>), HeaderError> {
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
        let extensions = Extensions::parse(area, whole, self.cluster, autoclear.has(AutoclearBit::Bitmaps));
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

pub(super) fn parse_version(be: &mut Be<'_>) -> Result<Version, HeaderError> {
    if be.bytes()? != MAGIC {
        return Err(HeaderError::Magic);
    }
    match be.u32()? {
        2 => Ok(Version::V2),
        3 => Ok(Version::V3),
        other => Err(HeaderError::Version(other)),
    }
}

pub(super) fn parse_cluster(be: &mut Be<'_>) -> Result<ClusterBits, HeaderError> {
    let bits = be.u32()?;
    ClusterBits::checked(bits).ok_or(HeaderError::ClusterBits(bits))
}

/// Spec "Additional fields": the field and its feature bit must agree; a field that is not present is 0.
pub(super) fn parse_compression(
    additional: &[u8],
    incompatible: Incompatible,
) -> Result<Compression, HeaderError> {
    let value = additional.first().copied().unwrap_or(0);
    let bit = incompatible.has(IncompatibleBit::CompressionType);
    match (value, bit) {
        (0, false) => Ok(Compression::Deflate),
        (1, true) => Ok(Compression::Zstd),
        _ => Err(HeaderError::CompressionType { value, bit }),
    }
}
