//! The daemon, on a thread of the test, as its clients see it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

#[path = "../common/mod.rs"]
mod common;

mod client;
mod monitors;
mod scripts;
