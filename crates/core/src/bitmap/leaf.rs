//! [`Leaf`]: a piece of a bitmap, [`LEAF_BITS`] bits that are neither all clear nor all set.
//!
//! Pieces are shared between bitmaps and copied when one of them changes.
//! Not here: pieces that are all clear or all set, which have no words ([`super::bits`]).

use std::ops::Range;

/// Words of a piece.
pub(super) const LEAF_WORDS: usize = if cfg!(feature = "loom") { 2 } else { 512 };
/// Bits of a piece.
pub(super) const LEAF_BITS: u64 = LEAF_WORDS as u64 * WORD_BITS;
/// Bits of a word.
pub(super) const WORD_BITS: u64 = 64;

/// Words with a count.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    set: u64,
    words: [u64; LEAF_WORDS],
}

/// The number of the word that has `bit`, and its mask.
pub(super) fn word_of(bit: u64) -> (usize, u64) {
    (usize::try_from(bit / WORD_BITS).unwrap_or(usize::MAX), 1 << (bit % WORD_BITS))
}

/// The words that `bits` touches, each with the mask of those bits.
pub(super) fn masks(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let mut at = bits.start;
    std::iter::from_fn(move || {
        if at >= bits.end {
            return None;
        }
        let (index, low) = word_of(at);
        let word_end = (at / WORD_BITS + 1) * WORD_BITS;
        let end = word_end.min(bits.end);
        // From `low` up, without what is past the end.
        let mask = !(low - 1) & (u64::MAX >> (word_end - end));
        at = end;
        Some((index, mask))
    })
}

impl Leaf {
    pub(super) const CLEAR: Self = Self { set: 0, words: [0; LEAF_WORDS] };
    pub(super) const FULL: Self = Self { set: LEAF_BITS, words: [u64::MAX; LEAF_WORDS] };

    /// How many bits are set.
    pub(super) const fn set_count(&self) -> u64 {
        self.set
    }

    pub(super) const fn words(&self) -> &[u64; LEAF_WORDS] {
        &self.words
    }

    pub(super) fn get(&self, bit: u64) -> bool {
        let (index, mask) = word_of(bit);
        self.words.get(index).is_some_and(|word| word & mask != 0)
    }

    /// Sets or clears bits.
    pub(super) fn fill(&mut self, bits: Range<u64>, value: bool) {
        for (index, mask) in masks(bits) {
            let Some(word) = self.words.get(index) else { return };
            self.put(index, if value { word | mask } else { word & !mask });
        }
    }

    /// Replaces a word.
    pub(super) fn put(&mut self, index: usize, value: u64) {
        if let Some(word) = self.words.get_mut(index) {
            self.set = self.set - u64::from(word.count_ones()) + u64::from(value.count_ones());
            *word = value;
        }
    }

    /// Sets the bits of a word.
    pub(super) fn add(&mut self, index: usize, bits: u64) {
        if let Some(word) = self.words.get(index) {
            self.put(index, word | bits);
        }
    }

    /// Whether it has every bit of `other`.
    pub(super) fn holds(&self, other: &Self) -> bool {
        other.set <= self.set && self.words.iter().zip(&other.words).all(|(mine, theirs)| theirs & !mine == 0)
    }

    /// All bits of both.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = Self::CLEAR;
        for ((word, mine), theirs) in union.words.iter_mut().zip(&self.words).zip(&other.words) {
            *word = mine | theirs;
            union.set += u64::from(word.count_ones());
        }
        union
    }

    /// The first bit from `from` on that is `value`.
    pub(super) fn find(&self, from: u64, value: bool) -> Option<u64> {
        let flip = if value { 0 } else { u64::MAX };
        let (first, low) = word_of(from);
        let words = self.words.get(first..)?.iter().enumerate();
        for (step, word) in words {
            let seen = (word ^ flip) & if step == 0 { !(low - 1) } else { u64::MAX };
            if seen != 0 {
                let index = (first + step) as u64;
                return Some(index * WORD_BITS + u64::from(seen.trailing_zeros()));
            }
        }
        None
    }
}
