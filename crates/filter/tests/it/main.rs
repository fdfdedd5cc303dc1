//! Filters through the public interface, on simulated threads and disks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of the tests themselves"
)]

mod blkdebug;
mod chain;
mod copy_on_read;
