//! The NBD server with real I/O threads and sockets: clients of other people, and clients that misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of the tests themselves"
)]

mod client;
mod daemon;
mod disk;

mod handshake;
mod lifecycle;
mod request;
mod stall;
mod tool;
