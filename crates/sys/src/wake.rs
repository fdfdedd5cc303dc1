//! The wake list: woken tasks on their way to the thread that runs them.
//!
//! ```text
//!   wake()  --push-->  head -> c -> b -> a          any thread; lock-free, never blocks, never allocates
//!   thread  --take-->  a, b, c                      the whole list at once, in the order of the wakes
//!
//!   head = null      nothing woken, the thread is awake
//!        = ASLEEP    nothing woken, the thread sleeps: the push that replaces this mark rings its bell, no other does
//!        = CLOSED    the thread has ended: a push gives its task up
//! ```
//! One word says both what is woken and whether the thread sleeps, so a wake-up cannot fall between the two.
//!
//! Invariants: an item is in the list at most once (its `queued` flag is won before the push); the list owns one count
//! of each item in it; items leave in the order in which they came. Not here: what an item is, and how a bell rings.

#[cfg(feature = "loom")]
use loom::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use std::ptr;
use std::sync::Arc;

/// What makes an item fit for a list.
pub(crate) struct Link<T> {
    next: AtomicPtr<T>,
    queued: AtomicBool,
}

/// An item of a list.
pub(crate) trait Linked: Sized {
    /// The item's own link, always the same one.
    fn link(&self) -> &Link<Self>;
}

/// The list of one thread.
pub(crate) struct WakeList<T: Linked> {
    head: AtomicPtr<T>,
}

/// Items taken from a list, oldest first. Owns them.
pub(crate) struct Batch<T: Linked> {
    first: *mut T,
}

/// What whoever pushed has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Nothing: the thread is awake, or was rung by somebody else, or the item was in the list already.
    Nothing,
    /// The thread sleeps, and this push is the one that must wake it.
    RingBell,
    /// The thread has ended; the item was not added.
    Ended,
}

fn asleep<T>() -> *mut T {
    ptr::without_provenance_mut(1)
}

fn closed<T>() -> *mut T {
    ptr::without_provenance_mut(2)
}

impl<T> Link<T> {
    pub(crate) fn new() -> Self {
        Self { next: AtomicPtr::new(ptr::null_mut()), queued: AtomicBool::new(false) }
    }

    /// Called before the item is run: a wake from now on queues it again. What was written before an earlier wake is
    /// visible afterwards, also if that wake found the item queued already.
    pub(crate) fn begin(&self) {
        self.queued.swap(false, Ordering::AcqRel);
    }

    /// Makes every later wake do nothing.
    pub(crate) fn retire(&self) {
        self.queued.store(true, Ordering::Release);
    }
}

impl<T: Linked> WakeList<T> {
    pub(crate) fn new() -> Self {
        // Two low bits of an address must be free for the marks.
        const { assert!(align_of::<T>() >= 4) };
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Queues `item` unless it is queued. Any thread.
    pub(crate) fn push(&self, item: &Arc<T>) -> Pushed {
        if item.link().queued.swap(true, Ordering::AcqRel) {
            return Pushed::Nothing;
        }
        let raw = Arc::into_raw(Arc::clone(item)).cast_mut();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head == closed() {
                // SAFETY: `raw` comes from `into_raw` above and was not published.
                drop(unsafe { Arc::from_raw(raw) });
                return Pushed::Ended;
            }
            let was_asleep = head == asleep();
            let next = if was_asleep { ptr::null_mut() } else { head };
            item.link().next.store(next, Ordering::Relaxed);
            match self.head.compare_exchange_weak(head, raw, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if was_asleep => return Pushed::RingBell,
                Ok(_) => return Pushed::Nothing,
                Err(now) => head = now,
            }
        }
    }

    /// Takes everything. The thread that owns the list only; it is awake from now on.
    pub(crate) fn take(&self) -> Batch<T> {
        let head = self.head.swap(ptr::null_mut(), Ordering::AcqRel);
        if head == asleep() || head == closed() { Batch::empty() } else { Batch::reversed(head) }
    }

    /// Whether nothing is queued at this moment.
    pub(crate) fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        head.is_null() || head == asleep()
    }

    /// Marks the thread as asleep if nothing is queued. The owner only; `false` means: do not sleep.
    pub(crate) fn try_sleep(&self) -> bool {
        self.head.compare_exchange(ptr::null_mut(), asleep(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes the mark away again, if nobody has. The owner only, once it is awake: its own wakes must not ring its bell.
    pub(crate) fn wake_up(&self) {
        // A failure means that somebody has pushed, and has taken the mark away with that.
        let _ = self.head.compare_exchange(asleep(), ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Ends the list and returns what was in it. The owner only.
    pub(crate) fn close(&self) -> Batch<T> {
        let head = self.head.swap(closed(), Ordering::AcqRel);
        if head == asleep() || head == closed() { Batch::empty() } else { Batch::reversed(head) }
    }
}

impl<T: Linked> Drop for WakeList<T> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl<T: Linked> Batch<T> {
    pub(crate) fn empty() -> Self {
        Self { first: ptr::null_mut() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Turns a taken list round: it was newest first.
    fn reversed(mut head: *mut T) -> Self {
        let mut first = ptr::null_mut();
        while !head.is_null() {
            // SAFETY: the list owned a count of each item in it, and the batch has taken them all over.
            let link = unsafe { (*head).link() };
            let next = link.next.load(Ordering::Relaxed);
            link.next.store(first, Ordering::Relaxed);
            first = head;
            head = next;
        }
        Self { first }
    }
}

impl<T: Linked> Iterator for Batch<T> {
    type Item = Arc<T>;

    fn next(&mut self) -> Option<Arc<T>> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: the batch owns a count of each item in it; the item leaves the batch here, so it is given up once.
        let item = unsafe { Arc::from_raw(self.first) };
        self.first = item.link().next.load(Ordering::Relaxed);
        Some(item)
    }
}

impl<T: Linked> Drop for Batch<T> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

// SAFETY: a batch owns counts of items that may be shared between threads, like a `Vec<Arc<T>>`.
unsafe impl<T: Linked + Send + Sync> Send for Batch<T> {}
