//! The NBD server and the daemon on a seeded scheduler.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of the tests themselves"
)]

mod daemon;
mod mute;
mod nbd;
mod remote;
mod server;
