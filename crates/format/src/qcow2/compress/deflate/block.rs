//! Blocks: pieces of the symbols with a code of their own, and how they are sent.
//!
//! ```text
//!   symbols [ 2048 | 2048 | 2048 | 2048 | ... ]     counted piece by piece
//!           [      one block     |   another  ]     neighbours are joined while that makes the stream shorter
//! ```
//! Each block has a code of its own, or the fixed one if that is shorter (RFC 1951 sections 3.2.3 to 3.2.7). Blocks that are
//! stored plainly are not made: a cluster that needs them is stored plainly itself.

use super::huffman::{Code, codes, lengths};
use super::{DISTANCES, END, LITERALS, MATCH_MAX, MATCH_MIN, Step, Walk};

/// Symbols that are counted together: a byte or a repeat each.
const PIECE: usize = 2048;
/// The order in which the lengths of code-length codes are sent (RFC 1951 section 3.2.7).
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// Longest codes (RFC 1951): of symbols, and of code lengths.
const LEN_MAX: u32 = 15;
const LEN_LEN_MAX: u32 = 7;
/// What a block's header is reckoned with when pieces are joined, in bits.
const HEADER_BITS: f32 = 900.0;

/// How often each symbol occurs.
#[derive(Clone)]
struct Counts {
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
    symbols: usize,
}

impl Counts {
    const NONE: Self = Self { literals: [0; LITERALS], distances: [0; DISTANCES], symbols: 0 };

    /// Those of the next piece of a way.
    fn of(walk: &mut Walk<'_>) -> Self {
        let mut counts = Self::NONE;
        while let Some((step, symbols)) = walk.next(PIECE - counts.symbols) {
            match step {
                Step::Bytes(bytes) => bytes.iter().for_each(|byte| counts.literals[usize::from(*byte)] += 1),
                Step::Again(repeat) => {
                    counts.literals[257 + usize::from(LENGTHS.symbol[usize::from(repeat.len)])] += 1;
                    counts.distances[distance_symbol(usize::from(repeat.distance))] += 1;
                }
            }
            counts.symbols += symbols;
            if counts.symbols == PIECE {
                break;
            }
        }
        counts
    }

    fn add(&mut self, other: &Self) {
        self.literals.iter_mut().zip(&other.literals).for_each(|(to, from)| *to += from);
        self.distances.iter_mut().zip(&other.distances).for_each(|(to, from)| *to += from);
        self.symbols += other.symbols;
    }

    /// About how many bits the symbols take.
    fn bits(&self) -> f32 {
        entropy(&self.literals) + entropy(&self.distances)
    }
}

fn entropy(counts: &[u32]) -> f32 {
    let total: u32 = counts.iter().sum();
    if total == 0 {
        return 0.0;
    }
    let each: f32 =
        counts.iter().filter(|count| **count > 0).map(|count| *count as f32 * (*count as f32).log2()).sum();
    total as f32 * (total as f32).log2() - each
}

/// Symbols of lengths: number above 257, extra bits, and the first length of each.
struct Lengths {
    symbol: [u8; MATCH_MAX + 1],
    extra: [u8; 29],
    first: [u16; 29],
}

const LENGTHS: Lengths = {
    let mut lengths = Lengths { symbol: [0; MATCH_MAX + 1], extra: [0; 29], first: [0; 29] };
    let (mut symbol, mut len) = (0, MATCH_MIN);
    while symbol < 28 {
        let extra = if symbol < 8 { 0 } else { (symbol - 4) / 4 };
        lengths.extra[symbol] = extra as u8;
        lengths.first[symbol] = len as u16;
        let mut n = 0;
        while n < 1 << extra && len <= MATCH_MAX {
            lengths.symbol[len] = symbol as u8;
            len += 1;
            n += 1;
        }
        symbol += 1;
    }
    lengths.symbol[MATCH_MAX] = 28;
    lengths.first[28] = MATCH_MAX as u16;
    lengths
};

/// The symbol of a distance: two for each power of two.
#[inline(always)]
fn distance_symbol(distance: usize) -> usize {
    let less = distance - 1;
    if less < 4 {
        return less;
    }
    let log = less.ilog2() as usize;
    2 * log + (less >> (log - 1) & 1)
}

/// Bits on their way into bytes, the first in the lowest.
struct Bits<'o> {
    out: &'o mut [u8],
    len: usize,
    held: u64,
    count: u32,
}

impl Bits<'_> {
    /// Sends at most 32 bits. `None` when `out` is full.
    #[inline(always)]
    fn put(&mut self, bits: u32, count: u32) -> Option<()> {
        self.held |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            let word = self.out.get_mut(self.len..)?.first_chunk_mut::<4>()?;
            *word = (self.held as u32).to_le_bytes();
            self.len += 4;
            self.held >>= 32;
            self.count -= 32;
        }
        Some(())
    }

    fn finish(mut self) -> Option<usize> {
        while self.count > 0 {
            *self.out.get_mut(self.len)? = self.held as u8;
            self.len += 1;
            self.held >>= 8;
            self.count = self.count.saturating_sub(8);
        }
        Some(self.len)
    }
}

/// Sends blocks; keeps its memory.
#[derive(Default)]
pub(super) struct Writer {
    pieces: Vec<Counts>,
    work: Vec<u64>,
    /// Code lengths, runs taken together: symbol and extra bits.
    runs: Vec<(u8, u8)>,
}

/// The code of one block.
struct Codes {
    literal_lens: [u8; LITERALS],
    distance_lens: [u8; DISTANCES],
}

impl Writer {
    /// Sends a way from its start as a whole stream; its length in bytes, or `None` if it does not fit.
    pub(super) fn write(&mut self, mut walk: Walk<'_>, out: &mut [u8]) -> Option<usize> {
        self.split(walk);
        let room = out.len() as u64 * 8;
        let least: f32 = self.pieces.iter().map(Counts::bits).sum();
        if least > room as f32 {
            return None;
        }
        let mut bits = Bits { out, len: 0, held: 0, count: 0 };
        let pieces = std::mem::take(&mut self.pieces);
        let mut sent = Some(());
        for (n, counts) in pieces.iter().enumerate() {
            sent = sent.and_then(|()| self.send(&mut bits, &mut walk, counts, n + 1 == pieces.len()));
        }
        self.pieces = pieces;
        sent?;
        bits.finish()
    }

    /// Cuts a way into blocks: one at least.
    fn split(&mut self, mut walk: Walk<'_>) {
        self.pieces.clear();
        let mut bits: Vec<f32> = Vec::new();
        loop {
            let counts = Counts::of(&mut walk);
            if counts.symbols == 0 && !self.pieces.is_empty() {
                return;
            }
            let own = counts.bits();
            if let (Some(last), Some(last_bits)) = (self.pieces.last_mut(), bits.last_mut()) {
                let mut joined = last.clone();
                joined.add(&counts);
                let joined_bits = joined.bits();
                if joined_bits < *last_bits + own + HEADER_BITS {
                    *last = joined;
                    *last_bits = joined_bits;
                    continue;
                }
            }
            self.pieces.push(counts);
            bits.push(own);
        }
    }

    /// Sends the next symbols of a way, as many as were counted.
    fn send(
        &mut self,
        bits: &mut Bits<'_>,
        walk: &mut Walk<'_>,
        counts: &Counts,
        is_last: bool,
    ) -> Option<()> {
        let mut counted = counts.literals;
        counted[END] = 1;
        let mut own = Codes { literal_lens: [0; LITERALS], distance_lens: [0; DISTANCES] };
        lengths(&counted, LEN_MAX, &mut own.literal_lens, &mut self.work);
        lengths(&counts.distances, LEN_MAX, &mut own.distance_lens, &mut self.work);
        if counts.distances.iter().all(|count| *count == 0) {
            // One code of one bit that is never sent.
            own.distance_lens[0] = 1;
        }
        let (header_bits, tables) = self.plan_header(&own);
        let cost = |lens: &Codes| -> u64 {
            let each = |counts: &[u32], lens: &[u8]| -> u64 {
                counts.iter().zip(lens).map(|(count, len)| u64::from(*count) * u64::from(*len)).sum()
            };
            each(&counted, &lens.literal_lens) + each(&counts.distances, &lens.distance_lens)
        };
        let is_fixed = cost(&FIXED) <= cost(&own) + header_bits;
        bits.put(u32::from(is_last), 1)?;
        if is_fixed {
            bits.put(1, 2)?;
            return send_symbols(bits, walk, counts.symbols, &FIXED);
        }
        bits.put(2, 2)?;
        self.send_header(bits, &tables)?;
        send_symbols(bits, walk, counts.symbols, &own)
    }
}

/// What a block's header says of its codes.
struct Tables {
    literals: usize,
    distances: usize,
    lens: [u8; 19],
    codes: usize,
}

impl Writer {
    /// Takes the code lengths together; how many bits the header has, and what it says.
    fn plan_header(&mut self, own: &Codes) -> (u64, Tables) {
        let used = |lens: &[u8], least: usize| {
            lens.iter().rposition(|len| *len > 0).map_or(least, |n| (n + 1).max(least))
        };
        let (literals, distances) = (used(&own.literal_lens, 257), used(&own.distance_lens, 1));
        let mut all = [0_u8; LITERALS + DISTANCES];
        all[..literals].copy_from_slice(&own.literal_lens[..literals]);
        all[literals..literals + distances].copy_from_slice(&own.distance_lens[..distances]);
        self.find_runs(&all[..literals + distances]);
        let mut counts = [0_u32; 19];
        self.runs.iter().for_each(|(symbol, _)| counts[usize::from(*symbol)] += 1);
        let mut lens = [0; 19];
        lengths(&counts, LEN_LEN_MAX, &mut lens, &mut self.work);
        let codes = ORDER.iter().rposition(|symbol| lens[*symbol] > 0).map_or(4, |n| (n + 1).max(4));
        let runs = self
            .runs
            .iter()
            .map(|(symbol, _)| u64::from(lens[usize::from(*symbol)]) + u64::from(extra_of(*symbol)));
        (14 + 3 * codes as u64 + runs.sum::<u64>(), Tables { literals, distances, lens, codes })
    }

    fn find_runs(&mut self, all: &[u8]) {
        self.runs.clear();
        let mut rest = all;
        while let Some((&len, _)) = rest.split_first() {
            let count = rest.iter().take_while(|other| **other == len).count();
            let taken = match (len, count) {
                (0, 11..) => self.push_run(18, 11, count.min(138)),
                (0, 3..) => self.push_run(17, 3, count.min(10)),
                (0, _) => self.push_run(0, 1, 1),
                (_, 4..) => {
                    self.push_run(len, 1, 1);
                    1 + self.push_run(16, 3, (count - 1).min(6))
                }
                _ => self.push_run(len, 1, 1),
            };
            rest = &rest[taken..];
        }
    }

    fn push_run(&mut self, symbol: u8, least: usize, count: usize) -> usize {
        self.runs.push((symbol, (count - least) as u8));
        count
    }

    fn send_header(&self, bits: &mut Bits<'_>, tables: &Tables) -> Option<()> {
        bits.put((tables.literals - 257) as u32, 5)?;
        bits.put((tables.distances - 1) as u32, 5)?;
        bits.put((tables.codes - 4) as u32, 4)?;
        for symbol in &ORDER[..tables.codes] {
            bits.put(u32::from(tables.lens[*symbol]), 3)?;
        }
        let mut all = [Code::default(); 19];
        codes(&tables.lens, &mut all);
        for (symbol, extra) in &self.runs {
            let code = all[usize::from(*symbol)];
            bits.put(u32::from(code.bits), u32::from(code.len))?;
            bits.put(u32::from(*extra), u32::from(extra_of(*symbol)))?;
        }
        Some(())
    }
}

/// Extra bits of a code length (RFC 1951 section 3.2.7).
const fn extra_of(symbol: u8) -> u8 {
    match symbol {
        16 => 2,
        17 => 3,
        18 => 7,
        _ => 0,
    }
}

/// The fixed code (RFC 1951 section 3.2.6). Its symbols 286 and 287 do not occur, but count.
const FIXED: Codes = {
    let mut lens = [8; LITERALS];
    let mut n = 144;
    while n < LITERALS {
        lens[n] = if n < 256 {
            9
        } else if n < 280 {
            7
        } else {
            8
        };
        n += 1;
    }
    Codes { literal_lens: lens, distance_lens: [5; DISTANCES] }
};

fn send_symbols(bits: &mut Bits<'_>, walk: &mut Walk<'_>, count: usize, lens: &Codes) -> Option<()> {
    let mut literals = [Code::default(); LITERALS];
    let mut distances = [Code::default(); 32];
    codes(&lens.literal_lens, &mut literals);
    codes(&lens.distance_lens, &mut distances);
    let mut left = count;
    while left > 0 {
        let (step, symbols) = walk.next(left)?;
        left -= symbols;
        let repeat = match step {
            Step::Bytes(bytes) => {
                for byte in bytes {
                    let code = literals[usize::from(*byte)];
                    bits.put(u32::from(code.bits), u32::from(code.len))?;
                }
                continue;
            }
            Step::Again(repeat) => repeat,
        };
        let len = usize::from(repeat.len);
        let symbol = usize::from(LENGTHS.symbol[len]);
        let code = literals[257 + symbol];
        let extra = (len as u32) - u32::from(LENGTHS.first[symbol]);
        bits.put(u32::from(code.bits) | extra << code.len, u32::from(code.len + LENGTHS.extra[symbol]))?;
        let distance = usize::from(repeat.distance);
        let symbol = distance_symbol(distance);
        let code = distances[symbol];
        let extra_bits = (symbol as u32 / 2).saturating_sub(1);
        let extra = (distance as u32 - 1) & ((1 << extra_bits) - 1);
        bits.put(u32::from(code.bits) | extra << code.len, u32::from(code.len) + extra_bits)?;
    }
    let end = literals[END];
    bits.put(u32::from(end.bits), u32::from(end.len))
}
