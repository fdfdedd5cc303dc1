//! Header extensions.
//! ```text
//!  header | kind  length  data .. padding to 8 | kind  length  data .. padding | 0  0 | backing file name | ...
//!         '------------------------- extension area ---------------------------------'    end of first cluster
//! ```
//! Extensions are kept as they were read, in their order, known or not; what this build understands is looked at
//! through accessors. So writing the header back loses nothing that another program put there.
//!
//! Invariants: the area lies between the header and the backing file's name or the end of the first cluster; no known
//! extension occurs twice; the bitmap and encryption extensions passed their checks.
//! Not here: the bitmaps themselves ([`super::bitmap`]).

use drystone_base::{Be, BeMut, HostOffset};

use super::bitmap::{BitmapError, BitmapsExtension};
use super::geometry::{ClusterBits, HOST_END};

/// Spec "Header extensions": end of the area.
const END: u32 = 0;
/// Spec "Header extensions": name of the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Spec "Header extensions": feature name table.
const FEATURE_NAMES: u32 = 0x6803_f857;
/// Spec "Header extensions": bitmaps.
const BITMAPS: u32 = 0x2385_2875;
/// Spec "Header extensions": full disk encryption header.
const ENCRYPTION: u32 = 0x0537_be77;
/// Spec "Header extensions": name of the external data file.
const DATA_FILE: u32 = 0x4441_5441;
/// Spec "Feature name table": bytes of an entry.
const FEATURE_NAME_BYTES: usize = 48;
/// Bytes of an extension's kind and length.
const HEAD_BYTES: usize = 8;

/// The extensions of a header, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    list: Vec<Extension>,
    bitmaps: Option<BitmapsExtension>,
    encryption: Option<EncryptionHeader>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Extension {
    kind: u32,
    data: Vec<u8>,
}

/// A line of the feature name table: what an image calls a feature bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureName {
    /// Which set of features: 0 incompatible, 1 compatible, 2 autoclear.
    pub set: u8,
    /// The number of the bit.
    pub bit: u8,
    /// The name, at most 46 bytes; bytes that are not UTF-8 are replaced.
    pub name: String,
}

/// Where the header of an encryption method is (spec "Full disk encryption header pointer").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncryptionHeader {
    /// The first byte, the start of a cluster.
    pub at: HostOffset,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// What is wrong with the extension area.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// The bytes end inside of the area.
    #[error("the header extensions end too early")]
    Truncated,
    /// An extension is longer than the room that is left.
    #[error("header extension {kind:#010x} claims {len_bytes} bytes, where {room_bytes} are left")]
    TooLong {
        /// The kind.
        kind: u32,
        /// The length that it claims.
        len_bytes: u32,
        /// Bytes to the end of the area.
        room_bytes: usize,
    },
    /// A known extension occurs twice.
    #[error("header extension {0:#010x} occurs twice")]
    Duplicate(u32),
    /// The encryption header pointer is not 16 bytes long or points to no cluster.
    #[error("the pointer to the encryption header is not valid")]
    Encryption,
    /// The bitmaps extension breaks a rule.
    #[error("the bitmaps extension is not valid")]
    Bitmaps(#[from] BitmapError),
}

impl Extensions {
    /// Parses the area `bytes`, which ends where extensions must end; `whole` is false if the caller has not all of it.
    ///
    /// `bitmaps_valid` says whether the bitmaps extension must be looked at (autoclear bit 0): without the bit its
    /// contents mean nothing and may be anything.
    ///
    /// # Errors
    /// [`ExtensionError`]; the bytes allocated never exceed the bytes given.
    pub(super) fn parse(
        bytes: &[u8],
        whole: bool,
        cluster: ClusterBits,
        bitmaps_valid: bool,
    ) -> Result<Self, ExtensionError> {
        let mut list = Vec::new();
        let mut be = Be(bytes);
        loop {
            if be.len() < HEAD_BYTES {
                if !whole {
                    return Err(ExtensionError::Truncated);
                }
                break; // The area may be full to its end, without an end mark.
            }
            let (Ok(kind), Ok(len_bytes)) = (be.u32(), be.u32()) else { break };
            // The end has no data, but a claim that no area can hold is a sign of something else; the C tool refuses it.
            let data = Self::parse_data(&mut be, kind, len_bytes, whole)?;
            if kind == END {
                break;
            }
            if is_known(kind) && list.iter().any(|other: &Extension| other.kind == kind) {
                return Err(ExtensionError::Duplicate(kind));
            }
            list.push(Extension { kind, data });
        }
        let mut extensions = Self { list, bitmaps: None, encryption: None };
        if let Some(data) = extensions.find(ENCRYPTION) {
            extensions.encryption = Some(parse_encryption(data, cluster)?);
        }
        if let (true, Some(data)) = (bitmaps_valid, extensions.find(BITMAPS)) {
            extensions.bitmaps = Some(BitmapsExtension::parse(data, cluster)?);
        }
        Ok(extensions)
    }

    fn parse_data(
        be: &mut Be<'_>,
        kind: u32,
        len_bytes: u32,
        whole: bool,
    ) -> Result<Vec<u8>, ExtensionError> {
        let room_bytes = be.len();
        let data = usize::try_from(len_bytes).ok().and_then(|len| be.take(len).ok());
        let Some(data) = data else {
            let too_long = ExtensionError::TooLong { kind, len_bytes, room_bytes };
            return Err(if whole { too_long } else { ExtensionError::Truncated });
        };
        let padding = data.len().next_multiple_of(8) - data.len();
        // The padding of the last extension may reach past the area; nothing follows it then.
        if be.take(padding).is_err() {
            *be = Be(&[]);
        }
        Ok(data.to_vec())
    }

    /// The extensions of a new image.
    pub(super) fn of_new_image(
        backing_format: Option<&[u8]>,
        data_file: Option<&[u8]>,
        names: &[FeatureName],
    ) -> Self {
        let mut extensions = Self::default();
        if let Some(format) = backing_format {
            extensions.list.push(Extension { kind: BACKING_FORMAT, data: format.to_vec() });
        }
        if let Some(name) = data_file {
            extensions.list.push(Extension { kind: DATA_FILE, data: name.to_vec() });
        }
        if !names.is_empty() {
            let data = names.iter().flat_map(encode_feature_name).collect();
            extensions.list.push(Extension { kind: FEATURE_NAMES, data });
        }
        extensions
    }

    /// Replaces the format of the backing file; first in the list if it is new.
    pub(super) fn set_backing_format(&mut self, format: Option<&[u8]>) {
        self.list.retain(|extension| extension.kind != BACKING_FORMAT);
        if let Some(format) = format {
            self.list.insert(0, Extension { kind: BACKING_FORMAT, data: format.to_vec() });
        }
    }

    /// Replaces the name of the external data file; an empty one leaves none.
    pub(super) fn set_data_file(&mut self, name: &[u8]) {
        self.list.retain(|extension| extension.kind != DATA_FILE);
        if !name.is_empty() {
            self.list.insert(0, Extension { kind: DATA_FILE, data: name.to_vec() });
        }
    }

    /// Replaces where the bitmaps are.
    pub(super) fn set_bitmaps(&mut self, bitmaps: Option<BitmapsExtension>) {
        self.list.retain(|extension| extension.kind != BITMAPS);
        self.list.extend(bitmaps.map(|bitmaps| Extension { kind: BITMAPS, data: bitmaps.encode() }));
        self.bitmaps = bitmaps;
    }

    /// Leaves out what features are called, which programs know anyway.
    pub(super) fn drop_feature_names(&mut self) {
        self.list.retain(|extension| extension.kind != FEATURE_NAMES);
    }

    /// Appends the area, with its end mark.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for Extension { kind, data } in &self.list {
            let len_bytes = u32::try_from(data.len()).unwrap_or(u32::MAX); // parse() and the first cluster bound it
            BeMut(out).u32(*kind).u32(len_bytes).bytes(data);
            out.resize(out.len() + data.len().next_multiple_of(8) - data.len(), 0);
        }
        BeMut(out).u32(END).u32(0);
    }

    /// The format of the backing file, as the image names it; `None` if it does not.
    #[must_use]
    pub fn backing_format(&self) -> Option<&[u8]> {
        self.find(BACKING_FORMAT).map(until_nul).filter(|name| !name.is_empty())
    }

    /// The name of the external data file, as the image names it; `None` if it does not.
    #[must_use]
    pub fn data_file(&self) -> Option<&[u8]> {
        self.find(DATA_FILE).map(until_nul).filter(|name| !name.is_empty())
    }

    /// What the image calls the features that it, or a program that wrote it, knows.
    #[must_use]
    pub fn feature_names(&self) -> Vec<FeatureName> {
        let table = self.find(FEATURE_NAMES).unwrap_or_default();
        table.chunks_exact(FEATURE_NAME_BYTES).filter_map(parse_feature_name).collect()
    }

    /// Where the directory of persistent bitmaps is; `None` if there is none, or it is not valid any more because a
    /// program that does not know bitmaps wrote to the image.
    #[must_use]
    pub const fn bitmaps(&self) -> Option<BitmapsExtension> {
        self.bitmaps
    }

    /// The image is written by a program that does not keep its bitmaps: what their extension says is not valid any more.
    pub(super) fn invalidate_bitmaps(&mut self) {
        self.bitmaps = None;
    }

    /// Whether there is a bitmaps extension, valid or not.
    #[must_use]
    pub fn has_bitmaps_extension(&self) -> bool {
        self.find(BITMAPS).is_some()
    }

    /// Where the header of the encryption method is.
    #[must_use]
    pub const fn encryption(&self) -> Option<EncryptionHeader> {
        self.encryption
    }

    fn find(&self, kind: u32) -> Option<&[u8]> {
        self.list.iter().find(|extension| extension.kind == kind).map(|extension| extension.data.as_slice())
    }
}

const fn is_known(kind: u32) -> bool {
    matches!(kind, BACKING_FORMAT | FEATURE_NAMES | BITMAPS | ENCRYPTION | DATA_FILE)
}

/// Names are not NUL-terminated, but a NUL that is there ends them.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn parse_feature_name(entry: &[u8]) -> Option<FeatureName> {
    let [set, bit, name @ ..] = entry else { return None };
    Some(FeatureName { set: *set, bit: *bit, name: String::from_utf8_lossy(until_nul(name)).into_owned() })
}

fn encode_feature_name(entry: &FeatureName) -> [u8; FEATURE_NAME_BYTES] {
    let mut bytes = [0; FEATURE_NAME_BYTES];
    let text = [entry.set, entry.bit].into_iter().chain(entry.name.bytes());
    bytes.iter_mut().zip(text).for_each(|(to, from)| *to = from);
    bytes
}

fn parse_encryption(data: &[u8], cluster: ClusterBits) -> Result<EncryptionHeader, ExtensionError> {
    let mut be = Be(data);
    let (Ok(at), Ok(len_bytes), true) = (be.u64(), be.u64(), be.is_empty()) else {
        return Err(ExtensionError::Encryption);
    };
    match HostOffset::checked(at) {
        Some(at) if cluster.is_aligned(at) && at.get() < HOST_END && len_bytes <= HOST_END => {
            Ok(EncryptionHeader { at, len_bytes })
        }
        _ => Err(ExtensionError::Encryption),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C16: ClusterBits = ClusterBits::DEFAULT;

    fn parse(bytes: &[u8]) -> Result<Extensions, ExtensionError> {
        Extensions::parse(bytes, true, C16, true)
    }

    fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        BeMut(&mut out).u32(kind).u32(u32::try_from(data.len()).unwrap()).bytes(data);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    #[test]
    fn unknown_extensions_come_back_in_their_order() {
        let area = [extension(7, b"seven"), extension(BACKING_FORMAT, b"raw"), extension(7, b""), vec![0; 8]]
            .concat();
        let extensions = parse(&area).unwrap();
        assert_eq!(extensions.backing_format(), Some(&b"raw"[..]));
        let mut out = Vec::new();
        extensions.encode(&mut out);
        assert_eq!(out, area);
    }

    #[test]
    fn the_area_may_end_without_an_end_mark_only_where_it_must_end() {
        let area = extension(7, b"12345678");
        assert!(parse(&area).is_ok());
        assert_eq!(Extensions::parse(&area, false, C16, true), Err(ExtensionError::Truncated));
        assert!(parse(&extension(7, b"123")[..11]).is_ok(), "padding may be cut off");
    }

    #[test]
    fn an_extension_longer_than_the_area_is_refused_with_its_numbers() {
        let mut area = extension(7, b"12345678");
        area[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let error = ExtensionError::TooLong { kind: 7, len_bytes: u32::MAX, room_bytes: 8 };
        assert_eq!(parse(&area), Err(error));
        area[4..8].copy_from_slice(&9u32.to_be_bytes());
        assert!(matches!(parse(&area), Err(ExtensionError::TooLong { len_bytes: 9, .. })));
    }

    #[test]
    fn a_known_extension_cannot_occur_twice() {
        let area = [extension(BACKING_FORMAT, b"raw"), extension(BACKING_FORMAT, b"qcow2")].concat();
        assert_eq!(parse(&area), Err(ExtensionError::Duplicate(BACKING_FORMAT)));
    }

    #[test]
    fn feature_names_survive_their_encoding() {
        let names = super::super::feature::standard_names();
        let extensions = Extensions::of_new_image(None, None, &names);
        assert_eq!(extensions.feature_names(), names);
        let mut out = Vec::new();
        extensions.encode(&mut out);
        assert_eq!(parse(&out).unwrap().feature_names(), names);
    }

    #[test]
    fn the_encryption_header_starts_a_cluster() {
        let pointer =
            |at: u64, len: u64| extension(ENCRYPTION, &[at.to_be_bytes(), len.to_be_bytes()].concat());
        let expected = EncryptionHeader { at: HostOffset::new(0x40000), len_bytes: 100 };
        assert_eq!(parse(&pointer(0x40000, 100)).unwrap().encryption(), Some(expected));
        for (at, len) in [(1, 100), (1 << 60, 100), (u64::MAX, 100), (0x40000, u64::MAX)] {
            assert_eq!(parse(&pointer(at, len)), Err(ExtensionError::Encryption));
        }
        assert_eq!(parse(&extension(ENCRYPTION, &[0; 8])), Err(ExtensionError::Encryption));
    }

    #[test]
    fn a_bitmaps_extension_that_is_not_valid_any_more_may_be_anything() {
        let area = extension(BITMAPS, b"junk");
        assert!(matches!(parse(&area), Err(ExtensionError::Bitmaps(_))));
        let kept = Extensions::parse(&area, true, C16, false).unwrap();
        assert_eq!(kept.bitmaps(), None);
        assert!(kept.has_bitmaps_extension());
    }
}
