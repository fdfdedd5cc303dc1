//! [`GuestRegion`] and [`GuestSlice`]: memory that somebody else writes while we look at it.
//!
//! ```text
//!  region  |--------------------------------------------|   shared with a guest; counted; unmapped with its last slice
//!  slice        |===============|                           a range: copied out of and into, never lent as `&[u8]`
//!  words   |.......|.......|.......|.......|.......|.....   head and tail are parts of a word, the middle is whole words
//! ```
//! A guest (or a kernel on its behalf) may change any byte at any moment. So there is no `&[u8]`, which promises that the
//! bytes stay as they are, and no `&mut [u8]`, which promises that nobody else looks: there is only copying, and what was
//! copied out is ours and stays. Whoever needs the same bytes twice (a checksum and the write itself, two mirrors) copies
//! once and uses the copy.
//!
//! Every access is a relaxed atomic access of one whole aligned word: none is repeated, invented or torn below eight bytes,
//! and threads of our own that copy to overlapping ranges (a guest may ask for that) race without undefined behaviour.
//! A part of a word is stored by exchanging the word, so the bytes beside it are not written back stale.
//!
//! Not here: ordering between data and whatever says that the data is there (a ring's index): the owner of that index
//! fences. Nor the mapping of guest addresses to regions.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::Block;

#[cfg(test)]
mod tests;

/// Bytes of one access.
const WORD: usize = size_of::<AtomicU64>();

/// A range of memory that is shared with a guest. Clones are the same memory; it stays mapped until the last clone and the
/// last slice are gone.
#[derive(Clone)]
pub struct GuestRegion(Arc<Region>);

struct Region {
    words: NonNull<AtomicU64>,
    /// At most the bytes of the words.
    len_bytes: usize,
    /// Keeps the memory mapped.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: the memory is reached through atomics only and stays valid whichever thread holds the region; the owner is Send.
unsafe impl Send for Region {}
// SAFETY: as above; shared access is atomic, and the owner is Sync.
unsafe impl Sync for Region {}

impl Region {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `from_raw`'s contract: aligned, initialised, valid while the owner lives (it lives as long as `self`),
        // and accessed by this process through atomics only. `AtomicU64` allows for changes by others.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len_bytes.div_ceil(WORD)) }
    }
}

impl GuestRegion {
    /// `len_bytes` zero bytes of this process, for a guest that is a part of it.
    #[must_use]
    pub fn zeroed(len_bytes: usize) -> Self {
        let block = Block::zeroed(len_bytes, None);
        let (ptr, owner) = (block.at(0), Box::new(block));
        // SAFETY: a block is page-aligned and its capacity is a multiple of a page, so whole words cover `len_bytes`; it is
        // initialised, lives in the owner, and nobody else has a range of it.
        unsafe { Self::cover(ptr, len_bytes, owner) }
    }

    /// The `len_bytes` bytes at `ptr`, which stay valid for as long as `owner` (a mapping, say) is not dropped.
    ///
    /// # Panics
    /// If `ptr` or `len_bytes` is not a multiple of eight. Mappings consist of whole pages.
    ///
    /// # Safety
    /// Until `owner` is dropped, the bytes are readable and writable, and this process accesses them through the returned
    /// region, its clones and its slices only. Guests and kernels may access them in any way at any time.
    #[must_use]
    pub unsafe fn from_raw(ptr: NonNull<u8>, len_bytes: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        assert!(len_bytes.is_multiple_of(WORD), "guest memory is mapped in whole words");
        // SAFETY: the caller's promise; whole words are exactly `len_bytes`.
        unsafe { Self::cover(ptr, len_bytes, owner) }
    }

    /// # Safety
    /// As [`Self::from_raw`], for the bytes of every word that `len_bytes` bytes at `ptr` touch.
    unsafe fn cover(ptr: NonNull<u8>, len_bytes: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        let words = ptr.cast::<AtomicU64>();
        assert!(words.is_aligned(), "guest memory begins at a word");
        Self(Arc::new(Region { words, len_bytes, _owner: owner }))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len_bytes
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `len_bytes` bytes from `start` on; `None` if they are not all in the region. Guests choose both numbers.
    #[must_use]
    pub fn slice(&self, start: usize, len_bytes: usize) -> Option<GuestSlice> {
        let end = start.checked_add(len_bytes)?;
        (end <= self.len()).then(|| GuestSlice { region: Arc::clone(&self.0), start, len_bytes })
    }
}

/// A range of guest memory. Clones are the same bytes: nobody has them for himself.
///
/// Bytes are copied in and out. What a copy finds of a range that is being written is any mix of old and new words.
#[derive(Clone)]
pub struct GuestSlice {
    region: Arc<Region>,
    start: usize,
    len_bytes: usize,
}

/// The words of a slice: a part of one, whole ones, a part of one.
struct Words<'m> {
    head: Option<Part<'m>>,
    middle: &'m [AtomicU64],
    tail: Option<Part<'m>>,
}

/// Bytes `from .. to` of a word.
struct Part<'m> {
    word: &'m AtomicU64,
    from: usize,
    to: usize,
}

impl GuestSlice {
    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len_bytes
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// The `len_bytes` bytes from `start` of this slice on; `None` if they are not all in it.
    #[must_use]
    pub fn slice(&self, start: usize, len_bytes: usize) -> Option<Self> {
        let end = start.checked_add(len_bytes)?;
        (end <= self.len_bytes).then(|| Self {
            region: Arc::clone(&self.region),
            start: self.start + start,
            len_bytes,
        })
    }

    /// Copies the bytes out.
    ///
    /// # Panics
    /// If `out` is not as long as the slice.
    pub fn copy_to(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.len_bytes, "a copy out of guest memory is as long as its source");
        let words = self.words();
        let (head, rest) = out.split_at_mut(words.head.as_ref().map_or(0, Part::len));
        let (middle, tail) = rest.split_at_mut(words.middle.len() * WORD);
        if let Some(part) = words.head {
            part.load(head);
        }
        for (word, bytes) in words.middle.iter().zip(middle.as_chunks_mut().0) {
            *bytes = in_memory(word.load(Ordering::Relaxed));
        }
        if let Some(part) = words.tail {
            part.load(tail);
        }
    }

    /// Copies `bytes` in.
    ///
    /// # Panics
    /// If `bytes` is not as long as the slice.
    pub fn copy_from(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len_bytes, "a copy into guest memory is as long as its target");
        let words = self.words();
        let (head, rest) = bytes.split_at(words.head.as_ref().map_or(0, Part::len));
        let (middle, tail) = rest.split_at(words.middle.len() * WORD);
        if let Some(part) = words.head {
            part.store(head);
        }
        for (word, bytes) in words.middle.iter().zip(middle.as_chunks().0) {
            word.store(from_memory(*bytes), Ordering::Relaxed);
        }
        if let Some(part) = words.tail {
            part.store(tail);
        }
    }

    /// Sets every byte to zero.
    pub fn fill_zero(&self) {
        let words = self.words();
        for word in words.middle {
            word.store(0, Ordering::Relaxed);
        }
        for part in words.head.into_iter().chain(words.tail) {
            part.change(|bytes| bytes.fill(0));
        }
    }

    fn words(&self) -> Words<'_> {
        let end = self.start + self.len_bytes;
        let all = self.region.words();
        let (first, first_whole, last_whole) = (self.start / WORD, self.start.div_ceil(WORD), end / WORD);
        let part = |index: usize, from: usize, to: usize| {
            let word = all.get(index).filter(|_| from < to)?;
            Some(Part { word, from, to })
        };
        let from = self.start % WORD;
        if first_whole > last_whole {
            // Inside one word.
            return Words { head: part(first, from, end % WORD), middle: &[], tail: None };
        }
        let head_end = if from == 0 { 0 } else { WORD };
        Words {
            head: part(first, from, head_end),
            middle: all.get(first_whole..last_whole).unwrap_or_default(),
            tail: part(last_whole, 0, end % WORD),
        }
    }
}

impl Part<'_> {
    const fn len(&self) -> usize {
        self.to - self.from
    }

    fn load(&self, out: &mut [u8]) {
        let word = in_memory(self.word.load(Ordering::Relaxed));
        out.copy_from_slice(word.get(self.from..self.to).unwrap_or_default());
    }

    fn store(&self, bytes: &[u8]) {
        self.change(|part| part.copy_from_slice(bytes));
    }

    fn change(&self, change: impl Fn(&mut [u8])) {
        let mut known = self.word.load(Ordering::Relaxed);
        loop {
            let mut word = in_memory(known);
            change(word.get_mut(self.from..self.to).unwrap_or_default());
            let exchange = self.word.compare_exchange_weak(
                known,
                from_memory(word),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match exchange {
                Ok(_) => return,
                // Somebody wrote beside us, or to the same bytes: again, on top of what is there now.
                Err(found) => known = found,
            }
        }
    }
}

#[expect(clippy::host_endian_bytes, reason = "the order of the bytes in memory is what is meant")]
const fn in_memory(word: u64) -> [u8; WORD] {
    word.to_ne_bytes()
}

#[expect(clippy::host_endian_bytes, reason = "the order of the bytes in memory is what is meant")]
const fn from_memory(bytes: [u8; WORD]) -> u64 {
    u64::from_ne_bytes(bytes)
}

impl fmt::Debug for GuestRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestRegion({} bytes)", self.len())
    }
}

impl fmt::Debug for GuestSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestSlice({}+{})", self.start, self.len_bytes)
    }
}
