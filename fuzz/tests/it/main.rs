//! What was found before is not found again: every target, with its seeds, its corpus, past findings and new mutations; and
//! what others were attacked with.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

mod attack;
mod replay;
