//! Range locks: overlapping requests of one node, one after the other where a driver or the alignment demands it.
//!
//! First come, first served: a request also waits for earlier *waiters* that overlap it, so a wide one is not starved.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::GuestRange;

use crate::backend::Root;
use crate::request::io::Io;
use crate::waits::{Rank, Waiting};

/// Ranges that requests hold or wait for, oldest first: of one node's disk, or of whatever a driver numbers (tables,
/// slices of tables).
#[derive(Default)]
pub struct RangeLocks {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next_id: u64,
    entries: Vec<Entry>,
}

struct Entry {
    id: u64,
    range: GuestRange,
    held: bool,
    waker: Option<Waker>,
    root: Option<Arc<Root>>,
}

impl Entry {
    fn who(&self) -> String {
        self.root.as_ref().map_or_else(|| "a change".to_owned(), |root| root.name().to_owned())
    }
}

/// A held range. It lives no longer than the request that took it.
#[must_use = "the range is free again when the guard is dropped"]
pub struct RangeGuard<'t> {
    locks: &'t RangeLocks,
    id: u64,
    range: GuestRange,
}

impl RangeLocks {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Grants the range of entry `id` if nothing older overlaps it; else says who holds it up.
    fn try_hold(&mut self, id: u64) -> Result<(), String> {
        let Some(index) = self.entries.iter().position(|entry| entry.id == id) else {
            panic!("a range lock was released while it was waited for");
        };
        let (older, rest) = self.entries.split_at_mut(index);
        let Some(entry) = rest.first_mut() else { return Ok(()) };
        match older.iter().find(|other| other.range.overlaps(entry.range)) {
            Some(other) => Err(other.who()),
            None => {
                entry.held = true;
                Ok(())
            }
        }
    }
}

impl RangeLocks {
    /// Waits until nobody else holds a range that overlaps `range`, and holds it. `what` names the kind of thing in
    /// reports. The guard lives no longer than the request.
    pub async fn lock<'t>(&'t self, io: Io<'t>, range: GuestRange, what: &'static str) -> RangeGuard<'t> {
        let id = {
            let mut table = self.table();
            let id = table.next_id;
            table.next_id += 1;
            table.entries.push(Entry { id, range, held: false, waker: None, root: io.root().cloned() });
            id
        };
        // Dropped before the range is granted, the guard takes back the place in the queue.
        let guard = RangeGuard { locks: self, id, range };
        let mut waiting: Option<Waiting> = None;
        poll_fn(|cx| {
            let mut table = self.table();
            match table.try_hold(id) {
                Ok(()) => Poll::Ready(()),
                Err(holder) => {
                    if let Some(entry) = table.entries.iter_mut().find(|entry| entry.id == id) {
                        entry.waker = Some(cx.waker().clone());
                    }
                    drop(table);
                    waiting.get_or_insert_with(|| {
                        let what = format!("{what} {range} of node '{}'", io.node().name());
                        io.node().waits.begin((Rank::Gate, Rank::Resource), io.who(), what, holder)
                    });
                    Poll::Pending
                }
            }
        })
        .await;
        guard
    }

    /// Holds a range if nobody holds or waits for one that overlaps it.
    pub fn try_lock<'t>(&'t self, io: Io<'t>, range: GuestRange) -> Option<RangeGuard<'t>> {
        let mut table = self.table();
        if table.entries.iter().any(|entry| entry.range.overlaps(range)) {
            return None;
        }
        let id = table.next_id;
        table.next_id += 1;
        table.entries.push(Entry { id, range, held: true, waker: None, root: io.root().cloned() });
        Some(RangeGuard { locks: self, id, range })
    }

    fn release(&self, id: u64) {
        let wakers: Vec<Waker> = {
            let mut table = self.table();
            let Some(index) = table.entries.iter().position(|entry| entry.id == id) else { return };
            let gone = table.entries.remove(index);
            table
                .entries
                .iter_mut()
                .filter(|entry| !entry.held && entry.range.overlaps(gone.range))
                .filter_map(|entry| entry.waker.take())
                .collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

impl RangeGuard<'_> {
    /// The range that is held.
    #[must_use]
    pub fn range(&self) -> GuestRange {
        self.range
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        self.locks.release(self.id);
    }
}
