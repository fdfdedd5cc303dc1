//! The image tool and the server beside release 10.0 of the C tools, live: their images here, ours there.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "shared with the other test program, which uses the rest")]
mod common;

mod commands;
mod damage;
mod images;
mod lines;
mod random;
