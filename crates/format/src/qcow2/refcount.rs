//! Reference counts: widths, blocks, table entries.
//! ```text
//!  refcount table (in the header)        refcount block: one cluster of counts, 1 << order bits each
//!  +-----------+-----------+----         +---+---+---+---+--          order 0-2: several counts per byte,
//!  | block 0   | block 1   | ...  ──►    | 0 | 1 | 2 | 3 | ..                    the first in the lowest bits
//!  +-----------+-----------+----         +---+---+---+---+--          order 3-6: big-endian numbers
//!  host cluster number = | table index | block index |
//! ```
//! Invariants: a count never exceeds what its width holds; a block holds 64 to 2^24 counts.
//! Not here: who changes counts and in which order they reach the disk (the driver); recounting ([`super::check`]).

use drystone_base::HostOffset;

use super::geometry::{ClusterBits, HostCluster};

/// Spec "Host cluster management": bits 0-8 of a refcount table entry are reserved.
const TABLE_RESERVED: u64 = 0x1ff;

/// The width of a count: `1 << order` bits, 1 to 64 (spec "Header": `refcount_order`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefcountWidth(u8);

/// Where the count of a cluster is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefcountPlace {
    /// Index into the refcount table; not checked against the length of one.
    pub table_index: u64,
    /// Index into the refcount block; less than [`RefcountWidth::per_block`].
    pub block_index: usize,
}

/// What is wrong with an entry of the refcount table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableEntryError {
    /// Bits 0-8 are not zero.
    #[error("refcount table entry {0:#x} has reserved bits set")]
    Reserved(u64),
    /// The block does not start where a cluster starts.
    #[error("refcount table entry {0:#x} does not point to the start of a cluster")]
    Misaligned(u64),
    /// The block lies past the largest offset.
    #[error("refcount table entry {0:#x} points past the largest offset")]
    OutOfRange(u64),
}

impl RefcountWidth {
    /// 16 bits: what version 2 images have always, others unless somebody asks for another width.
    pub const BITS_16: Self = Self(4);
    /// One bit.
    pub const MIN: Self = Self(0);
    /// 64 bits.
    pub const MAX: Self = Self(6);

    /// Counts of `1 << order` bits, or `None` above 64 bits.
    #[must_use]
    pub const fn from_order(order: u32) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "at most 6")]
        if order <= Self::MAX.0 as u32 { Some(Self(order as u8)) } else { None }
    }

    /// Counts of `bits` bits, or `None` unless that is a power of two up to 64.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits.is_power_of_two() { Self::from_order(bits.trailing_zeros()) } else { None }
    }

    /// The power of two.
    #[must_use]
    pub const fn order(self) -> u32 {
        self.0 as u32
    }

    /// Bits of a count.
    #[must_use]
    pub const fn bits(self) -> u32 {
        1 << self.0
    }

    /// The largest count.
    #[must_use]
    pub const fn count_max(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// How many counts a block of one cluster holds.
    #[must_use]
    pub const fn per_block(self, cluster: ClusterBits) -> usize {
        (cluster.buffer_len() << 3) >> self.0
    }

    /// Where the count of a cluster is found.
    #[must_use]
    pub const fn place(self, cluster: ClusterBits, of: HostCluster) -> RefcountPlace {
        let per_block = self.per_block(cluster);
        #[expect(clippy::cast_possible_truncation, reason = "masked to less than the counts of a block")]
        let block_index = of.index() as usize & (per_block - 1);
        RefcountPlace { table_index: of.index() / per_block as u64, block_index }
    }

    /// The count with this index, or `None` past the end of the block.
    #[must_use]
    pub fn get(self, block: &[u8], index: usize) -> Option<u64> {
        if self.bits() < 8 {
            let (byte, shift) = self.in_byte(index);
            return Some(u64::from(block.get(byte)? >> shift) & self.count_max());
        }
        let len = usize::from(self.bytes());
        let bytes = block.get(index.checked_mul(len)?..)?.get(..len)?;
        Some(bytes.iter().fold(0, |count, &byte| count << 8 | u64::from(byte)))
    }

    /// Stores a count; `None`, and nothing changed, past the end of the block or above [`Self::count_max`].
    #[must_use]
    pub fn set(self, block: &mut [u8], index: usize, count: u64) -> Option<()> {
        if count > self.count_max() {
            return None;
        }
        let bytes = count.to_be_bytes();
        if self.bits() < 8 {
            let (byte, shift) = self.in_byte(index);
            let [.., mask] = self.count_max().to_be_bytes();
            let [.., count] = bytes;
            let byte = block.get_mut(byte)?;
            *byte = *byte & !(mask << shift) | count << shift;
            return Some(());
        }
        let len = usize::from(self.bytes());
        let to = block.get_mut(index.checked_mul(len)?..)?.get_mut(..len)?;
        to.copy_from_slice(bytes.get(bytes.len() - len..)?);
        Some(())
    }

    /// The byte that holds a count of less than 8 bits, and how far from its lowest bit.
    const fn in_byte(self, index: usize) -> (usize, u32) {
        let per_byte_bits = 3 - self.order();
        #[expect(clippy::cast_possible_truncation, reason = "masked to at most 7")]
        let within = (index & ((1 << per_byte_bits) - 1)) as u32;
        (index >> per_byte_bits, within * self.bits())
    }

    /// Bytes of a count of 8 bits or more.
    const fn bytes(self) -> u8 {
        1 << (self.0 - 3)
    }
}

/// What an entry of the refcount table points to: `None` if no block covers these clusters, whose counts are all 0.
///
/// # Errors
/// [`TableEntryError`] if the entry breaks a rule of spec "Host cluster management".
pub fn parse_table_entry(raw: u64, cluster: ClusterBits) -> Result<Option<HostOffset>, TableEntryError> {
    if raw & TABLE_RESERVED != 0 {
        return Err(TableEntryError::Reserved(raw));
    }
    if raw & (cluster.bytes() - 1) != 0 {
        return Err(TableEntryError::Misaligned(raw));
    }
    match HostOffset::checked(raw) {
        Some(HostOffset::ZERO) => Ok(None),
        Some(at) => Ok(Some(at)),
        None => Err(TableEntryError::OutOfRange(raw)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_width() -> impl Iterator<Item = RefcountWidth> {
        (0..=6).filter_map(RefcountWidth::from_order)
    }

    #[test]
    fn what_was_set_is_got_and_the_neighbours_stay() {
        for width in every_width() {
            let mut block = vec![0xa5; 64];
            let count = 64 * 8 / width.bits() as usize;
            for index in 0..count {
                let before: Vec<_> = (0..count).map(|i| width.get(&block, i)).collect();
                for value in [0, 1, width.count_max() / 2, width.count_max()] {
                    assert_eq!(width.set(&mut block, index, value), Some(()));
                    assert_eq!(width.get(&block, index), Some(value), "{width:?} {index}");
                }
                let after: Vec<_> = (0..count).map(|i| width.get(&block, i)).collect();
                assert_eq!(before[..index], after[..index]);
                assert_eq!(before[index + 1..], after[index + 1..]);
            }
            assert_eq!(width.get(&block, count), None);
            assert_eq!(width.set(&mut block, count, 0), None);
            assert_eq!(width.get(&block, usize::MAX), None);
        }
    }

    #[test]
    fn a_count_that_does_not_fit_is_refused() {
        for width in every_width().filter(|width| width.bits() < 64) {
            let mut block = vec![0; 64];
            assert_eq!(width.set(&mut block, 0, width.count_max() + 1), None);
            assert!(block.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn the_first_of_several_counts_in_a_byte_is_in_the_lowest_bits() {
        let one = RefcountWidth::from_bits(1).unwrap();
        assert_eq!((one.get(&[0b10], 0), one.get(&[0b10], 1)), (Some(0), Some(1)));
        let four = RefcountWidth::from_bits(4).unwrap();
        assert_eq!((four.get(&[0x21], 0), four.get(&[0x21], 1)), (Some(1), Some(2)));
        assert_eq!(RefcountWidth::BITS_16.get(&[1, 2], 0), Some(0x0102));
    }

    #[test]
    fn places_count_every_cluster_once() {
        for width in every_width() {
            let per_block = width.per_block(ClusterBits::MIN) as u64;
            assert_eq!(per_block, 4096 >> width.order());
            for index in [0, per_block - 1, per_block, 5 * per_block + 3, u64::MAX] {
                let place = width.place(ClusterBits::MIN, HostCluster::new(index));
                assert_eq!(place.table_index * per_block + place.block_index as u64, index);
            }
        }
    }

    #[test]
    fn only_powers_of_two_up_to_64_are_widths() {
        assert_eq!([0, 3, 65, 128, u64::MAX].map(RefcountWidth::from_bits), [None; 5]);
        assert_eq!(RefcountWidth::from_order(7), None);
        assert_eq!((RefcountWidth::MIN.count_max(), RefcountWidth::MAX.count_max()), (1, u64::MAX));
    }

    #[test]
    fn a_table_entry_is_empty_or_aligned() {
        let cluster = ClusterBits::DEFAULT;
        assert_eq!(parse_table_entry(0, cluster), Ok(None));
        assert_eq!(parse_table_entry(0x20000, cluster), Ok(Some(HostOffset::new(0x20000))));
        assert_eq!(parse_table_entry(0x20001, cluster), Err(TableEntryError::Reserved(0x20001)));
        assert_eq!(parse_table_entry(0x20200, cluster), Err(TableEntryError::Misaligned(0x20200)));
        assert_eq!(parse_table_entry(1 << 63, cluster), Err(TableEntryError::OutOfRange(1 << 63)));
    }
}
