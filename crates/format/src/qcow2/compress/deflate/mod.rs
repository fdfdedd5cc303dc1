//! Deflate for clusters: streams that refer back 4 KiB at most.
//!
//! ```text
//!   cluster ──matches──► copies (place, length, distance) ──block──► pieces with one code each ──► bits
//! ```
//! The short window is the point: with it, everything that the search looks at stays in the processor's nearest cache, and
//! the chains are short enough to be followed to their end. General compressors are made for eight times the window.
//!
//! | module | what |
//! |---|---|
//! | `matches` | where bytes were before |
//! | `block` | where one code ends and the next begins; headers; bits |
//! | `huffman` | codes from counts |
//!
//! Invariants: the stream is one of RFC 1951; it is shorter than `out`, or there is none; memory is that of one cluster's
//! copies, kept from one cluster to the next; what is between them is looked up in the cluster. Source: RFC 1951.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the hot loops of compression: indices are masked to, or computed from, the lengths of their arrays, and all \
              numbers are below those of a cluster's bytes"
)]

mod block;
mod huffman;
mod matches;

use matches::Matcher;

/// Longest match (RFC 1951 section 3.2.5).
const MATCH_MAX: usize = 258;
/// Shortest match.
const MATCH_MIN: usize = 3;
/// Codes of literals and lengths (the last two are never sent), and of distances up to 4 KiB.
const LITERALS: usize = 288;
const DISTANCES: usize = 24;
/// The code that ends a block.
const END: usize = 256;

/// Bytes of a cluster that were there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Repeat {
    /// Their place in the cluster.
    at: u32,
    /// 3 to 258.
    len: u16,
    /// How far back they are: 1 to 4096.
    distance: u16,
}

/// A way through a cluster: bytes as they are, and repeats.
#[derive(Clone, Copy)]
struct Walk<'i> {
    input: &'i [u8],
    at: usize,
    repeats: &'i [Repeat],
}

/// The next part of a way.
enum Step<'i> {
    Bytes(&'i [u8]),
    Again(Repeat),
}

impl<'i> Walk<'i> {
    /// The next repeat, or the bytes before it, `most` of them at most; how many symbols that are. `None` at the end.
    #[inline(always)]
    fn next(&mut self, most: usize) -> Option<(Step<'i>, usize)> {
        let end = match self.repeats.split_first() {
            Some((repeat, behind)) if repeat.at as usize == self.at => {
                self.repeats = behind;
                self.at += usize::from(repeat.len);
                return Some((Step::Again(*repeat), 1));
            }
            Some((repeat, _)) => repeat.at as usize,
            None => self.input.len(),
        };
        let bytes = &self.input[self.at..end.min(self.at + most)];
        self.at += bytes.len();
        (!bytes.is_empty()).then_some((Step::Bytes(bytes), bytes.len()))
    }
}

/// Compresses clusters, one after the other.
pub(super) struct Deflate {
    matcher: Matcher,
    repeats: Vec<Repeat>,
    blocks: block::Writer,
}

impl Deflate {
    /// With empty tables.
    pub(super) fn new() -> Self {
        Self { matcher: Matcher::new(), repeats: Vec::new(), blocks: block::Writer::default() }
    }

    /// Puts the stream of `input` at the start of `out`; its length, or `None` if it does not fit.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        self.matcher.repeats(input, &mut self.repeats);
        self.blocks.write(Walk { input, at: 0, repeats: &self.repeats }, out)
    }
}

#[cfg(test)]
mod tests;
