//! Timers of one thread: who is to be woken when.
//!
//! Invariant: a sleeper has at most one entry; it is gone once it has fired or its future is dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::time::{ClockId, clock_gettime};

/// Monotonic time in nanoseconds; the same clock on all threads.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let [seconds, nanoseconds] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds * 1_000_000_000 + nanoseconds
}

#[derive(Default)]
pub(crate) struct Timers {
    /// By time, then by age.
    entries: BTreeMap<(u64, u64), Waker>,
    count: u64,
}

impl Timers {
    /// When the next timer fires.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.entries.first_key_value().map(|((at_ns, _), _)| *at_ns)
    }

    /// Wakes whoever waits for `now_ns` or earlier.
    pub(crate) fn fire(&mut self, now_ns: u64) {
        while let Some(entry) = self.entries.first_entry() {
            if entry.key().0 > now_ns {
                break;
            }
            entry.remove().wake();
        }
    }

    fn add(&mut self, at_ns: u64, waker: Waker) -> (u64, u64) {
        self.count += 1;
        self.entries.insert((at_ns, self.count), waker);
        (at_ns, self.count)
    }
}

/// Resolves at a time.
pub(crate) struct Sleep {
    timers: Rc<RefCell<Timers>>,
    at_ns: u64,
    entry: Option<(u64, u64)>,
}

impl Sleep {
    pub(crate) fn until(timers: &Rc<RefCell<Timers>>, at_ns: u64) -> Self {
        Self { timers: Rc::clone(timers), at_ns, entry: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now_ns() >= self.at_ns {
            return Poll::Ready(());
        }
        let sleep = &mut *self;
        let mut timers = sleep.timers.borrow_mut();
        match sleep.entry.and_then(|entry| timers.entries.get_mut(&entry)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => sleep.entry = Some(timers.add(sleep.at_ns, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(entry) = self.entry {
            let unused = self.timers.borrow_mut().entries.remove(&entry);
            drop(unused);
        }
    }
}
