//! [`Inbox`]: what other threads see of an I/O thread: its wake list, its bell, and finished blocking calls.
//!
//! The bell is an eventfd that the thread's engine watches while the thread sleeps. It is never read: the engines watch
//! for its edges, and its count does not overflow in the life of a machine.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use drystone_base::{Error, Result};
use drystone_core::runtime::Shard;
use rustix::event::{EventfdFlags, eventfd};

use crate::pool::Finished;
use crate::task::Task;
use crate::wake::WakeList;

/// States of a thread, as it is told.
const RUNNING: u8 = 0;
const STOPPED: u8 = 1;
const GIVING_UP: u8 = 2;

pub(crate) struct Inbox {
    pub(crate) shard: Shard,
    pub(crate) list: WakeList<Task>,
    pub(crate) bell: Bell,
    stop: AtomicU8,
    /// Blocking calls that have finished; whoever adds one wakes the thread's reaper.
    finished: Mutex<Vec<Finished>>,
}

impl Inbox {
    pub(crate) fn new(shard: Shard) -> Result<Self> {
        let stop = AtomicU8::new(RUNNING);
        Ok(Self { shard, list: WakeList::new(), bell: Bell::new()?, stop, finished: Mutex::new(Vec::new()) })
    }

    /// Tells the thread to end: once its tasks have ended, or after dropping them (`give_up`).
    pub(crate) fn stop(&self, give_up: bool) {
        self.stop.store(if give_up { GIVING_UP } else { STOPPED }, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) != RUNNING
    }

    pub(crate) fn gives_up(&self) -> bool {
        self.stop.load(Ordering::Acquire) == GIVING_UP
    }

    pub(crate) fn add_finished(&self, call: Finished) {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    /// Exchanges the finished calls for an empty vector, so that neither side allocates in steady state.
    pub(crate) fn swap_finished(&self, empty: &mut Vec<Finished>) {
        std::mem::swap(&mut *self.finished.lock().unwrap_or_else(PoisonError::into_inner), empty);
    }
}

/// Wakes a thread that sleeps in its engine.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    fn new() -> Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Self)
            .map_err(|errno| Error::os(errno.raw_os_error(), "make an eventfd"))
    }

    /// Never blocks. The only possible failure is a full counter, and then the bell has been rung 2^64 times.
    #[expect(clippy::host_endian_bytes, reason = "an eventfd is written in the machine's own order")]
    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
