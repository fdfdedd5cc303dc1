//! The simulated clock and its timers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::world::World;

/// Time at the start: small, so that a subtraction of some interval from "now" that forgets to saturate is found.
const START_NS: u64 = 1_000_000;

pub(super) struct Clock {
    now_ns: Cell<u64>,
    /// By due time, then by the order in which they were set.
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    timers_set: Cell<u64>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { now_ns: Cell::new(START_NS), timers: RefCell::default(), timers_set: Cell::new(0) }
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Lets `ns` pass and wakes who waited for that.
    pub(super) fn pass(&self, ns: u64) {
        self.now_ns.set(self.now_ns().saturating_add(ns));
        self.fire();
    }

    /// Jumps to the next timer; `false` if there is none.
    pub(super) fn jump(&self) -> bool {
        let next = self.timers.borrow().keys().next().copied();
        if let Some((due_ns, _)) = next {
            self.now_ns.set(self.now_ns().max(due_ns));
            self.fire();
        }
        next.is_some()
    }

    fn fire(&self) {
        let now_ns = self.now_ns();
        let due = {
            let mut timers = self.timers.borrow_mut();
            let later = timers.split_off(&(now_ns.saturating_add(1), 0));
            std::mem::replace(&mut *timers, later)
        };
        due.into_values().for_each(Waker::wake);
    }

    /// Forgets all timers.
    pub(super) fn clear(&self) {
        drop(self.timers.take());
    }
}

/// Resolves at a point in simulated time; never at `u64::MAX`. Dropping it takes its timer back.
pub(super) struct Sleep {
    world: Rc<World>,
    at_ns: u64,
    timer: Option<(u64, u64)>,
}

impl Sleep {
    pub(super) fn new(world: Rc<World>, at_ns: u64) -> Self {
        Self { world, at_ns, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let clock = &this.world.clock;
        if clock.now_ns() >= this.at_ns {
            return Poll::Ready(());
        }
        if this.at_ns == u64::MAX {
            return Poll::Pending;
        }
        let key = *this
            .timer
            .get_or_insert_with(|| (this.at_ns, clock.timers_set.replace(clock.timers_set.get() + 1)));
        clock.timers.borrow_mut().insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            self.world.clock.timers.borrow_mut().remove(&key);
        }
    }
}
