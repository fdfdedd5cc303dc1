//! [`Content`]: what a write puts into its range.

use std::fmt;

use crate::disk::Image;
use crate::pattern::Stamp;

/// What a range of a disk holds, as a function of the offset.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// Zeroes.
    Zero,
    /// What the stamp holds at each offset.
    Stamp(Stamp),
    /// What the image holds at each offset.
    Image(Image),
    /// Anything at all.
    Any,
}

impl Content {
    /// Whether `bytes`, found at `at`, are this.
    #[must_use]
    pub fn is_at(&self, at: u64, bytes: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Zero => bytes.iter().all(|&byte| byte == 0),
            Self::Stamp(stamp) => stamp.bytes(at, bytes.len() as u64) == bytes,
            Self::Image(image) => image.bytes(at..at + bytes.len() as u64) == bytes,
        }
    }

    /// The bytes from `at` on, for writing them. Zeroes for [`Self::Any`].
    #[must_use]
    pub fn bytes(&self, at: u64, len: u64) -> Vec<u8> {
        match self {
            Self::Stamp(stamp) => stamp.bytes(at, len),
            Self::Image(image) => image.bytes(at..at + len),
            Self::Zero | Self::Any => vec![0; crate::index(len)],
        }
    }
}

impl From<Stamp> for Content {
    fn from(stamp: Stamp) -> Self {
        Self::Stamp(stamp)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("zeroes"),
            Self::Stamp(stamp) => write!(f, "{stamp:?}"),
            Self::Image(_) => f.write_str("the first contents"),
            Self::Any => f.write_str("anything"),
        }
    }
}
