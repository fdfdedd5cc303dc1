//! Where bytes were before: hash chains over the last 4 KiB, and which of the matches are taken.
//!
//! A match is put off by one byte if the next one is better ("lazy"). Where nothing has matched for long, only every few bytes
//! are looked up: such data hardly compresses, and should not take long either.

use super::{MATCH_MAX, MATCH_MIN, Repeat};

/// How far back a stream may refer (spec "Compressed Clusters Descriptor": a window of 12 bits).
const WINDOW: usize = 1 << 12;
const MASK: usize = WINDOW - 1;
/// Places are counted from here, so that 0 is further away than any match.
const BASE: usize = WINDOW + 1;
/// Heads of chains, by a hash of four bytes.
const HASH_BITS: u32 = 14;
/// Last places, by a hash of three bytes.
const SHORT_BITS: u32 = 12;
/// Places that are looked at for one match.
const DEPTH: u32 = 24;
/// ... for the next byte, if there is a good one already.
const DEPTH_LATER: u32 = 12;
/// After a match of this length, better ones are looked for less.
const GOOD: usize = 16;
/// A match of this length is good enough.
const NICE: usize = 96;
/// A match of three bytes from further away costs more than the bytes.
const SHORT_DISTANCE_MAX: usize = 1024;
/// After so many bytes without a match, not every byte is looked up.
const MISSES_MAX: usize = 1024;
/// Then every so many are.
const STEP: usize = 4;

pub(super) struct Matcher {
    heads: Box<[u32; 1 << HASH_BITS]>,
    shorts: Box<[u32; 1 << SHORT_BITS]>,
    prev: Box<[u32; WINDOW]>,
}

/// A match.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Found {
    len: usize,
    distance: usize,
}

const NOTHING: Found = Found { len: MATCH_MIN - 1, distance: 0 };

impl Matcher {
    pub(super) fn new() -> Self {
        Self {
            heads: Box::new([0; 1 << HASH_BITS]),
            shorts: Box::new([0; 1 << SHORT_BITS]),
            prev: Box::new([0; WINDOW]),
        }
    }

    /// Finds what of `input` was there before: repeats in order, which do not overlap.
    pub(super) fn repeats(&mut self, input: &[u8], repeats: &mut Vec<Repeat>) {
        self.heads.fill(0);
        self.shorts.fill(0);
        repeats.clear();
        // Behind this, words of eight bytes do not end inside: bytes as they are.
        let last = input.len().saturating_sub(8);
        let (mut at, mut misses) = (0, 0);
        while at < last {
            let found = self.find(input, at, NOTHING, DEPTH);
            if found.len < MATCH_MIN {
                let step = if misses >= MISSES_MAX { STEP.min(last - at) } else { 1 };
                at += step;
                misses += step;
                continue;
            }
            misses = 0;
            at = self.take(input, at, last, (found, repeats));
        }
    }

    /// Takes the match at `at`, or a better one right behind it; where it ends.
    fn take(
        &mut self,
        input: &[u8],
        mut at: usize,
        last: usize,
        (mut found, repeats): (Found, &mut Vec<Repeat>),
    ) -> usize {
        let mut entered = at + 1;
        while found.len < NICE && at + 1 < last {
            let depth = if found.len >= GOOD { DEPTH_LATER } else { DEPTH };
            let floor = Found { len: found.len - 1, distance: 0 };
            let next = self.find(input, at + 1, floor, depth);
            entered = at + 2;
            if is_better(next, found, 2) {
                (at, found) = (at + 1, next);
                continue;
            }
            if at + 2 >= last {
                break;
            }
            let next = self.find(input, at + 2, floor, depth / 2);
            entered = at + 3;
            if !is_better(next, found, 6) {
                break;
            }
            (at, found) = (at + 2, next);
        }
        repeats.push(Repeat { at: at as u32, len: found.len as u16, distance: found.distance as u16 });
        let end = at + found.len;
        for place in entered..end.min(last) {
            self.enter(input, place);
        }
        end
    }

    /// Enters a place into the tables: the last places before it with the same four and the same three bytes.
    #[inline(always)]
    fn enter(&mut self, input: &[u8], at: usize) -> (usize, usize) {
        let word = word(input, at) as u32;
        let place = (at + BASE) as u32;
        let head = &mut self.heads[hash(word, HASH_BITS)];
        let chain = *head;
        *head = place;
        self.prev[at & MASK] = chain;
        let short = &mut self.shorts[hash(word << 8, SHORT_BITS)];
        let before = *short;
        *short = place;
        (chain as usize, before as usize)
    }

    /// The best match at `at` that is longer than `floor`; enters the place into the tables.
    #[inline(always)]
    fn find(&mut self, input: &[u8], at: usize, floor: Found, depth: u32) -> Found {
        let (mut place, short) = self.enter(input, at);
        let here = at + BASE;
        let mut best = floor;
        let rest = &input[at..input.len().min(at + MATCH_MAX)];
        let first = word(input, at) as u32;
        if best.len < MATCH_MIN && here - short <= SHORT_DISTANCE_MAX {
            let old = word(input, short - BASE) as u32;
            if (old ^ first) << 8 == 0 {
                best = Found { len: 3, distance: here - short };
            }
        }
        for _ in 0..depth {
            let distance = here - place;
            if distance > WINDOW {
                break;
            }
            let old = place - BASE;
            let tail = best.len.max(3) - 3;
            // The bytes that would make it longer than the best, then the first.
            if tail + 4 <= rest.len()
                && word32(input, old + tail) == word32(input, at + tail)
                && word32(input, old) == first
            {
                let len = common(rest, &input[old..]);
                if len > best.len {
                    best = Found { len, distance };
                    if len >= NICE || len == rest.len() {
                        break;
                    }
                }
            }
            let before = self.prev[old & MASK] as usize;
            if before >= place {
                break;
            }
            place = before;
        }
        if best.distance == 0 { NOTHING } else { best }
    }
}

/// Whether a match that begins later is worth the bytes in front of it.
#[inline(always)]
fn is_better(next: Found, now: Found, least: i32) -> bool {
    if next.len < now.len {
        return false;
    }
    let bits = |distance: usize| distance.ilog2() as i32;
    4 * (next.len as i32 - now.len as i32) + bits(now.distance) - bits(next.distance) > least
}

#[inline(always)]
fn hash(word: u32, bits: u32) -> usize {
    (word.wrapping_mul(0x9e37_79b1) >> (32 - bits)) as usize
}

#[inline(always)]
fn word(input: &[u8], at: usize) -> u64 {
    input[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[inline(always)]
fn word32(input: &[u8], at: usize) -> u32 {
    input[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// How many bytes of `rest` are those of `old`, too.
#[inline(always)]
fn common(rest: &[u8], old: &[u8]) -> usize {
    let (words, _) = rest.as_chunks::<8>();
    let mut len = 0;
    for (a, b) in words.iter().zip(old.as_chunks::<8>().0) {
        let differing = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differing != 0 {
            return len + (differing.trailing_zeros() >> 3) as usize;
        }
        len += 8;
    }
    len + rest[len..].iter().zip(&old[len..]).take_while(|(a, b)| a == b).count()
}
