//! The drivers through a graph: what a user of a disk sees.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

mod fixture;
mod memory;
mod null;
