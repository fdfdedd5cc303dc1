//! [`Stamp`]: data that says where it belongs.
//!
//! ```text
//!  word at offset o (a multiple of 8) = scramble( stamp : 24 bits | o / 8 : 40 bits )     little-endian, reversible
//! ```
//! Bytes that turn up in the wrong place, or too late, can be traced to the write that they came from ([`identify`]).
//! No word is zero, and the data does not compress.

use std::fmt;

/// The identity of one piece of written data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u32);

const STAMP_MAX: u32 = (1 << 24) - 1;
const WORD_BYTES: u64 = 8;
const WORD_INDEX_BITS: u32 = 40;

impl Stamp {
    /// Stamp number `number`, from 1 to 2^24 - 1.
    ///
    /// # Panics
    /// Outside that range.
    #[must_use]
    #[track_caller]
    pub const fn new(number: u32) -> Self {
        assert!(number > 0 && number <= STAMP_MAX, "a stamp is a number from 1 to 2^24 - 1");
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Fills `out` with what this stamp holds from `at` on.
    ///
    /// # Panics
    /// If the end exceeds 8 TiB, which is as far as a stamp can tell offsets apart.
    pub fn fill(self, at: u64, out: &mut [u8]) {
        let skipped = crate::index(at % WORD_BYTES);
        let (head, tail) = out.split_at_mut(out.len().min((8 - skipped) % 8));
        let word = self.word(at / WORD_BYTES).to_le_bytes();
        for (to, from) in head.iter_mut().zip(word.iter().skip(skipped)) {
            *to = *from;
        }
        let first = at.div_ceil(WORD_BYTES);
        let (words, rest) = tail.as_chunks_mut::<8>();
        for (index, word) in (first..).zip(words.iter_mut()) {
            *word = self.word(index).to_le_bytes();
        }
        if !rest.is_empty() {
            let last = self.word(first + words.len() as u64).to_le_bytes();
            for (to, from) in rest.iter_mut().zip(last) {
                *to = from;
            }
        }
    }

    /// `len` bytes of what this stamp holds from `at` on.
    #[must_use]
    pub fn bytes(self, at: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; crate::index(len)];
        self.fill(at, &mut out);
        out
    }

    fn word(self, index: u64) -> u64 {
        assert!(index >> WORD_INDEX_BITS == 0, "a stamp cannot tell offsets past 8 TiB apart");
        scramble((u64::from(self.0) << WORD_INDEX_BITS) | index)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stamp {}", self.0)
    }
}

/// Which stamp `bytes` came from, and the offset that the first of them was written for. Needs 23 bytes or more, since
/// two whole words in a row must agree.
#[must_use]
pub fn identify(bytes: &[u8]) -> Option<(Stamp, u64)> {
    (0..WORD_BYTES).find_map(|skipped| {
        let (first, rest) = bytes.get(crate::index(skipped)..)?.split_first_chunk::<8>()?;
        let (second, _) = rest.split_first_chunk::<8>()?;
        let origin = unscramble(u64::from_le_bytes(*first));
        let stamp = u32::try_from(origin >> WORD_INDEX_BITS).ok().filter(|&number| number > 0)?;
        let is_followed = unscramble(u64::from_le_bytes(*second)) == origin.wrapping_add(1);
        let at = (origin & ((1 << WORD_INDEX_BITS) - 1)) * WORD_BYTES;
        is_followed.then(|| at.checked_sub(skipped)).flatten().map(|at| (Stamp(stamp), at))
    })
}

const MUL_1: u64 = 0xbf58_476d_1ce4_e5b9;
const MUL_2: u64 = 0x94d0_49bb_1331_11eb;

/// A bijection that spreads every bit over the word, and keeps zero.
const fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(MUL_1);
    z = (z ^ (z >> 27)).wrapping_mul(MUL_2);
    z ^ (z >> 31)
}

const fn unscramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 31) ^ (z >> 62)).wrapping_mul(inverse(MUL_2));
    z = (z ^ (z >> 27) ^ (z >> 54)).wrapping_mul(inverse(MUL_1));
    z ^ (z >> 30) ^ (z >> 60)
}

/// The factor that undoes multiplication by `odd`, by Newton's method: each round doubles the number of right bits.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut round = 0;
    while round < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_stamp_is_the_same_bytes() {
        let whole = Stamp::new(7).bytes(0, 64);
        for start in 0..64_u64 {
            for end in start..64 {
                let part = Stamp::new(7).bytes(start, end - start);
                assert_eq!(part, whole[crate::index(start)..crate::index(end)], "{start}..{end}");
            }
        }
    }

    #[test]
    fn misplaced_bytes_are_traced_to_where_they_belong() {
        for at in [0, 1, 4095, 65536, (1 << 43) - 512] {
            let bytes = Stamp::new(STAMP_MAX).bytes(at, 23);
            assert_eq!(identify(&bytes), Some((Stamp::new(STAMP_MAX), at)));
        }
    }

    #[test]
    fn other_bytes_belong_to_nobody() {
        assert_eq!(identify(&[0; 512]), None);
        assert_eq!(identify(&[0xa5; 512]), None);
        assert_eq!(identify(&[]), None);
        assert_eq!(identify(&Stamp::new(3).bytes(0, 15)), None, "too few to be sure");
    }
}
