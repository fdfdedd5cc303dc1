//! The header of a LUKS version 1 volume (spec: "LUKS On-Disk Format Specification" 1.2.3): what it says without a
//! password.
//! ```text
//!  0       6         8             40            72          104       108       112      132   164   168     208
//!  +-------+---------+-------------+-------------+-----------+---------+---------+--------+-----+-----+-------+------
//!  | magic | version | cipher name | cipher mode | hash name | payload | key len | digest | salt| iter| UUID  | slots
//!  +-------+---------+-------------+-------------+-----------+---------+---------+--------+-----+-----+-------+------
//!  names are padded with NULs; payload and key material are counted in sectors; 8 slots of 48 bytes end at byte 592
//! ```
//! Invariant: no number of the header is used for anything here but being told.
//! Not here: keys, ciphers, data.

use drystone_base::{Be, Truncated};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 592;

/// Spec "LUKS phdr": `magic`.
const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// Spec "LUKS phdr": key slots.
const SLOTS: usize = 8;
/// Spec "LUKS phdr": `active` of a slot that can be opened.
const SLOT_ENABLED: u32 = 0x00ac_71f3;
/// Offsets are counted in these.
const SECTOR_BYTES: u64 = 512;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name of the cipher, such as `aes`.
    pub cipher_name: String,
    /// Mode of the cipher and its initial values, such as `xts-plain64`.
    pub cipher_mode: String,
    /// Name of the hash, such as `sha256`.
    pub hash_name: String,
    /// Where the data starts, in bytes from the start of the volume.
    pub payload_at: u64,
    /// Bytes of the master key.
    pub key_bytes: u32,
    /// Iterations of the master key's digest.
    pub digest_iterations: u32,
    /// UUID of the volume.
    pub uuid: String,
    /// The key slots.
    pub slots: Vec<Slot>,
}

/// A key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// A password opens it.
    pub is_active: bool,
    /// Iterations of the password's hash.
    pub iterations: u32,
    /// Where its key material starts, in bytes from the start of the volume.
    pub material_at: u64,
    /// Into how many stripes its key is split.
    pub stripes: u32,
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LuksError {
    /// The volume is not LUKS.
    #[error("this is not a LUKS volume")]
    Magic,
    /// Another version than 1.
    #[error("version {0} of LUKS is not known")]
    Version(u16),
    /// The bytes end inside of the header.
    #[error("the LUKS header ends too early")]
    Truncated,
}

impl From<Truncated> for LuksError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl Header {
    /// Parses the first [`HEADER_BYTES`] bytes of a volume.
    ///
    /// # Errors
    /// [`LuksError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, LuksError> {
        let mut be = Be(bytes);
        if be.bytes()? != MAGIC {
            return Err(LuksError::Magic);
        }
        match be.u16()? {
            1 => {}
            version => return Err(LuksError::Version(version)),
        }
        let [cipher_name, cipher_mode, hash_name] =
            [text(&mut be, 32)?, text(&mut be, 32)?, text(&mut be, 32)?];
        let (payload, key_bytes) = (be.u32()?, be.u32()?);
        be.take(20 + 32)?; // the master key's digest and its salt
        let digest_iterations = be.u32()?;
        let uuid = text(&mut be, 40)?;
        let slots = (0..SLOTS).map(|_| Slot::parse(&mut be)).collect::<Result<_, _>>()?;
        let payload_at = u64::from(payload) * SECTOR_BYTES;
        Ok(Self {
            cipher_name,
            cipher_mode,
            hash_name,
            payload_at,
            key_bytes,
            digest_iterations,
            uuid,
            slots,
        })
    }

    /// Bits of the cipher's key: XTS has two.
    #[must_use]
    pub fn cipher_key_bits(&self) -> u32 {
        let keys = if self.chaining() == "xts" { 2 } else { 1 };
        self.key_bytes.saturating_mul(8) / keys
    }

    /// How blocks are chained: the cipher's mode up to the dash.
    #[must_use]
    pub fn chaining(&self) -> &str {
        self.cipher_mode.split('-').next().unwrap_or_default()
    }

    /// How initial values are made, and the hash that this needs, if it needs one: the mode behind the dash.
    #[must_use]
    pub fn initial_values(&self) -> (&str, Option<&str>) {
        let (_, generator) = self.cipher_mode.split_once('-').unwrap_or_default();
        match generator.split_once(':') {
            Some((name, hash)) => (name, Some(hash)),
            None => (generator, None),
        }
    }
}

impl Slot {
    fn parse(be: &mut Be<'_>) -> Result<Self, LuksError> {
        let (active, iterations) = (be.u32()?, be.u32()?);
        be.take(32)?; // salt
        let (material, stripes) = (be.u32()?, be.u32()?);
        let material_at = u64::from(material) * SECTOR_BYTES;
        Ok(Self { is_active: active == SLOT_ENABLED, iterations, material_at, stripes })
    }
}

/// A name that NULs fill up.
fn text(be: &mut Be<'_>, len_bytes: usize) -> Result<String, LuksError> {
    let bytes = be.take(len_bytes)?;
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with one slot in use.
    fn header() -> Vec<u8> {
        let padded = |text: &str, len| [text.as_bytes(), &vec![0; len - text.len()]].concat();
        let mut bytes = [&MAGIC[..], &[0, 1], &padded("aes", 32), &padded("cbc-essiv:sha256", 32)].concat();
        bytes.extend([padded("sha1", 32), vec![0, 0, 0x0f, 0xc8, 0, 0, 0, 32], vec![7; 52]].concat());
        bytes.extend([vec![0, 0, 1, 0], padded("0123", 40)].concat());
        for slot in 0..SLOTS {
            let active = if slot == 0 { SLOT_ENABLED } else { 0xdead };
            bytes.extend(
                [&active.to_be_bytes()[..], &[0, 0, 3, 0], &[9; 32], &[0, 0, 0, 8], &[0, 0, 15, 160]]
                    .concat(),
            );
        }
        bytes
    }

    #[test]
    fn a_header_tells_what_it_says() {
        let bytes = header();
        assert_eq!(bytes.len(), HEADER_BYTES);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(
            (header.cipher_name.as_str(), header.cipher_key_bits(), header.chaining()),
            ("aes", 256, "cbc")
        );
        assert_eq!(header.initial_values(), ("essiv", Some("sha256")));
        assert_eq!((header.hash_name.as_str(), header.uuid.as_str()), ("sha1", "0123"));
        assert_eq!((header.payload_at, header.digest_iterations), (4040 * 512, 256));
        let slot = Slot { is_active: true, iterations: 768, material_at: 4096, stripes: 4000 };
        assert_eq!(header.slots[0], slot);
        assert_eq!(header.slots.iter().filter(|slot| slot.is_active).count(), 1);
    }

    #[test]
    fn a_mode_with_two_keys_has_half_of_the_bits() {
        let mode =
            Header { cipher_mode: "xts-plain64".into(), key_bytes: 64, ..Header::parse(&header()).unwrap() };
        assert_eq!((mode.cipher_key_bits(), mode.initial_values()), (256, ("plain64", None)));
    }

    #[test]
    fn parse_rejects_every_truncation_and_other_versions() {
        let whole = header();
        for len in 0..whole.len() {
            assert!(Header::parse(&whole[..len]).is_err(), "len {len}");
        }
        let mut other = whole.clone();
        other[7] = 2;
        assert_eq!(Header::parse(&other), Err(LuksError::Version(2)));
        other[0] = 0;
        assert_eq!(Header::parse(&other), Err(LuksError::Magic));
    }
}
