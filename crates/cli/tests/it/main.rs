//! The command as its users see it: what it prints, how it ends, what it leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

#[path = "../common/mod.rs"]
mod common;

mod chains;
mod compressed;
mod convert;
mod daemon;
mod demo;
mod full;
mod golden;
mod graph;
mod hostile;
mod keys;
mod kill;
mod load;
mod matrix;
mod monitor;
mod nbd;
mod output;
mod serve;
mod snapshot;
mod stories;
mod storm;
