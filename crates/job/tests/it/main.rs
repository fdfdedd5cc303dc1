//! Jobs through the public interface, on simulated threads and disks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of the tests themselves"
)]

mod chain;
mod copy;
mod crash_points;
mod drain;
mod life;
mod real;
mod stream;
mod world;
