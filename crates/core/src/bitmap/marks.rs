//! [`Marks`]: what I/O threads set at the end of their writes, all at once and without a lock.
//!
//! ```text
//!   root h covers the pieces whose numbers have h digits (base 64), so that small disks have short ways
//!
//!   root ─► table { touched, 64 slots } ─► ... ─► leaf { touched, words }
//!
//!   mark      word, then `touched` of the leaf, of its table, of the table above, ...: upwards
//!   harvest   `touched` of the root, then of the tables below, of leaves, then words:  downwards, leaving zeroes
//! ```
//! Invariant: a mark that was made before a harvest began is in it, or in an earlier one. A mark that finds its bit set goes
//! all the way up like the one that set it: that one may not have come so far yet. Whoever clears a `touched` takes what is
//! below; so whoever finds it set, from below to the top, knows that nobody has passed by since.
//! Tables and leaves stay until the marks go. Ranges of whole leaves are kept apart, behind a lock: they are very long.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use drystone_base::GuestRange;

use super::bits::{Bits, by_piece};
use super::leaf::{LEAF_BITS, LEAF_WORDS, masks};
use crate::bitmap::Granularity;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// Bits of a piece's number that one table decides.
const DIGIT_BITS: u32 = if cfg!(feature = "loom") { 1 } else { 6 };
/// Slots of a table.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Digits of the largest number of a piece: 2^54 bits of the largest disk.
const DIGITS_MAX: usize = 7;
/// Words of a leaf that one bit of its `touched` stands for.
const WORDS_PER_TOUCH: usize = LEAF_WORDS.div_ceil(64);

/// Bits that many threads set.
pub(crate) struct Marks {
    granularity: Granularity,
    roots: [OnceLock<Box<Table>>; DIGITS_MAX],
    /// Runs of whole pieces, from the first to the end.
    runs: Mutex<BTreeMap<u64, u64>>,
}

struct Table {
    touched: AtomicU64,
    slots: Box<[OnceLock<Below>]>,
}

enum Below {
    Table(Box<Table>),
    Leaf(Box<MarkLeaf>),
}

struct MarkLeaf {
    touched: AtomicU64,
    words: Box<[AtomicU64]>,
}

impl Table {
    fn new() -> Box<Self> {
        Box::new(Self {
            touched: AtomicU64::new(0),
            slots: std::iter::repeat_with(OnceLock::new).take(SLOTS).collect(),
        })
    }

    /// What is in a slot, made if it is not there: a leaf at the last digit.
    fn below(&self, slot: usize, is_last: bool) -> Option<&Below> {
        let make = || match is_last {
            true => Below::Leaf(MarkLeaf::new()),
            false => Below::Table(Self::new()),
        };
        Some(self.slots.get(slot)?.get_or_init(make))
    }
}

impl MarkLeaf {
    fn new() -> Box<Self> {
        let words = std::iter::repeat_with(|| AtomicU64::new(0)).take(LEAF_WORDS).collect();
        Box::new(Self { touched: AtomicU64::new(0), words })
    }

    fn mark(&self, bits: Range<u64>) {
        let mut touched = 0;
        for (index, mask) in masks(bits) {
            if let Some(word) = self.words.get(index) {
                raise(word, mask);
                touched |= 1 << (index / WORDS_PER_TOUCH);
            }
        }
        raise(&self.touched, touched);
    }

    fn harvest(&self, piece: u64, into: &mut Bits) {
        for group in ones(self.touched.swap(0, Ordering::AcqRel)) {
            let first = group * WORDS_PER_TOUCH;
            for (index, word) in self.words.iter().enumerate().skip(first).take(WORDS_PER_TOUCH) {
                if word.load(Ordering::Acquire) != 0 {
                    into.add_word(piece, index, word.swap(0, Ordering::AcqRel));
                }
            }
        }
    }
}

/// Sets bits, unless they are all set.
#[inline]
fn raise(word: &AtomicU64, bits: u64) {
    if word.load(Ordering::Acquire) & bits != bits {
        word.fetch_or(bits, Ordering::AcqRel);
    }
}

/// The numbers of the bits that are set.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(usize::try_from(bit).unwrap_or(usize::MAX))
    })
}

/// How many digits a number has: at least one.
fn digits_of(piece: u64) -> usize {
    let bits = u64::BITS - piece.leading_zeros();
    usize::try_from(bits.div_ceil(DIGIT_BITS)).unwrap_or(DIGITS_MAX).max(1)
}

/// The `digit`th digit of a number, counted from the lowest.
fn digit_of(piece: u64, digit: usize) -> usize {
    let shift = u32::try_from(digit).unwrap_or(0) * DIGIT_BITS;
    usize::try_from(piece >> shift).unwrap_or(usize::MAX) & (SLOTS - 1)
}

impl Marks {
    pub(crate) fn new(granularity: Granularity) -> Self {
        Self {
            granularity,
            roots: std::array::from_fn(|_| OnceLock::new()),
            runs: Mutex::new(BTreeMap::new()),
        }
    }

    /// Sets the bits that `range` touches.
    #[inline]
    pub(crate) fn mark(&self, range: GuestRange) {
        let log2 = self.granularity.log2();
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start().get() >> log2, (range.end().get() - 1) >> log2);
        let piece = first / LEAF_BITS;
        if piece == last / LEAF_BITS {
            let start = first % LEAF_BITS;
            self.mark_piece(piece, start..start + (last - first) + 1);
        } else {
            self.mark_long(first..last + 1);
        }
    }

    #[cold]
    fn mark_long(&self, bits: Range<u64>) {
        let (first_whole, end_whole) = (bits.start.div_ceil(LEAF_BITS), bits.end / LEAF_BITS);
        if first_whole >= end_whole {
            by_piece(bits).for_each(|(piece, within)| self.mark_piece(piece, within));
            return;
        }
        by_piece(bits.start..first_whole * LEAF_BITS)
            .chain(by_piece(end_whole * LEAF_BITS..bits.end))
            .for_each(|(piece, within)| self.mark_piece(piece, within));
        self.mark_run(first_whole, end_whole);
    }

    /// Adds a run, together with those that it meets.
    fn mark_run(&self, first: u64, end: u64) {
        let mut runs = lock(&self.runs);
        let (mut first, mut end) = (first, end);
        while let Some((&start, &known)) =
            runs.range(..=end).next_back().filter(|(_, known)| **known >= first)
        {
            runs.remove(&start);
            first = first.min(start);
            end = end.max(known);
        }
        runs.insert(first, end);
    }

    #[inline]
    fn mark_piece(&self, piece: u64, within: Range<u64>) {
        let digits = digits_of(piece);
        let Some(root) = digits.checked_sub(1).and_then(|index| self.roots.get(index)) else {
            return self.mark_run(piece, piece + 1);
        };
        let mut path: [Option<(&Table, u64)>; DIGITS_MAX] = [None; DIGITS_MAX];
        let mut table = &**root.get_or_init(Table::new);
        for (digit, step) in (0..digits).rev().zip(&mut path) {
            let slot = digit_of(piece, digit);
            *step = Some((table, 1 << slot));
            match table.below(slot, digit == 0) {
                Some(Below::Table(below)) => table = below,
                Some(Below::Leaf(leaf)) => leaf.mark(within.clone()),
                None => unreachable!("a digit is below the number of slots"),
            }
        }
        for (table, bit) in path.iter().rev().flatten() {
            raise(&table.touched, *bit);
        }
    }

    /// Moves everything that is set to `into`, which has the same granularity. One caller at a time.
    pub(crate) fn harvest(&self, into: &mut Bits) {
        assert_eq!(into.granularity(), self.granularity, "marks go to bits of their own granularity");
        for root in self.roots.iter().filter_map(OnceLock::get) {
            harvest_table(root, 0, into);
        }
        for (first, end) in std::mem::take(&mut *lock(&self.runs)) {
            into.fill(first * LEAF_BITS..end * LEAF_BITS, true);
        }
    }
}

fn harvest_table(table: &Table, above: u64, into: &mut Bits) {
    for slot in ones(table.touched.swap(0, Ordering::AcqRel)) {
        let number = (above << DIGIT_BITS) | slot as u64;
        match table.slots.get(slot).and_then(OnceLock::get) {
            Some(Below::Table(below)) => harvest_table(below, number, into),
            Some(Below::Leaf(leaf)) => leaf.harvest(number, into),
            None => {}
        }
    }
}
