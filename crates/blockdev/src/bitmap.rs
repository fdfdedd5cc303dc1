//! Dirty bitmaps as users ask for them.

use drystone_base::{Error, Kind, Result};
use drystone_core::bitmap::{Bits, Granularity};
use drystone_core::graph::node::Node;
use drystone_format::qcow2::driver::Qcow2;
use sha2::{Digest as _, Sha256};

/// The granularity of a new bitmap: as asked for, in bytes, or the length of a cluster of the image.
///
/// # Errors
/// [`Kind::InvalidInput`] unless it is a power of two from 512 bytes to 2 GiB.
pub fn granularity(node: &Node, bytes: Option<u64>) -> Result<Granularity> {
    let Some(bytes) = bytes else {
        let image = node.driver_as::<Qcow2>();
        return Ok(Granularity::by_default(image.map(|image| image.header_now().cluster().bytes())));
    };
    Granularity::from_bytes(bytes).ok_or_else(|| {
        let text = format!("{bytes} is no power of two from 512 to {}", 2_u64 << 30);
        Error::new(Kind::InvalidInput, text).in_option("granularity")
    })
}

/// Pieces in which a bitmap is looked at.
const PIECE_BYTES: usize = 64 << 10;

/// The checksum of a bitmap, in hexadecimal digits: of its bits as they are stored, filled up with zeroes to words of 8 bytes.
#[must_use]
pub fn sha256(bits: &Bits) -> String {
    let len = bits.stored_len().next_multiple_of(8).max(8);
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let piece = piece.get_mut(..count).unwrap_or_default();
        bits.store(at, piece);
        hash.update(piece);
        at += count as u64;
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
