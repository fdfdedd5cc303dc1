//! [`CountingAllocator`]: how often a thread asks for memory, and how much it holds, for tests that hold a path to a budget.
//!
//! ```
//! use drystone_testkit::allocations::{CountingAllocator, made_here};
//!
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator;
//!
//! let before = made_here();
//! let boxed = Box::new(7);
//! assert_eq!(made_here() - before, 1);
//! # drop(boxed);
//! ```
//! Each thread has a count of its own, so tests that run side by side do not disturb each other. Memory that grows or
//! moves (`realloc`) counts as asked for; memory given back does not count. What a thread holds is what it took and has not
//! given back; that is of use where whoever takes memory gives it back on the same thread.
#![expect(unsafe_code, reason = "the trait of allocators is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, and a count. For `#[global_allocator]` of a test binary.
pub struct CountingAllocator;

// A thread that is ending has no counts any more.

fn count() {
    let _ = MADE.try_with(|made| made.set(made.get() + 1));
}

fn hold(taken: usize, given_back: usize) {
    let by = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(by(taken)).saturating_sub(by(given_back)));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

/// What the calling thread holds, from here on.
#[derive(Debug)]
pub struct Holding(i64);

impl Holding {
    /// Begins to look. One at a time for each thread.
    #[must_use]
    pub fn begin() -> Self {
        let held = HELD.try_with(Cell::get).unwrap_or(0);
        let _ = PEAK.try_with(|peak| peak.set(held));
        Self(held)
    }

    /// The most bytes at once, beyond those that were held at the beginning.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        u64::try_from(PEAK.try_with(Cell::get).unwrap_or(0) - self.0).unwrap_or(0)
    }

    /// The bytes now, beyond those that were held at the beginning.
    #[must_use]
    pub fn left_bytes(&self) -> u64 {
        u64::try_from(HELD.try_with(Cell::get).unwrap_or(0) - self.0).unwrap_or(0)
    }
}

// SAFETY: every call goes to the system's allocator as it is. Counting allocates nothing: the thread's cell is constant
// at first and needs no destructor.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size(), 0);
        // SAFETY: the caller's promises are what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size(), 0);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len_new: usize) -> *mut u8 {
        count();
        hold(len_new, layout.size());
        // SAFETY: as in `alloc`; `at` came from here, and so from the system's allocator.
        unsafe { System.realloc(at, layout, len_new) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        hold(0, layout.size());
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

/// How often the calling thread has asked for memory so far. Always 0 unless the binary's allocator is
/// [`CountingAllocator`].
#[must_use]
pub fn made_here() -> u64 {
    MADE.try_with(Cell::get).unwrap_or(0)
}
