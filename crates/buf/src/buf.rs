//! [`Buf`]: the exclusive right to a range of a counted block.
//!
//! ```text
//!  block   |----------------------------------|   one allocation, counted
//!  Buf a   |==========|                           split_off(n) ->
//!  Buf b              |=======================|   a and b may go to different devices at the same time
//! ```

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::block::Block;

/// An exclusive range of a counted block of memory. Not `Clone`: two owners never share a byte.
pub struct Buf {
    block: ManuallyDrop<Arc<Block>>,
    start: usize,
    len: usize,
}

impl Buf {
    /// `len_bytes` zero bytes in a block of their own.
    #[must_use]
    pub fn zeroed(len_bytes: usize) -> Self {
        Self::whole(Arc::new(Block::zeroed(len_bytes, None)), len_bytes)
    }

    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::zeroed(0)
    }

    /// A copy of `bytes` in a block of its own.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        buf
    }

    /// The first `len` bytes of a block that nobody else has a range of.
    pub(crate) fn whole(mut block: Arc<Block>, len: usize) -> Self {
        assert!(Arc::get_mut(&mut block).is_some(), "a block with living ranges was handed out again");
        assert!(len <= block.capacity());
        Self { block: ManuallyDrop::new(block), start: 0, len }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: start + len is inside the block (constructor, split), initialised (zeroed at birth), and no other
        // `Buf` covers these bytes, so nobody writes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.block.at(self.start).as_ptr(), self.len) }
    }

    /// The bytes, for writing.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and the exclusive borrow of the only range that covers them makes access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.block.at(self.start).as_ptr(), self.len) }
    }

    /// The address of the first byte, for handing the range to the kernel together with the `Buf` itself.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.block.at(self.start)
    }

    /// Whether the address of the first byte is a multiple of `align` (a power of two).
    #[must_use]
    pub fn is_aligned(&self, align: usize) -> bool {
        self.as_ptr().as_ptr().addr() & (align - 1) == 0
    }

    /// Keeps the first `at` bytes and returns the rest.
    ///
    /// # Panics
    /// If `at` exceeds the length.
    #[must_use = "the rest is freed if it is dropped"]
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len);
        let tail = Self {
            block: ManuallyDrop::new(Arc::clone(&self.block)),
            start: self.start + at,
            len: self.len - at,
        };
        self.len = at;
        tail
    }

    /// Joins `next` to the end again; gives it back if it does not follow `self` directly in the same block.
    pub fn rejoin(&mut self, next: Self) -> Result<(), Self> {
        if Arc::ptr_eq(&self.block, &next.block) && self.start + self.len == next.start {
            self.len += next.len;
            Ok(())
        } else {
            Err(next)
        }
    }

    /// Sets every byte to zero.
    pub fn fill_zero(&mut self) {
        self.as_mut_slice().fill(0);
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        // SAFETY: `block` is taken once, here; `self` is not used afterwards.
        let mut block = unsafe { ManuallyDrop::take(&mut self.block) };
        // The last range brings its block home. Two ranges dropped at once may both miss that; the block is then freed.
        if let Some(unshared) = Arc::get_mut(&mut block)
            && let Some(home) = unshared.home.as_ref().and_then(std::sync::Weak::upgrade)
        {
            home.put(block);
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ALIGN;

    #[test]
    fn split_ranges_are_disjoint_and_rejoin_in_order_only() {
        let mut a = Buf::copy_of(b"abcdef");
        let mut b = a.split_off(2);
        let c = b.split_off(2);
        a.as_mut_slice().fill(b'x');
        assert_eq!((b.as_slice(), c.as_slice()), (&b"cd"[..], &b"ef"[..]));
        let c = a.rejoin(c).unwrap_err();
        a.rejoin(b).unwrap();
        a.rejoin(c).unwrap();
        assert_eq!(a.as_slice(), b"xxcdef");
    }

    #[test]
    fn ranges_of_different_blocks_do_not_join() {
        let mut a = Buf::copy_of(b"a");
        assert!(a.rejoin(Buf::copy_of(b"b")).is_err());
    }

    #[test]
    fn every_block_starts_at_a_page() {
        assert!(Buf::zeroed(1).is_aligned(ALIGN));
        assert!(Buf::empty().is_empty());
    }

    #[test]
    fn a_range_can_move_to_another_thread() {
        let mut a = Buf::copy_of(b"ab");
        let mut b = a.split_off(1);
        let b = std::thread::spawn(move || {
            b.as_mut_slice().fill(b'z');
            b
        })
        .join()
        .unwrap();
        a.rejoin(b).unwrap();
        assert_eq!(a.as_slice(), b"az");
    }
}
