//! [`Activity`]: what requests have done to one node since it was opened, whoever sent them.
//!
//! | counted | where |
//! |---|---|
//! | how far it was written | where a write comes by, on its way down |
//! | discards | where its own device was asked |
//!
//! Invariant: a write costs a look, and a store only if it goes further than all before it. Not here: what one user has
//! done ([`Statistics`](crate::backend::Statistics)).

use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::GuestRange;

/// What requests have done to a node since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// Where the furthest write or zeroing ended, in bytes from the start of the disk, also if it failed; 0 without any.
    pub written_end: u64,
    /// Discards that the node's own device has carried out, and their bytes.
    pub discards: (u64, u64),
    /// Discards that it has not: it failed, or does not know them.
    pub discards_failed: u64,
}

/// The counters of a node. On cache lines of their own: what else requests look at in a node hardly ever changes.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    written_end: AtomicU64,
    discards: AtomicU64,
    discarded_bytes: AtomicU64,
    discards_failed: AtomicU64,
}

impl Counters {
    /// A write or zeroing of `range` comes by.
    #[inline]
    pub(crate) fn write(&self, range: GuestRange) {
        let end = range.end().get();
        if self.written_end.load(Ordering::Relaxed) < end {
            self.written_end.fetch_max(end, Ordering::Relaxed);
        }
    }

    /// The node's device has answered a discard of `range`.
    pub(crate) fn discard(&self, range: GuestRange, ok: bool) {
        if ok {
            self.discards.fetch_add(1, Ordering::Relaxed);
            self.discarded_bytes.fetch_add(range.len(), Ordering::Relaxed);
        } else {
            self.discards_failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn now(&self) -> Activity {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Activity {
            written_end: get(&self.written_end),
            discards: (get(&self.discards), get(&self.discarded_bytes)),
            discards_failed: get(&self.discards_failed),
        }
    }
}
