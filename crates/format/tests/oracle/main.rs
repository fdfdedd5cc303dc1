//! Comparison with the installed C tools. Built with the feature `oracle` only; needs `qemu-img` and `qemu-io`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

#[path = "../common/mod.rs"]
mod common;

#[path = "../it/driver/chain.rs"]
#[allow(dead_code, reason = "the other binary needs more of it")]
mod chain;
mod check;
mod create;
mod driver;
mod tools;
