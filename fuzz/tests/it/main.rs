//! What was found before is not found again: every target, with its seeds, its corpus, past findings and new mutations.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

mod replay;
