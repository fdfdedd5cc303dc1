//! [`Power`]: what simulated disks have in common when it fails.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use super::op::OpIndex;

/// The power supply of one or more disks; clones are the same supply. It counts their operations, and once it is off,
/// every operation of all of them fails.
#[derive(Debug, Clone, Default)]
pub struct Power(Arc<Supply>);

#[derive(Debug)]
struct Supply {
    ops_begun: AtomicU64,
    moment: AtomicU64,
    cut_at: AtomicU64,
    is_off: AtomicBool,
    /// Operations that wait to be released.
    waiters: Mutex<Vec<Waker>>,
}

impl Default for Supply {
    fn default() -> Self {
        Self {
            ops_begun: AtomicU64::new(0),
            moment: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            is_off: AtomicBool::new(false),
            waiters: Mutex::default(),
        }
    }
}

impl Power {
    /// A supply that is on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes off when operation number `op` has been submitted, which is then in flight and may have had any effect.
    pub fn cut_at(&self, op: OpIndex) {
        self.0.cut_at.store(op, Ordering::SeqCst);
    }

    /// Goes off now.
    pub fn cut(&self) {
        self.0.is_off.store(true, Ordering::SeqCst);
        let waiters = std::mem::take(&mut *self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner));
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Whether it is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.is_off.load(Ordering::SeqCst)
    }

    /// How many operations were submitted while it was on, over all disks.
    #[must_use]
    pub fn ops_begun(&self) -> u64 {
        self.0.ops_begun.load(Ordering::SeqCst)
    }

    /// Counts an operation; cuts if it is the one to cut at. `None` if the power was off before.
    pub(super) fn begin_op(&self) -> Option<OpIndex> {
        if self.is_off() {
            return None;
        }
        let op = self.0.ops_begun.fetch_add(1, Ordering::SeqCst);
        if op == self.0.cut_at.load(Ordering::SeqCst) {
            self.cut();
        }
        Some(op)
    }

    /// The number of this moment, later than all numbers before.
    pub(super) fn moment(&self) -> u64 {
        self.0.moment.fetch_add(1, Ordering::SeqCst)
    }

    /// Wakes `waker` when the power goes off.
    pub(super) fn wake_on_cut(&self, waker: &Waker) {
        self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner).push(waker.clone());
    }
}
