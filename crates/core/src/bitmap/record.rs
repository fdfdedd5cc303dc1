//! [`Recorder`]: the word of a node's observers, and the marks of its bitmaps.
//!
//! ```text
//!   word:  | listeners (upper bits) | granularities that are marked (23 bits) |      0: a request has nobody to tell
//! ```
//! Usually one granularity is marked: the finest that any recording bitmap has. Coarser bitmaps are derived from it. While
//! bitmaps come and go, a late write may mark at the one that was finest before: that is harvested, too.

use std::sync::OnceLock;

use drystone_base::GuestRange;

use super::marks::Marks;
use super::{Bits, Granularity};
use crate::sync::{AtomicU32, Ordering};

const MARKED: u32 = (1 << Granularity::COUNT) - 1;
const LISTENER: u32 = MARKED + 1;

/// What requests look at, and set.
pub(crate) struct Recorder {
    word: AtomicU32,
    marks: [OnceLock<Box<Marks>>; Granularity::COUNT],
}

impl Default for Recorder {
    fn default() -> Self {
        Self { word: AtomicU32::new(0), marks: std::array::from_fn(|_| OnceLock::new()) }
    }
}

impl Recorder {
    /// Whether anybody has to be told of a write.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.word.load(Ordering::Acquire) != 0
    }

    pub(crate) fn add_listener(&self) {
        self.word.fetch_add(LISTENER, Ordering::AcqRel);
    }

    pub(crate) fn remove_listener(&self) {
        self.word.fetch_sub(LISTENER, Ordering::AcqRel);
    }

    /// Marks `range`. Whether there are listeners, too.
    #[inline]
    pub(crate) fn mark(&self, range: GuestRange) -> bool {
        let word = self.word.load(Ordering::Acquire);
        let mut marked = word & MARKED;
        while marked != 0 {
            let index = usize::try_from(marked.trailing_zeros()).unwrap_or(usize::MAX);
            marked &= marked - 1;
            if let Some(marks) = self.marks.get(index).and_then(OnceLock::get) {
                marks.mark(range);
            }
        }
        word >= LISTENER
    }

    /// Marks at `finest` from now on, or not at all. One caller at a time.
    pub(super) fn aim(&self, finest: Option<Granularity>) {
        let mut bit = 0;
        if let Some(granularity) = finest
            && let Some(marks) = self.marks.get(granularity.index())
        {
            marks.get_or_init(|| Box::new(Marks::new(granularity)));
            bit = 1 << granularity.index();
        }
        // First the new one too, then without the old one: no write in between is missed.
        self.word.fetch_or(bit, Ordering::AcqRel);
        self.word.fetch_and(!MARKED | bit, Ordering::AcqRel);
    }

    /// What was marked since the last call, by granularity; only what is not clean. One caller at a time.
    pub(super) fn harvest(&self, len_bytes: u64) -> Vec<Bits> {
        let mut found = Vec::new();
        for (index, marks) in self.marks.iter().enumerate() {
            let Some((marks, granularity)) = marks.get().zip(Granularity::from_index(index)) else {
                continue;
            };
            let mut bits = Bits::new(granularity, len_bytes);
            marks.harvest(&mut bits);
            if !bits.is_clean() {
                found.push(bits);
            }
        }
        found
    }
}
