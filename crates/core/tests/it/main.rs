//! The core through its public interface, on the seeded scheduler.

mod fixture;
mod snapshot;
