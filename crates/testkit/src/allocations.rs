//! [`CountingAllocator`]: how often a thread asks for memory, for tests that hold a path to a budget.
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
//! moves (`realloc`) counts as asked for; memory given back does not count.
#![expect(unsafe_code, reason = "the trait of allocators is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and a count. For `#[global_allocator]` of a test binary.
pub struct CountingAllocator;

fn count() {
    // A thread that is ending has no count any more.
    let _ = MADE.try_with(|made| made.set(made.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it is. Counting allocates nothing: the thread's cell is constant
// at first and needs no destructor.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len_new: usize) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`; `at` came from here, and so from the system's allocator.
        unsafe { System.realloc(at, layout, len_new) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
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
