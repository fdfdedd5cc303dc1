//! One aligned allocation. All pointer arithmetic of the crate is here.
//!
//! Invariant: `ptr` is valid for `capacity` initialised bytes, aligned to [`crate::ALIGN`], until the block is dropped.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Weak;

use crate::ALIGN;
use crate::pool::Shelf;

pub(crate) struct Block {
    ptr: NonNull<u8>,
    capacity: usize,
    /// Where the block goes when its last range is dropped.
    pub(crate) home: Option<Weak<Shelf>>,
}

// SAFETY: a block is plain memory that it owns alone; who may touch which bytes is decided by `Buf`, which is exclusive.
unsafe impl Send for Block {}
// SAFETY: as above; a shared `Block` gives no access to its bytes by itself.
unsafe impl Sync for Block {}

impl Block {
    /// A block of at least `len_bytes` zero bytes (at least one page).
    pub(crate) fn zeroed(len_bytes: usize, home: Option<Weak<Shelf>>) -> Self {
        let layout = Self::layout(len_bytes.max(1));
        // SAFETY: the layout's size is not zero (rounded up from at least one byte).
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self { ptr, capacity: layout.size(), home }
    }

    fn layout(len_bytes: usize) -> Layout {
        let Ok(layout) = Layout::from_size_align(len_bytes, ALIGN) else {
            panic!("a buffer of {len_bytes} bytes exceeds the address space");
        };
        layout.pad_to_align()
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// A pointer to byte `start` of the block.
    ///
    /// # Panics
    /// If `start` is past the end.
    pub(crate) fn at(&self, start: usize) -> NonNull<u8> {
        assert!(start <= self.capacity);
        // SAFETY: `start` is inside or one past the end of the allocation.
        unsafe { self.ptr.add(start) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the layout of this very capacity (padding a padded size changes nothing).
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.capacity)) }
    }
}
