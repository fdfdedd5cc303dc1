//! Deflate for clusters: streams that refer back 4 KiB at most.
//!
//! ```text
//!   cluster ──matches──► tokens (literal | length, distance) ──block──► pieces with one code each ──► bits
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
//! tokens, kept from one cluster to the next. Source: RFC 1951.
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

/// A byte, or a length of 3 to 258 bytes and a distance of 1 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token(u32);

impl Token {
    const MATCH: u32 = 1 << 31;

    const fn literal(byte: u8) -> Self {
        Self(byte as u32)
    }

    const fn copy(len: usize, distance: usize) -> Self {
        Self(Self::MATCH | (len as u32) << 16 | distance as u32)
    }

    const fn is_copy(self) -> bool {
        self.0 & Self::MATCH != 0
    }

    const fn len(self) -> usize {
        (self.0 >> 16 & 0x1ff) as usize
    }

    const fn distance(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

/// Compresses clusters, one after the other.
pub(super) struct Deflate {
    matcher: Matcher,
    tokens: Vec<Token>,
    blocks: block::Writer,
}

impl Deflate {
    /// With empty tables.
    pub(super) fn new() -> Self {
        Self { matcher: Matcher::new(), tokens: Vec::new(), blocks: block::Writer::default() }
    }

    /// Puts the stream of `input` at the start of `out`; its length, or `None` if it does not fit.
    pub(super) fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Option<usize> {
        // At once: a vector that grows leaves all that it has outgrown behind.
        self.tokens.clear();
        self.tokens.reserve_exact(input.len());
        self.matcher.tokens(input, &mut self.tokens);
        self.blocks.write(&self.tokens, out)
    }
}

#[cfg(test)]
mod tests;
