//! The core through its public interface, on the seeded scheduler.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of the tests themselves"
)]

mod activity;
mod admission;
mod alignment;
mod backend;
mod bitmap;
mod chain;
mod check;
mod compressed;
mod demand;
mod drain;
mod fixture;
mod flush;
mod grace;
mod graph_change;
mod history;
mod job;
mod lane;
mod observer;
mod offload;
mod opening;
mod own_wait;
mod permission;
mod policy;
mod range_lock;
mod scale;
mod scripted;
mod snapshot;
mod step_back;
mod turmoil;
mod world;
