//! Tests through the public interface, with images that the C tools made.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

#[path = "../common/mod.rs"]
mod common;

mod driver;
mod golden;
mod hostile;
mod raw;
