//! What drivers that keep bitmaps in their images load and store.

use super::{Bits, Granularity};

/// A persistent bitmap, as a driver has read it or shall store it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBitmap {
    /// Its name.
    pub name: String,
    /// What is dirty; clean and without meaning if it is inconsistent.
    pub bits: Bits,
    /// It follows every write.
    pub recording: bool,
    /// It was not stored completely when the disk was last used, and cannot be trusted.
    pub inconsistent: bool,
}

/// What a plan does to persistent bitmaps of a node, as far as its driver has something to do for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredChange {
    /// There is one more: can it be stored?
    Add {
        /// Its name.
        name: String,
        /// Its granularity.
        granularity: Granularity,
    },
    /// It goes, from the image too.
    Remove {
        /// Its name.
        name: String,
    },
    /// What the image says of a bitmap is not true any more, until it is stored again.
    Change,
}
