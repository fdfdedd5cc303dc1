//! What is waiting for what: so that a stuck run prints its cycle instead of nothing.
//!
//! Ranks forbid cycles: **job < control task < right to change < gate < resources of a ticket < device**. Whoever holds something of a
//! rank waits only for something of a higher one. The types make most violations impossible; [`Waits::begin`] asserts the
//! rest where a wait begins, which is never on the fast path.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// What kind of thing is held or waited for, in the order in which they may be acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Nothing is held.
    Nothing,
    /// A job, or a group of jobs.
    Job,
    /// A control task: callers wait for its answer, and it waits for everything below.
    Task,
    /// The right to change a set of nodes.
    Change,
    /// A place at a gate; a drain holds gates closed.
    Gate,
    /// A range lock, a cache entry, a cluster allocation: what requests that are inside wait for.
    Resource,
    /// A device.
    Device,
}

/// Everything that waits in one graph. Any thread.
#[derive(Default)]
pub struct Waits {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    next: u64,
    waits: BTreeMap<u64, Wait>,
}

struct Wait {
    rank: Rank,
    waiter: String,
    what: String,
    holder: String,
}

/// A registered wait; dropping it ends the registration.
pub struct Waiting {
    id: u64,
    waits: Arc<Waits>,
}

impl Waits {
    /// Registers that `waiter`, which holds something of rank `holding`, waits for `what`, which `holder` has.
    ///
    /// # Panics
    /// If `rank` is not above `holding`: such a wait can be part of a cycle.
    pub fn begin(
        self: &Arc<Self>,
        ranks: (Rank, Rank),
        waiter: &str,
        what: String,
        holder: String,
    ) -> Waiting {
        let (holding, rank) = ranks;
        assert!(
            rank > holding || (rank, holding) == (Rank::Resource, Rank::Resource),
            "'{waiter}' holds {holding:?} and waits for {what} ({rank:?}): ranks only go up"
        );
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let id = list.next;
        list.next += 1;
        list.waits.insert(id, Wait { rank, waiter: waiter.to_owned(), what, holder });
        Waiting { id, waits: Arc::clone(self) }
    }

    /// One line per wait: who waits for what, and who holds it. Empty when nobody waits.
    #[must_use]
    pub fn report(&self) -> String {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for Wait { rank, waiter, what, holder } in list.waits.values() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{waiter} waits for {what} ({rank:?}), held by {holder}");
        }
        text
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waits.list.lock().unwrap_or_else(PoisonError::into_inner).waits.remove(&self.id);
    }
}
