//! [`Load`]: what the requests of one connection occupy, and the bound on it.

use std::cell::Cell;

/// What requests occupy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    requests: u32,
    bytes: u64,
}

/// How much one connection may occupy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that are running or whose replies were not sent yet.
    pub requests: u32,
    /// Bytes of their payloads and data. A single request may exceed it.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 128, bytes: 64 << 20 }
    }
}

impl Cost {
    pub(super) const NOTHING: Self = Self { requests: 0, bytes: 0 };

    /// Of one request that holds so much data.
    pub(super) const fn request(bytes: u64) -> Self {
        Self { requests: 1, bytes }
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, bytes: self.bytes + other.bytes }
    }
}

/// What is occupied now.
pub(super) struct Load {
    now: Cell<Cost>,
    limits: Limits,
}

impl Load {
    pub(super) const fn new(limits: Limits) -> Self {
        Self { now: Cell::new(Cost::NOTHING), limits }
    }

    /// Occupies `cost` if there is room for it, or if nothing is occupied.
    pub(super) fn try_add(&self, cost: Cost) -> bool {
        let after = self.now.get().and(cost);
        let fits = after.requests <= self.limits.requests && after.bytes <= self.limits.bytes;
        let is_taken = fits || self.is_zero();
        if is_taken {
            self.now.set(after);
        }
        is_taken
    }

    /// Gives back.
    pub(super) fn remove(&self, cost: Cost) {
        let now = self.now.get();
        assert!(
            now.requests >= cost.requests && now.bytes >= cost.bytes,
            "more is given back than was taken"
        );
        self.now.set(Cost { requests: now.requests - cost.requests, bytes: now.bytes - cost.bytes });
    }

    pub(super) fn is_zero(&self) -> bool {
        self.now.get().requests == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_a_huge_request_runs_alone() {
        let load = Load::new(Limits { requests: 2, bytes: 100 });
        assert!(load.try_add(Cost::request(1000)), "alone");
        assert!(!load.try_add(Cost::request(0)), "not beside it");
        load.remove(Cost::request(1000));
        assert!(load.try_add(Cost::request(60)) && !load.try_add(Cost::request(41)));
        assert!(load.try_add(Cost::request(40)) && !load.try_add(Cost::request(0)));
        load.remove(Cost::request(60).and(Cost::request(40)));
        assert!(load.is_zero());
    }
}
