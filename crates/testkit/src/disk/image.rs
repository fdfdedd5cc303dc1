//! [`Image`]: the contents of a device, sparse and cheap to copy.
//!
//! A block of 4 KiB is present or a hole. Present blocks are what the device has allocated; a copy of an image shares
//! them until one side writes.
//!
//! Invariant: no block lies wholly past the length, and bytes past it in the last block are zero.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// The unit of allocation in bytes.
pub const BLOCK_BYTES: u64 = BLOCK_LEN as u64;

const BLOCK_LEN: usize = 4096;

type Block = [u8; BLOCK_LEN];

/// The contents of a device.
#[derive(Clone, Default)]
pub struct Image {
    len: u64,
    /// By index of the block.
    blocks: BTreeMap<u64, Arc<Block>>,
}

impl Image {
    /// `len` bytes, all a hole.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self { len, blocks: BTreeMap::new() }
    }

    /// The contents `bytes`. Blocks of zeroes are holes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut image = Self::default();
        for (at, chunk) in (0..).step_by(BLOCK_LEN).zip(bytes.chunks(BLOCK_LEN)) {
            if chunk.iter().any(|&byte| byte != 0) {
                image.write(at, chunk);
            }
        }
        image.set_len(bytes.len() as u64);
        image
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` from `at` on; with zeroes past the end.
    pub fn read(&self, at: u64, out: &mut [u8]) {
        let mut rest = out;
        for (index, part) in split(at..at + rest.len() as u64) {
            let (head, tail) = rest.split_at_mut(part.len());
            match self.blocks.get(&index).and_then(|block| block.get(part)) {
                Some(bytes) => head.copy_from_slice(bytes),
                None => head.fill(0),
            }
            rest = tail;
        }
    }

    /// The bytes of `range`; zeroes past the end.
    #[must_use]
    pub fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut out = vec![0; crate::index(range.end.saturating_sub(range.start))];
        self.read(range.start, &mut out);
        out
    }

    /// All bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes(0..self.len)
    }

    /// Stores `bytes` at `at`; the image grows as needed.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        let mut rest = bytes;
        for (index, part) in split(at..end) {
            let (head, tail) = rest.split_at(part.len());
            let block = self.blocks.entry(index).or_insert_with(zero_block);
            if let Some(to) = Arc::make_mut(block).get_mut(part) {
                to.copy_from_slice(head);
            }
            rest = tail;
        }
        self.len = self.len.max(end);
    }

    /// Zeroes `range`, making holes of whole blocks; the image does not grow.
    pub fn punch(&mut self, range: Range<u64>) {
        self.zero_present(range.clone());
        let whole = range.start.div_ceil(BLOCK_BYTES)..range.end / BLOCK_BYTES;
        if !whole.is_empty() {
            let mut after = self.blocks.split_off(&whole.start);
            self.blocks.append(&mut after.split_off(&whole.end));
        }
    }

    /// Zeroes `range` and makes every block of it present; the image grows as needed.
    pub fn zero_allocated(&mut self, range: Range<u64>) {
        self.zero_present(range.clone());
        self.allocate(range);
    }

    /// Zeroes what is present of `range`.
    fn zero_present(&mut self, range: Range<u64>) {
        for (&index, block) in self.blocks.range_mut(blocks_of(&range)) {
            if let Some(bytes) = Arc::make_mut(block).get_mut(inside(&range, index)) {
                bytes.fill(0);
            }
        }
    }

    /// Makes every block of `range` present; the image grows as needed.
    pub fn allocate(&mut self, range: Range<u64>) {
        let fresh = zero_block();
        for index in blocks_of(&range) {
            self.blocks.entry(index).or_insert_with(|| Arc::clone(&fresh));
        }
        self.len = self.len.max(range.end);
    }

    /// Sets the length. New bytes are a hole.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len..u64::MAX);
            self.blocks.split_off(&len.div_ceil(BLOCK_BYTES));
        }
        self.len = len;
    }

    /// How many bytes the present blocks have.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_BYTES
    }

    /// How many bytes a write to all of `range` would allocate.
    #[must_use]
    pub fn unallocated_bytes(&self, range: Range<u64>) -> u64 {
        let all = blocks_of(&range);
        let present = self.blocks.range(all.clone()).count() as u64;
        (all.end - all.start - present) * BLOCK_BYTES
    }

    /// Whether the byte at `at` is in a present block, and how far from `at` on that stays so, up to the end.
    #[must_use]
    pub fn is_allocated(&self, at: u64) -> (bool, u64) {
        let first = at / BLOCK_BYTES;
        let is_present = self.blocks.contains_key(&first);
        let change = if is_present {
            (first..)
                .zip(self.blocks.range(first..))
                .take_while(|(index, (present, _))| index == *present)
                .count() as u64
                + first
        } else {
            self.blocks.range(first..).next().map_or(u64::MAX / BLOCK_BYTES, |(&index, _)| index)
        };
        (is_present, (change * BLOCK_BYTES).min(self.len).saturating_sub(at))
    }
}

fn zero_block() -> Arc<Block> {
    Arc::new([0; BLOCK_LEN])
}

/// The indexes of the blocks that `range` touches.
fn blocks_of(range: &Range<u64>) -> Range<u64> {
    match range.is_empty() {
        true => 0..0,
        false => range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES),
    }
}

/// The blocks that `range` touches, each with the part that is touched.
fn split(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    blocks_of(&range).map(move |index| (index, inside(&range, index)))
}

/// The part of block `index`, which `range` touches, that lies in `range`.
fn inside(range: &Range<u64>, index: u64) -> Range<usize> {
    let start = index * BLOCK_BYTES;
    crate::index(range.start.saturating_sub(start))..crate::index(BLOCK_BYTES.min(range.end - start))
}

impl PartialEq for Image {
    /// Equal bytes; a hole equals a block of zeroes.
    fn eq(&self, other: &Self) -> bool {
        let holds = |one: &Self, two: &Self| {
            one.blocks.iter().all(|(index, block)| match two.blocks.get(index) {
                Some(same) => Arc::ptr_eq(block, same) || block == same,
                None => block.iter().all(|&byte| byte == 0),
            })
        };
        self.len == other.len && holds(self, other) && holds(other, self)
    }
}

impl Eq for Image {}

/// Of the bytes: a hole counts as a block of zeroes.
impl Hash for Image {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len.hash(state);
        let present = self.blocks.iter().filter(|(_, block)| block.iter().any(|&byte| byte != 0));
        present.for_each(|(index, block)| (index, block.as_slice()).hash(state));
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} bytes, {} allocated)", self.len, self.allocated_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_image_grows_with_writes_and_reads_zeroes_elsewhere() {
        let mut image = Image::new(10);
        image.write(4094, b"abcd");
        assert_eq!((image.len(), image.allocated_bytes()), (4098, 8192));
        assert_eq!(image.bytes(4090..4100), b"\0\0\0\0abcd\0\0");
    }

    #[test]
    fn what_is_cut_off_is_zero_when_the_image_grows_again() {
        let mut image = Image::from_bytes(&[7; 5000]);
        image.set_len(100);
        image.set_len(5000);
        assert_eq!(image.bytes(99..102), [7, 0, 0]);
        assert_eq!(image.allocated_bytes(), BLOCK_BYTES);
    }

    #[test]
    fn a_punched_block_is_a_hole_and_its_neighbours_are_not() {
        let mut image = Image::from_bytes(&[7; 3 * 4096]);
        image.punch(4000..8200);
        assert_eq!(image.allocated_bytes(), 2 * BLOCK_BYTES);
        assert_eq!((image.is_allocated(0), image.is_allocated(5000)), ((true, 4096), (false, 3192)));
        assert_eq!(image.bytes(3999..4001), [7, 0]);
        assert_eq!(image.bytes(8199..8201), [0, 7]);
        assert_eq!(image.unallocated_bytes(4095..4097), 4096);
    }

    #[test]
    fn a_copy_does_not_see_later_writes() {
        let mut image = Image::from_bytes(&[7; 4096]);
        let copy = image.clone();
        image.write(0, &[8]);
        assert_eq!(copy.bytes(0..1), [7]);
        assert_ne!(copy, image);
    }

    #[test]
    fn a_hole_equals_zeroes() {
        let mut allocated = Image::new(8192);
        allocated.allocate(0..8192);
        assert_eq!(allocated.allocated_bytes(), 8192);
        assert_eq!(allocated, Image::new(8192));
    }

    proptest! {
        #[test]
        fn an_image_holds_what_a_vector_would(steps in prop::collection::vec((0_u8..4, 0_u64..20_000, 0_u64..9000), 0..24)) {
            let (mut image, mut vec) = (Image::default(), Vec::<u8>::new());
            for (fill, (what, at, len)) in (1_u8..).zip(steps) {
                let (start, end) = (crate::index(at), crate::index(at + len));
                match what {
                    0 => image.set_len(at),
                    1 => image.punch(at..at + len),
                    2 => image.allocate(at..at + len),
                    _ => image.write(at, &vec![fill; crate::index(len)]),
                }
                if what == 0 {
                    vec.resize(start, 0);
                } else if what >= 2 {
                    vec.resize(vec.len().max(end), 0);
                }
                let inside = start.min(vec.len())..end.min(vec.len());
                match what {
                    1 => vec[inside].fill(0),
                    3 => vec[inside].fill(fill),
                    _ => {}
                }
                prop_assert_eq!(image.to_vec(), vec.clone());
            }
            prop_assert_eq!(Image::from_bytes(&vec), image);
        }
    }
}
