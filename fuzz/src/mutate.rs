//! Bytes that are almost right: an input of a target with some things changed, all from a seed.
//!
//! | change | why |
//! |---|---|
//! | a bit; a byte to 0, 1, 0x7f, 0x80, 0xff | flags, small counts |
//! | a big-endian number of 2, 4 or 8 bytes to a limit, a power of two and its neighbours, a place of the input | lengths and offsets |
//! | a run removed, repeated, zeroed, taken from another input | lists, loops |
//! | a word of the target's language put in or over something | text |
//! | the end cut off | truncation |

use std::sync::OnceLock;

use drystone_base::rng::Rng;

use crate::Target;

/// Most changes of one input.
const CHANGES_MAX: u64 = 6;
/// The longest run that is moved.
const RUN_MAX: usize = 64;

/// Mutation `seed` of one of `inputs`.
///
/// # Panics
/// If there is no input.
#[must_use]
pub fn mutate(target: &Target, inputs: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = inputs[rng.index(inputs.len())].clone();
    for _ in 0..=rng.below(CHANGES_MAX) {
        change(&mut bytes, target, inputs, &mut rng);
    }
    bytes.truncate(target.len_max);
    bytes
}

/// Changes the first `len` bytes of `data`, an input of the target called `name`; the new length, at most that of `data`. What
/// it takes from others, it takes from the target's seeds. For a process that runs one target.
///
/// # Panics
/// If there is no such target.
pub fn mutate_in_place(name: &str, data: &mut [u8], len: usize, seed: u64) -> usize {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let target = crate::find(name).unwrap();
    let seeds = SEEDS.get_or_init(target.seeds);
    let mut rng = Rng::new(seed);
    let mut bytes = if rng.one_in(50) { seeds[rng.index(seeds.len())].clone() } else { data[..len].to_vec() };
    for _ in 0..=rng.below(CHANGES_MAX) {
        change(&mut bytes, target, seeds, &mut rng);
    }
    bytes.truncate(data.len());
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// A place that is likely to mean something: anywhere, or near the start.
fn place(len: usize, rng: &mut Rng) -> usize {
    if rng.one_in(2) { rng.index(len) } else { rng.index(len.min(128)) }
}

fn change(bytes: &mut Vec<u8>, target: &Target, inputs: &[Vec<u8>], rng: &mut Rng) {
    if bytes.is_empty() {
        bytes.extend_from_slice(&inputs[rng.index(inputs.len())]);
    }
    let at = place(bytes.len(), rng);
    let Some(whole) = bytes.get(at..).map(<[u8]>::len).filter(|len| *len > 0) else { return };
    let run = 1 + rng.index(RUN_MAX.min(whole));
    match rng.below(12) {
        0 | 1 => bytes[at] ^= 1 << rng.below(8),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.index(5)],
        3..=5 => number(bytes, at, rng),
        6 => drop(bytes.drain(at..at + run)),
        7 => {
            let copy = bytes[at..at + run].to_vec();
            bytes.splice(at..at, copy);
        }
        8 => bytes[at..at + run].fill(0),
        9 => {
            let other = &inputs[rng.index(inputs.len())];
            let from = place(other.len(), rng);
            let piece = other.get(from..).unwrap_or_default();
            let piece = &piece[..piece.len().min(run)];
            bytes.splice(at..(at + rng.index(run + 1)), piece.iter().copied());
        }
        10 if !target.words.is_empty() => {
            let word = target.words[rng.index(target.words.len())];
            let over = if rng.one_in(2) { 0 } else { word.len().min(whole) };
            bytes.splice(at..at + over, word.iter().copied());
        }
        10 => rng.fill(&mut bytes[at..at + run]),
        _ => bytes.truncate(at),
    }
}

/// A big-endian number, aligned as numbers are in most formats.
fn number(bytes: &mut [u8], at: usize, rng: &mut Rng) {
    let width = [2, 4, 8, 8][rng.index(4)];
    let at = if rng.one_in(4) { at } else { at / width * width };
    let len = bytes.len() as u64;
    let Some(place) = bytes.get_mut(at..at + width) else { return };
    let mut old = [0; 8];
    old[8 - width..].copy_from_slice(place);
    let old = u64::from_be_bytes(old);
    let power = 1_u64 << rng.below(64);
    let new = match rng.below(8) {
        0 => old ^ power,
        1 => power,
        2 => power.wrapping_sub(1),
        3 => u64::MAX - rng.below(2),
        4 => rng.below(len) / 512 * 512,
        5 => old.wrapping_add([1, u64::MAX, 512, 65536][rng.index(4)]),
        6 => rng.below(16),
        _ => (old & power.wrapping_neg()) | (rng.next_u64() & power.wrapping_sub(1)),
    };
    place.copy_from_slice(&new.to_be_bytes()[8 - width..]);
}
