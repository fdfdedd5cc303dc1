//! The core through its public interface, on the seeded scheduler.

mod drained;
mod dropped_plans;
mod fixture;
mod snapshot;
