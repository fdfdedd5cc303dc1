//! Questions about all bytes of a buffer, answered at the speed of memory.
//!
//! The loops are over blocks that fit into vector registers, in a form that the compiler turns into vector code: there is
//! nothing to be gained by hand, and it does not depend on the C library, some of which compare byte by byte.

/// Bytes that are looked at together.
const BLOCK_BYTES: usize = 256;

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    blocks.iter().all(is_zero_block) && rest.iter().all(|byte| *byte == 0)
}

fn is_zero_block(block: &[u8; BLOCK_BYTES]) -> bool {
    let (words, _) = block.as_chunks::<16>();
    words.iter().fold(0, |sum, word| sum | u128::from_le_bytes(*word)) == 0
}

/// Whether both have the same bytes.
#[must_use]
pub fn is_same(one: &[u8], two: &[u8]) -> bool {
    let ((one, one_rest), (two, two_rest)) = (one.as_chunks::<BLOCK_BYTES>(), two.as_chunks::<BLOCK_BYTES>());
    one.len() == two.len()
        && one.iter().zip(two).all(|(one, two)| is_same_block(one, two))
        && one_rest.len() == two_rest.len()
        && one_rest.iter().zip(two_rest).all(|(one, two)| one == two)
}

fn is_same_block(one: &[u8; BLOCK_BYTES], two: &[u8; BLOCK_BYTES]) -> bool {
    let (one, two) = (one.as_chunks::<16>().0, two.as_chunks::<16>().0);
    let differs = |(one, two): (&[u8; 16], &[u8; 16])| u128::from_le_bytes(*one) ^ u128::from_le_bytes(*two);
    one.iter().zip(two).map(differs).fold(0, |sum, word| sum | word) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_makes_a_difference() {
        assert!(is_zero(&[]) && is_same(&[], &[]));
        for len in [1, 15, 16, 255, 256, 257, 4096] {
            let zero = vec![0; len];
            let mut bytes = zero.clone();
            assert!(is_zero(&bytes) && is_same(&bytes, &zero), "{len}");
            for at in [0, len / 2, len - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes) && !is_same(&bytes, &zero), "{len} {at}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn what_is_longer_is_not_the_same() {
        for (one, two) in [(0, 1), (15, 16), (256, 257), (256, 512)] {
            assert!(!is_same(&vec![0; one], &vec![0; two]) && !is_same(&vec![0; two], &vec![0; one]));
        }
    }
}
