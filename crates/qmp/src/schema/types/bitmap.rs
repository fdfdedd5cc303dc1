//! Commands on dirty bitmaps.

use super::export::BlockDirtyBitmapOrStr;

qapi_struct! {
    /// Arguments of `block-dirty-bitmap-add`.
    pub struct BlockDirtyBitmapAdd {
        node: String,
        name: String,
        /// Bytes per bit.
        granularity: Option<u32>,
        persistent: Option<bool>,
        /// It does not follow writes.
        disabled: Option<bool>,
    }
}

qapi_struct! {
    /// Arguments of `block-dirty-bitmap-merge`.
    pub struct BlockDirtyBitmapMerge {
        node: String,
        /// What is dirty in the others is dirty in this one, too.
        target: String,
        bitmaps: Vec<BlockDirtyBitmapOrStr>,
    }
}

qapi_struct! {
    /// What `x-debug-block-dirty-bitmap-sha256` returns.
    pub struct BlockDirtyBitmapSha256 { sha256: String }
}
