//! Dirty bitmaps: which parts of a disk were written since some moment.
//!
//! ```text
//!   write ends ──► Recorder: marks at the finest granularity that any recording bitmap has     (atomics, one for all bitmaps)
//!                     │ harvested when somebody looks
//!                     ▼
//!   segments   | 0 | 1 | 2 |        what was written between two moments at which bitmaps began or were looked at
//!                ▲       ▲
//!   bitmaps      a,b     c          each: its own bits, and the segment since which it records
//! ```
//! A write touches one structure, however many bitmaps record: the marks. A bitmap *is* its own bits and all segments since
//! it began; they are put together when it is looked at, and pieces of equal content are shared between bitmaps.
//!
//! | module | what |
//! |---|---|
//! | [`bits`], `leaf` | [`Bits`]: a sparse bitmap; cheap to copy, equal pieces are shared |
//! | `marks` | what I/O threads set, without a lock |
//! | `record` | the word of a node's observers, and marks by granularity |
//! | `segment` | what was harvested, and for whom it is kept |
//! | [`named`] | [`NodeBitmaps`]: the bitmaps of a node by name, and what may be done to them |
//! | [`action`] | what a plan does to bitmaps |
//! | [`stored`] | what drivers load and store |
//!
//! Invariants: a write that was acknowledged is in every bitmap that recorded when it ended; a bit is set too often rather
//! than not at all; a clean bitmap takes no memory that grows with the disk.
//! Does not know: where bitmaps are stored (drivers), what they are for (jobs, exports).

pub mod action;
pub mod bits;
mod leaf;
mod marks;
pub mod named;
pub(crate) mod record;
mod segment;
pub mod stored;

#[cfg(feature = "loom")]
pub(crate) use marks::Marks;

pub use bits::Bits;
pub use named::{BitmapInfo, NodeBitmaps};

use std::fmt;

/// Bytes of the disk per bit: a power of two, 512 bytes to 2 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granularity(u8);

impl Granularity {
    /// How many there are.
    pub(crate) const COUNT: usize = 23;
    const LOG2_MIN: u8 = 9;
    const LOG2_MAX: u8 = 31;

    /// The finest: 512 bytes.
    pub const FINEST: Self = Self(Self::LOG2_MIN);

    /// `1 << log2` bytes; `None` unless that is 512 bytes to 2 GiB.
    #[must_use]
    pub const fn from_log2(log2: u8) -> Option<Self> {
        if log2 >= Self::LOG2_MIN && log2 <= Self::LOG2_MAX { Some(Self(log2)) } else { None }
    }

    /// `bytes`; `None` unless that is a power of two, 512 bytes to 2 GiB.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if !bytes.is_power_of_two() {
            return None;
        }
        let mut log2 = Self::LOG2_MIN;
        while log2 <= Self::LOG2_MAX {
            if bytes == 1 << log2 {
                return Some(Self(log2));
            }
            log2 += 1;
        }
        None
    }

    /// The one that a bitmap gets if nobody says which: the clusters of its disk, if these are 4 KiB to 64 KiB.
    #[must_use]
    pub fn by_default(cluster_bytes: Option<u64>) -> Self {
        let bytes = cluster_bytes.map_or(64 << 10, |bytes| bytes.clamp(4 << 10, 64 << 10));
        Self::from_bytes(bytes).unwrap_or(Self(16))
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// As a power of two.
    #[must_use]
    pub const fn log2(self) -> u8 {
        self.0
    }

    /// Its number, counted from the finest.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0 - Self::LOG2_MIN)
    }

    /// The one with this number.
    pub(crate) fn from_index(index: usize) -> Option<Self> {
        u8::try_from(index).ok().and_then(|index| Self::from_log2(index.checked_add(Self::LOG2_MIN)?))
    }

    /// How many bits a disk of `len_bytes` needs.
    #[must_use]
    pub const fn bits_of(self, len_bytes: u64) -> u64 {
        len_bytes.div_ceil(self.bytes())
    }
}

impl fmt::Debug for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes())
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
