//! The core through its public interface, on the seeded scheduler.

mod alignment;
mod backend;
mod chain;
mod drain;
mod fixture;
mod graph_change;
mod history;
mod scripted;
mod snapshot;
mod world;
