//! [`Bits`]: a bitmap of a disk.
//!
//! ```text
//!   tree:  piece number ──► all set | words (shared with other bitmaps of the same content)      no entry: all clear
//! ```
//! Invariants: bits past the end of the disk are clear; a piece in the tree is not all clear, and has words only if it is not
//! all set. Copies are cheap: a copy shares everything until one of the two changes, and then all pieces but the changed.
//! Not here: setting bits from many threads (`marks`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use drystone_base::{GuestOffset, GuestRange};

use super::Granularity;
use super::leaf::{LEAF_BITS, LEAF_WORDS, Leaf, WORD_BITS};

/// Which parts of a disk are dirty.
#[derive(Clone)]
pub struct Bits {
    granularity: Granularity,
    len_bytes: u64,
    /// Bits that are set.
    set: u64,
    pieces: Arc<BTreeMap<u64, Piece>>,
}

/// A piece that is not all clear.
#[derive(Clone)]
enum Piece {
    Full,
    Part(Arc<Leaf>),
}

impl Piece {
    /// `None` if all bits are clear.
    fn of(leaf: Leaf) -> Option<Self> {
        match leaf.set_count() {
            0 => None,
            LEAF_BITS => Some(Self::Full),
            _ => Some(Self::Part(Arc::new(leaf))),
        }
    }

    fn set_count(&self) -> u64 {
        match self {
            Self::Full => LEAF_BITS,
            Self::Part(leaf) => leaf.set_count(),
        }
    }

    fn find(&self, from: u64, value: bool) -> Option<u64> {
        match self {
            Self::Full => value.then_some(from),
            Self::Part(leaf) => leaf.find(from, value),
        }
    }

    /// The two together; shares what it can.
    fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Full, _) | (_, Self::Full) => Self::Full,
            (Self::Part(mine), Self::Part(theirs)) => {
                if Arc::ptr_eq(mine, theirs) || mine.holds(theirs) {
                    self.clone()
                } else if theirs.holds(mine) {
                    other.clone()
                } else {
                    Self::of(mine.union(theirs)).unwrap_or(Self::Full)
                }
            }
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full, Self::Full) => true,
            (Self::Part(mine), Self::Part(theirs)) => Arc::ptr_eq(mine, theirs) || mine == theirs,
            _ => false,
        }
    }
}

/// The parts of `bits` that lie in one piece each: its number, and the bits within it.
pub(super) fn by_piece(bits: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let mut at = bits.start;
    std::iter::from_fn(move || {
        if at >= bits.end {
            return None;
        }
        let piece = at / LEAF_BITS;
        let end = ((piece + 1) * LEAF_BITS).min(bits.end);
        let within = at - piece * LEAF_BITS..end - piece * LEAF_BITS;
        at = end;
        Some((piece, within))
    })
}

impl Bits {
    /// A clean bitmap of a disk of `len_bytes`.
    #[must_use]
    pub fn new(granularity: Granularity, len_bytes: u64) -> Self {
        Self { granularity, len_bytes, set: 0, pieces: Arc::default() }
    }

    /// Bytes of the disk per bit.
    #[must_use]
    pub const fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// How many bits the disk needs.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        self.granularity.bits_of(self.len_bytes)
    }

    /// How many bits are set.
    #[must_use]
    pub const fn set_bits(&self) -> u64 {
        self.set
    }

    /// Dirty bytes, in whole granules: the last one may reach past the end of the disk.
    #[must_use]
    pub const fn dirty_bytes(&self) -> u64 {
        self.set * self.granularity.bytes()
    }

    /// Whether nothing is dirty.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.set == 0
    }

    /// Whether the byte at `at` is dirty.
    #[must_use]
    pub fn get(&self, at: GuestOffset) -> bool {
        let bit = at.get() / self.granularity.bytes();
        match self.pieces.get(&(bit / LEAF_BITS)) {
            None => false,
            Some(Piece::Full) => true,
            Some(Piece::Part(leaf)) => leaf.get(bit % LEAF_BITS),
        }
    }

    /// Makes every granule dirty that `range` touches; what lies past the end of the disk is left out.
    pub fn set(&mut self, range: GuestRange) {
        let first = range.start().get() / self.granularity.bytes();
        let end = self.granularity.bits_of(range.end().get()).min(self.bits());
        if !range.is_empty() {
            self.fill(first..end, true);
        }
    }

    /// Makes every granule clean that lies in `range` as a whole, or as far as the disk goes.
    pub fn reset(&mut self, range: GuestRange) {
        let bytes = self.granularity.bytes();
        let first = range.start().get().div_ceil(bytes);
        let is_to_end = range.end().get() >= self.len_bytes;
        let end = if is_to_end { self.bits() } else { range.end().get() / bytes };
        self.fill(first..end, false);
    }

    /// Makes everything clean.
    pub fn clear(&mut self) {
        self.set = 0;
        self.pieces = Arc::default();
    }

    /// Sets or clears bits; those past the end are left out.
    pub(super) fn fill(&mut self, bits: Range<u64>, value: bool) {
        let bits = bits.start..bits.end.min(self.bits());
        if bits.start >= bits.end || (self.set == 0 && !value) {
            return;
        }
        if value {
            by_piece(bits).for_each(|(piece, within)| self.fill_piece(piece, within, true));
            return;
        }
        // Only pieces that exist can have something to clear.
        let numbers = bits.start / LEAF_BITS..=(bits.end - 1) / LEAF_BITS;
        let known: Vec<u64> = self.pieces.range(numbers).map(|(number, _)| *number).collect();
        for piece in known {
            let first = piece * LEAF_BITS;
            let within = bits.start.max(first) - first..bits.end.min(first + LEAF_BITS) - first;
            self.fill_piece(piece, within, false);
        }
    }

    fn fill_piece(&mut self, piece: u64, within: Range<u64>, value: bool) {
        let is_whole = within.start == 0 && within.end == LEAF_BITS;
        let next = match (is_whole, value) {
            (true, true) => Some(Piece::Full),
            (true, false) => None,
            _ => {
                let mut leaf = self.leaf(piece);
                leaf.fill(within, value);
                Piece::of(leaf)
            }
        };
        self.replace(piece, next);
    }

    /// A copy of a piece.
    fn leaf(&self, piece: u64) -> Leaf {
        match self.pieces.get(&piece) {
            None => Leaf::CLEAR,
            Some(Piece::Full) => Leaf::FULL,
            Some(Piece::Part(leaf)) => Leaf::clone(leaf),
        }
    }

    fn replace(&mut self, piece: u64, next: Option<Piece>) {
        let count = |piece: &Piece| piece.set_count();
        if next.is_none() && !self.pieces.contains_key(&piece) {
            return;
        }
        let pieces = Arc::make_mut(&mut self.pieces);
        self.set += next.as_ref().map_or(0, count);
        let before = match next {
            Some(next) => pieces.insert(piece, next),
            None => pieces.remove(&piece),
        };
        self.set -= before.as_ref().map_or(0, count);
    }

    /// Sets the bits of one word; those past the end are left out.
    pub(super) fn add_word(&mut self, piece: u64, index: usize, word: u64) {
        let first = piece * LEAF_BITS + index as u64 * WORD_BITS;
        let left = self.bits().saturating_sub(first);
        let word = if left < WORD_BITS { word & !(u64::MAX << left) } else { word };
        if word == 0 {
            return;
        }
        let pieces = Arc::make_mut(&mut self.pieces);
        let known = pieces.entry(piece).or_insert_with(|| Piece::Part(Arc::new(Leaf::CLEAR)));
        let Piece::Part(leaf) = known else { return };
        let leaf = Arc::make_mut(leaf);
        let before = leaf.set_count();
        leaf.add(index, word);
        self.set += leaf.set_count() - before;
        if leaf.set_count() == LEAF_BITS {
            *known = Piece::Full;
        }
    }

    /// The first dirty byte in `range`, at the start of the range or of a granule.
    #[must_use]
    pub fn next_dirty(&self, range: GuestRange) -> Option<GuestOffset> {
        self.next(range, true)
    }

    /// The first clean byte in `range`, at the start of the range or of a granule.
    #[must_use]
    pub fn next_zero(&self, range: GuestRange) -> Option<GuestOffset> {
        self.next(range, false)
    }

    fn next(&self, range: GuestRange, value: bool) -> Option<GuestOffset> {
        let bytes = self.granularity.bytes();
        let end = range.end().get().min(self.len_bytes);
        if range.start().get() >= end {
            return None;
        }
        let first = range.start().get() / bytes;
        let end_bit = self.granularity.bits_of(end);
        let bit = if value { self.find_set(first) } else { self.find_clear(first) };
        let bit = bit.filter(|bit| *bit < end_bit)?;
        GuestOffset::checked((bit * bytes).max(range.start().get()))
    }

    fn find_set(&self, from: u64) -> Option<u64> {
        let start = from / LEAF_BITS;
        self.pieces.range(start..).find_map(|(number, piece)| {
            let within = if *number == start { from % LEAF_BITS } else { 0 };
            Some(number * LEAF_BITS + piece.find(within, true)?)
        })
    }

    /// May answer with a bit past the end.
    fn find_clear(&self, from: u64) -> Option<u64> {
        let start = from / LEAF_BITS;
        let mut expected = start;
        for (number, piece) in self.pieces.range(start..) {
            if *number != expected {
                break;
            }
            let within = if *number == start { from % LEAF_BITS } else { 0 };
            if let Some(bit) = piece.find(within, false) {
                return Some(number * LEAF_BITS + bit);
            }
            expected += 1;
        }
        Some((expected * LEAF_BITS).max(from))
    }

    /// The first dirty run in `range`, cut to the range and the disk, and to `bytes_max`.
    #[must_use]
    pub fn next_dirty_area(&self, range: GuestRange, bytes_max: u64) -> Option<GuestRange> {
        let start = self.next_dirty(range)?;
        let end = range.end().get().min(self.len_bytes).min(start.get().saturating_add(bytes_max));
        let rest = GuestRange::checked(start.get(), end.saturating_sub(start.get()))?;
        let len = self.next_zero(rest).map_or(rest.len(), |zero| zero.get() - start.get());
        (len > 0).then(|| rest.take(len))
    }

    /// The dirty runs in `range`, in order.
    pub fn areas(&self, range: GuestRange) -> impl Iterator<Item = GuestRange> + '_ {
        let mut rest = range;
        std::iter::from_fn(move || {
            let area = self.next_dirty_area(rest, u64::MAX)?;
            rest = rest.skip(area.end().get() - rest.start().get());
            Some(area)
        })
    }

    /// All dirty runs.
    pub fn all_areas(&self) -> impl Iterator<Item = GuestRange> + '_ {
        self.areas(GuestRange::checked(0, self.len_bytes).unwrap_or(GuestRange::new(GuestOffset::ZERO, 0)))
    }

    /// The disk is `len_bytes` long now: what is new is clean, what is gone is forgotten.
    pub fn truncate(&mut self, len_bytes: u64) {
        let after = self.granularity.bits_of(len_bytes);
        self.fill(after..u64::MAX, false);
        self.len_bytes = len_bytes;
    }

    /// Makes everything dirty that is dirty in `other`, whatever its granularity.
    pub fn merge(&mut self, other: &Self) {
        if other.is_clean() {
            return;
        }
        if other.granularity != self.granularity {
            return self.merge_areas(other);
        }
        if self.is_clean() && self.len_bytes == other.len_bytes {
            self.set = other.set;
            self.pieces = Arc::clone(&other.pieces);
            return;
        }
        if Arc::ptr_eq(&self.pieces, &other.pieces) {
            return;
        }
        for (number, theirs) in other.pieces.iter() {
            let mine = self.pieces.get(number);
            let union = mine.map_or_else(|| theirs.clone(), |mine| mine.union(theirs));
            if mine.is_none_or(|mine| !mine.is_same(&union)) {
                self.replace(*number, Some(union));
            }
        }
        if other.len_bytes > self.len_bytes {
            let len_bytes = self.len_bytes;
            self.len_bytes = other.len_bytes;
            self.truncate(len_bytes);
        }
    }

    fn merge_areas(&mut self, other: &Self) {
        for area in other.all_areas() {
            self.set(area);
        }
    }

    /// The same at another granularity.
    #[must_use]
    pub fn at_granularity(&self, granularity: Granularity) -> Self {
        if granularity == self.granularity {
            return self.clone();
        }
        let mut other = Self::new(granularity, self.len_bytes);
        other.merge(self);
        other
    }

    /// Whether the two share everything, so that what holds for one holds for the other.
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pieces, &other.pieces) && self.len_bytes == other.len_bytes
    }

    /// Bytes of memory that the bits take, apart from what is counted in `seen` already (pieces that bitmaps share).
    pub(super) fn memory(&self, seen: &mut std::collections::BTreeSet<usize>) -> u64 {
        const ENTRY_BYTES: u64 = 48;
        if !seen.insert(Arc::as_ptr(&self.pieces).addr()) {
            return 0;
        }
        let mut bytes = 0;
        for piece in self.pieces.values() {
            bytes += ENTRY_BYTES;
            match piece {
                Piece::Part(leaf) if seen.insert(Arc::as_ptr(leaf).addr()) => {
                    bytes += (LEAF_WORDS as u64 + 3) * 8;
                }
                Piece::Part(_) | Piece::Full => {}
            }
        }
        bytes
    }

    // ---- as bytes ----

    /// Length of the bitmap as bytes: 8 bits each, the first bit in the lowest.
    #[must_use]
    pub const fn stored_len(&self) -> u64 {
        self.bits().div_ceil(8)
    }

    /// What `len` stored bytes from `at` on are: all clear, all set (as far as the disk goes), or neither.
    #[must_use]
    pub fn stored_part(&self, at: u64, len: u64) -> Part {
        let end_bit = (at.saturating_add(len)).saturating_mul(8).min(self.bits());
        let first = at.saturating_mul(8);
        if first >= end_bit || self.find_set(first).is_none_or(|bit| bit >= end_bit) {
            return Part::Clear;
        }
        match self.find_clear(first) {
            Some(bit) if bit < end_bit => Part::Mixed,
            _ => Part::Set,
        }
    }

    /// Stored bytes from `at` on; what is past the end is zero.
    pub fn store(&self, at: u64, into: &mut [u8]) {
        into.fill(0);
        let first = at.saturating_mul(8);
        let end = first.saturating_add(into.len() as u64 * 8).min(self.bits());
        for (number, within) in by_piece(first..end) {
            let Some(piece) = self.pieces.get(&number) else { continue };
            let words = match piece {
                Piece::Full => Leaf::FULL.words().as_slice(),
                Piece::Part(leaf) => leaf.words().as_slice(),
            };
            let skip = usize::try_from(within.start / 8).unwrap_or(usize::MAX);
            let count = usize::try_from((within.end - within.start).div_ceil(8)).unwrap_or(usize::MAX);
            let target =
                usize::try_from((number * LEAF_BITS + within.start - first) / 8).unwrap_or(usize::MAX);
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).skip(skip).take(count);
            let target = into.get_mut(target..).unwrap_or_default();
            target.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        }
        self.cut_last_byte(at, into);
    }

    /// A piece that is all set reaches to the end of the byte; bits past the end of the disk are zero.
    fn cut_last_byte(&self, at: u64, into: &mut [u8]) {
        let last = self.bits() / 8;
        let Some(index) = last.checked_sub(at).and_then(|index| usize::try_from(index).ok()) else { return };
        if let Some(byte) = into.get_mut(index) {
            *byte &= !(u8::MAX << (self.bits() % 8));
        }
    }

    /// Sets what is set in stored bytes from `at` on; bits past the end are left out.
    pub fn load(&mut self, at: u64, from: &[u8]) {
        for (number, chunk) in (0_u64..).zip(from.chunks(8)) {
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(chunk).for_each(|(place, byte)| *place = *byte);
            let word = u64::from_le_bytes(bytes);
            if word == 0 {
                continue;
            }
            let bit = at.saturating_mul(8).saturating_add(number * 64);
            if bit >= self.bits() {
                return;
            }
            let (piece, within) = (bit / LEAF_BITS, bit % LEAF_BITS);
            let (index, shift) = (usize::try_from(within / WORD_BITS).unwrap_or(usize::MAX), bit % WORD_BITS);
            self.add_word(piece, index, word << shift);
            if shift > 0 {
                let next = bit + (WORD_BITS - shift);
                let index = usize::try_from(next % LEAF_BITS / WORD_BITS).unwrap_or(usize::MAX);
                self.add_word(next / LEAF_BITS, index, word >> (WORD_BITS - shift));
            }
        }
    }

    /// Sets what `len` stored bytes from `at` on stand for, if all are set.
    pub fn load_set(&mut self, at: u64, len: u64) {
        let first = at.saturating_mul(8);
        self.fill(first..first.saturating_add(len.saturating_mul(8)), true);
    }
}

/// What a part of a stored bitmap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// No bit is set.
    Clear,
    /// All bits are set, as far as the disk goes.
    Set,
    /// Some are set.
    Mixed,
}

impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        let same = (self.granularity, self.len_bytes, self.set, self.pieces.len());
        same == (other.granularity, other.len_bytes, other.set, other.pieces.len())
            && self.pieces.iter().zip(other.pieces.iter()).all(|(a, b)| a.0 == b.0 && a.1.is_same(b.1))
    }
}

impl Eq for Bits {}

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bits({} of {} bits of {:?})", self.set, self.bits(), self.granularity)
    }
}
