//! The parts of the test kit against each other.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of the tests themselves"
)]

mod agreement;
mod graph;
mod overlay;
