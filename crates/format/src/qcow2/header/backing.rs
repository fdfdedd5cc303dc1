//! A header that names another backing file or data file, or has its bitmaps elsewhere, in one step.
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

use std::ops::Range;

use super::{BACKING_NAME_BYTES_MAX, Header, HeaderError, Version};
use crate::qcow2::bitmap::BitmapsExtension;
use crate::qcow2::compress::Compression;
use crate::qcow2::feature::{Autoclear, AutoclearBit, Compatible, Incompatible};

/// Bytes of the fields of version 3 that are new with the compression type (spec "Header": from byte 104).
const ADDITIONAL_BYTES: usize = 8;

/// What a disk writes as a whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A header that was changed like this, and what has to be written for it.
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
        header.placed(self, sector, None)
    }

    /// The same image in another version of the format, without features. `sector` as in [`Self::renamed`].
    ///
    /// # Errors
    /// As [`Self::renamed`].
    pub fn in_version(&self, sector: &[u8], version: Version) -> Result<Renamed, HeaderError> {
        let mut header = self.clone();
        header.version = version;
        header.additional = if version == Version::V3 { vec![0; ADDITIONAL_BYTES] } else { Vec::new() };
        // Compressed clusters in another way are none, or the caller would not do this.
        header.compression = Compression::Deflate;
        header.incompatible = Incompatible::EMPTY;
        header.compatible = Compatible::EMPTY;
        header.autoclear = Autoclear::EMPTY;
        header.extensions.invalidate_bitmaps();
        header.extensions.drop_feature_names();
        header.placed(self, sector, None)
    }

    /// The header with the bitmaps' directory elsewhere, or without bitmaps; `sector` as in [`Self::renamed`].
    ///
    /// # Errors
    /// [`HeaderError::Version`] for a version 2 image, [`HeaderError::DoesNotFit`] as there.
    pub fn with_bitmaps(
        &self,
        sector: &[u8],
        bitmaps: Option<BitmapsExtension>,
    ) -> Result<Renamed, HeaderError> {
        if self.version == Version::V2 {
            return Err(HeaderError::Version(2));
        }
        let mut header = self.clone();
        header.extensions.set_bitmaps(bitmaps);
        header.autoclear = header.autoclear.with(AutoclearBit::Bitmaps, bitmaps.is_some());
        let (at, len) = stored_name(sector);
        header.placed(self, sector, Some(at..at.saturating_add(len)))
    }

    /// The header with another name of its external data file, or none if that is empty; `sector` as in [`Self::renamed`].
    ///
    /// # Errors
    /// [`HeaderError::DoesNotFit`] as there.
    pub fn with_data_file_name(&self, sector: &[u8], name: &[u8]) -> Result<Renamed, HeaderError> {
        let mut header = self.clone();
        header.extensions.set_data_file(name);
        let (at, len) = stored_name(sector);
        header.placed(self, sector, Some(at..at.saturating_add(len)))
    }

    /// The first sector of this header, in place of `old` that is stored; `name_stored` is where the backing file's name is
    /// stored already.
    fn placed(
        mut self,
        old: &Self,
        sector: &[u8],
        name_stored: Option<Range<usize>>,
    ) -> Result<Renamed, HeaderError> {
        if self.area_end() > SECTOR_BYTES {
            self.extensions.drop_feature_names();
        }
        let area_end = self.area_end();
        if area_end > SECTOR_BYTES {
            return Err(HeaderError::DoesNotFit(area_end));
        }
        let name = self.backing_name.clone().unwrap_or_default();
        let stays = name_stored.filter(|stored| stored.start >= SECTOR_BYTES && stored.len() == name.len());
        let is_inside = area_end + name.len() <= SECTOR_BYTES;
        let name_at = match &stays {
            Some(stored) => stored.start,
            None if is_inside => area_end,
            None => old.free_from(sector),
        };
        if name_at + name.len() > self.cluster.buffer_len() {
            return Err(HeaderError::DoesNotFit(name_at + name.len()));
        }
        let mut fresh = Vec::with_capacity(SECTOR_BYTES);
        self.encode_fixed(&mut fresh, if name.is_empty() { 0 } else { name_at as u64 }, &name);
        self.extensions.encode(&mut fresh);
        if is_inside && stays.is_none() {
            fresh.extend_from_slice(&name);
        }
        fresh.resize(SECTOR_BYTES, 0);
        let is_written = !is_inside && stays.is_none();
        Ok(Renamed { header: self, name: is_written.then_some((name_at as u64, name)), sector: fresh })
    }

    /// Where the extensions end.
    fn area_end(&self) -> usize {
        let mut area = Vec::new();
        self.extensions.encode(&mut area);
        self.header_len() + area.len()
    }

    /// The first byte behind the first sector from which on nothing of the header is stored.
    fn free_from(&self, sector: &[u8]) -> usize {
        let (at, len) = stored_name(sector);
        self.area_end().max(SECTOR_BYTES).max(at.saturating_add(len))
    }
}

/// Where the backing file's name is stored, and its length; zeroes if there is none.
fn stored_name(sector: &[u8]) -> (usize, usize) {
    let mut be = drystone_base::Be(sector.get(8..20).unwrap_or_default());
    let at = be.u64().ok().and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
    let len = be.u32().ok().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    (at, len)
}
