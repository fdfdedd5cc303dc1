//! A header that names another backing file, in one step.
//!
//! ```text
//!   sector 0                                          further on in the first cluster
//!   [ fields | extensions, end mark | name? | 0.. ]   ...  old name  ...  [ new name ]
//!        '--- replaced as a whole ---'                                       '--- written before, where nothing is
//! ```
//! The fields and the extensions, one of which is the backing file's format, have to change in the same moment, so they
//! have to fit into one sector. What features are called gives way if they do not; it says nothing that is needed.
//!
//! Invariant: whatever reaches the disk of the two writes, in their order, is the old header or the new one.

use super::{BACKING_NAME_BYTES_MAX, Header, HeaderError, Version};
use crate::qcow2::feature::{Autoclear, Compatible, Incompatible};

/// Bytes of the fields of version 3 that are new with the compression type (spec "Header": from byte 104).
const ADDITIONAL_BYTES: usize = 8;

/// What a disk writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A header with another backing file, and what has to be written for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The new header.
    pub header: Header,
    /// Where the name goes, and the name, if it is not in the first sector. To be durable before the sector is written.
    pub name: Option<(u64, Vec<u8>)>,
    /// The new first sector.
    pub sector: Vec<u8>,
}

impl Header {
    /// The header with the backing file `name` of `format`, or none. `sector` are the first [`SECTOR_BYTES`] bytes of the
    /// image as they are stored.
    ///
    /// # Errors
    /// [`HeaderError::BackingName`] if the name is longer than the format allows, [`HeaderError::DoesNotFit`] if the
    /// extensions do not fit into a sector or the name into the first cluster.
    pub fn renamed(
        &self,
        sector: &[u8],
        name: Option<&[u8]>,
        format: Option<&[u8]>,
    ) -> Result<Renamed, HeaderError> {
        let name = name.unwrap_or_default();
        if name.len() > BACKING_NAME_BYTES_MAX as usize {
            let len_bytes = u32::try_from(name.len()).unwrap_or(u32::MAX);
            return Err(HeaderError::BackingName { at: 0, len_bytes });
        }
        let mut header = self.clone();
        header.backing_name = (!name.is_empty()).then(|| name.to_vec());
        header.extensions.set_backing_format(format);
        header.replacing(self, sector)
    }

    /// The same image in another version of the format, without features. `sector` as in [`Self::renamed`].
    ///
    /// # Errors
    /// As [`Self::renamed`].
    pub fn in_version(&self, sector: &[u8], version: Version) -> Result<Renamed, HeaderError> {
        let mut header = self.clone();
        header.version = version;
        header.additional = if version == Version::V3 { vec![0; ADDITIONAL_BYTES] } else { Vec::new() };
        header.incompatible = Incompatible::EMPTY;
        header.compatible = Compatible::EMPTY;
        header.autoclear = Autoclear::EMPTY;
        header.extensions.invalidate_bitmaps();
        header.extensions.drop_feature_names();
        header.replacing(self, sector)
    }

    /// What is to be written so that this header takes the place of `old`, whose first bytes are `sector`.
    fn replacing(self, old: &Self, sector: &[u8]) -> Result<Renamed, HeaderError> {
        let mut header = self;
        let name = header.backing_name.clone().unwrap_or_default();
        let name = name.as_slice();
        if header.area_end() > SECTOR_BYTES {
            header.extensions.drop_feature_names();
        }
        let area_end = header.area_end();
        if area_end > SECTOR_BYTES {
            return Err(HeaderError::DoesNotFit(area_end));
        }
        let is_inside = area_end + name.len() <= SECTOR_BYTES;
        let name_at = if is_inside { area_end } else { old.free_from(sector).max(area_end) };
        if name_at + name.len() > header.cluster.buffer_len() {
            return Err(HeaderError::DoesNotFit(name_at + name.len()));
        }
        let mut fresh = Vec::with_capacity(SECTOR_BYTES);
        header.encode_fixed(&mut fresh, if name.is_empty() { 0 } else { name_at as u64 }, name);
        header.extensions.encode(&mut fresh);
        if is_inside {
            fresh.extend_from_slice(name);
        }
        fresh.resize(SECTOR_BYTES, 0);
        let name = (!is_inside).then(|| (name_at as u64, name.to_vec()));
        Ok(Renamed { header, name, sector: fresh })
    }

    /// Where the extensions end.
    fn area_end(&self) -> usize {
        let mut area = Vec::new();
        self.extensions.encode(&mut area);
        self.header_len() + area.len()
    }

    /// The first byte behind the first sector from which on nothing of the header is stored.
    fn free_from(&self, sector: &[u8]) -> usize {
        let mut be = drystone_base::Be(sector.get(8..20).unwrap_or_default());
        let at = be.u64().ok().and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
        let len = be.u32().ok().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        self.area_end().max(SECTOR_BYTES).max(at.saturating_add(len))
    }
}
