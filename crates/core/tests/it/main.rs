//! The core through its public interface, on the seeded scheduler.

mod admission;
mod alignment;
mod backend;
mod chain;
mod check;
mod drain;
mod fixture;
mod flush;
mod grace;
mod graph_change;
mod history;
mod lane;
mod observer;
mod opening;
mod permission;
mod range_lock;
mod scripted;
mod snapshot;
mod step_back;
mod world;
