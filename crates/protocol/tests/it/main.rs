//! The drivers through a graph: what a user of a disk sees.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

mod fixture;
mod memory;
mod nbd;
mod null;

mod host;

mod file_create;
mod file_device;
mod file_direct;
mod file_lock;
mod file_mode;
mod file_space;
