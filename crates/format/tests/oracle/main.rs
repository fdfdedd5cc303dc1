//! Comparison with the installed C tools. Built with the feature `oracle` only; needs `qemu-img` and `qemu-io`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

#[path = "../common/mod.rs"]
mod common;

mod backing;
#[path = "../it/driver/chain.rs"]
#[allow(dead_code, reason = "the other binary needs more of it")]
mod chain;
#[path = "../it/driver/changes.rs"]
mod changes;
mod check;
mod create;
mod cut;
mod driver;
#[path = "../it/driver/kind.rs"]
#[allow(dead_code, reason = "the other binary needs more of it")]
mod kind;
mod repair;
#[path = "../it/driver/script.rs"]
#[allow(dead_code, reason = "the other binary needs more of it")]
mod script;
#[path = "../it/driver/scripted.rs"]
#[allow(dead_code, reason = "the other binary needs more of it")]
mod scripted;
#[path = "../it/driver/snapshot.rs"]
#[allow(dead_code, reason = "the other binary needs more of it")]
mod snapshot;
#[path = "../it/driver/state.rs"]
#[allow(dead_code, reason = "the other binary needs more of it")]
mod state;
mod subclusters;
mod tools;
#[path = "../it/driver/tracked.rs"]
#[allow(dead_code, reason = "the other binary needs more of it")]
mod tracked;
