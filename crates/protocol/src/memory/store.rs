//! The bytes of a disk in memory.
//!
//! ```text
//!   chunk number = offset / CHUNK_BYTES        stripe = chunk number % STRIPES
//!   stripe: chunk number -> CHUNK_BYTES bytes  no entry: zeroes
//! ```
//! Invariants: a chunk holds zeroes past the end of the disk; nobody holds the locks of two stripes at once. The length
//! is the core's to know.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use drystone_base::{Error, GuestOffset, GuestRange, Kind, LEN_MAX, Result};

/// What is allocated at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks are spread over this many locks, so that threads rarely meet.
const STRIPES: usize = 16;

type Chunks = BTreeMap<u64, Vec<u8>>;

#[derive(Default)]
pub(super) struct Store {
    stripes: [RwLock<Chunks>; STRIPES],
}

/// The part of a range that lies in one chunk.
struct Part {
    chunk: u64,
    /// Where the part begins in the chunk.
    from: usize,
    len: usize,
}

/// Cuts `range` at the borders of chunks.
fn parts(range: GuestRange) -> impl Iterator<Item = Part> {
    let mut rest = range;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.start().get();
        let from = at % CHUNK_BYTES as u64;
        let len = (CHUNK_BYTES as u64 - from).min(rest.len());
        rest = rest.skip(len);
        let within = |n: u64| usize::try_from(n).unwrap_or(CHUNK_BYTES);
        Some(Part { chunk: at / CHUNK_BYTES as u64, from: within(from), len: within(len) })
    })
}

fn range_of(at: u64, len: usize) -> GuestRange {
    GuestRange::new(GuestOffset::new(at), len as u64)
}

impl Part {
    fn of<'c>(&self, chunk: &'c [u8]) -> &'c [u8] {
        chunk.get(self.from..self.from + self.len).unwrap_or_default()
    }

    fn of_mut<'c>(&self, chunk: &'c mut [u8]) -> &'c mut [u8] {
        chunk.get_mut(self.from..self.from + self.len).unwrap_or_default()
    }
}

impl Store {
    fn stripe(&self, chunk: u64) -> &RwLock<Chunks> {
        let index = usize::try_from(chunk % STRIPES as u64).unwrap_or(0);
        match self.stripes.get(index) {
            Some(stripe) => stripe,
            None => unreachable!("a number modulo STRIPES is below it"),
        }
    }

    fn chunks(&self, chunk: u64) -> RwLockReadGuard<'_, Chunks> {
        self.stripe(chunk).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks_mut(&self, chunk: u64) -> RwLockWriteGuard<'_, Chunks> {
        self.stripe(chunk).write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) {
        let mut rest = bytes;
        for part in parts(range_of(at, rest.len())) {
            let (here, behind) = rest.split_at_mut(part.len);
            match self.chunks(part.chunk).get(&part.chunk) {
                Some(chunk) => here.copy_from_slice(part.of(chunk)),
                None => here.fill(0),
            }
            rest = behind;
        }
    }

    /// Fails with [`Kind::NoSpace`] if there is no memory; a beginning of the range may have been written then.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for part in parts(range_of(at, rest.len())) {
            let (here, behind) = rest.split_at(part.len);
            let mut chunks = self.chunks_mut(part.chunk);
            if let Some(chunk) = chunks.get_mut(&part.chunk) {
                part.of_mut(chunk).copy_from_slice(here);
            } else {
                let mut chunk = Vec::new();
                chunk.try_reserve_exact(CHUNK_BYTES).map_err(|cause| {
                    Error::new(Kind::NoSpace, "there is no memory for another chunk").because(cause)
                })?;
                chunk.resize(CHUNK_BYTES, 0);
                part.of_mut(&mut chunk).copy_from_slice(here);
                chunks.insert(part.chunk, chunk);
            }
            rest = behind;
        }
        Ok(())
    }

    /// Whole chunks give their memory back.
    pub(super) fn zero(&self, range: GuestRange) {
        let chunk_bytes = CHUNK_BYTES as u64;
        let start = range.start().get();
        let head = range.take(start.next_multiple_of(chunk_bytes) - start);
        let rest = range.skip(head.len());
        let whole = rest.take(rest.len() - rest.len() % chunk_bytes);
        let tail = rest.skip(whole.len());
        for part in parts(head).chain(parts(tail)) {
            self.zero_part(&part);
        }
        self.forget(whole.start().get() / chunk_bytes, whole.end().get() / chunk_bytes);
    }

    fn zero_part(&self, part: &Part) {
        if let Some(chunk) = self.chunks_mut(part.chunk).get_mut(&part.chunk) {
            part.of_mut(chunk).fill(0);
        }
    }

    /// Forgets the chunks `first .. end`.
    fn forget(&self, first: u64, end: u64) {
        for stripe in self.stripes.iter().filter(|_| first < end) {
            let mut chunks = stripe.write().unwrap_or_else(PoisonError::into_inner);
            let gone: Vec<u64> = chunks.range(first..end).map(|(chunk, _)| *chunk).collect();
            for chunk in gone {
                chunks.remove(&chunk);
            }
        }
    }

    /// Forgets what lies past `len`.
    pub(super) fn truncate(&self, len: u64) {
        let len = len.min(LEN_MAX);
        self.zero(GuestRange::new(GuestOffset::new(len), LEN_MAX - len));
    }

    /// Whether the first bytes of `range` (not empty) are stored, and how many.
    pub(super) fn extent(&self, range: GuestRange) -> (bool, u64) {
        let first = range.start().get() / CHUNK_BYTES as u64;
        let is_data = self.chunks(first).contains_key(&first);
        let end_chunk = if is_data {
            let mut chunk = first + 1;
            while chunk * (CHUNK_BYTES as u64) < range.end().get() && self.chunks(chunk).contains_key(&chunk)
            {
                chunk += 1;
            }
            chunk
        } else {
            let next = |stripe: &RwLock<Chunks>| {
                let chunks = stripe.read().unwrap_or_else(PoisonError::into_inner);
                chunks.range(first..).next().map(|(chunk, _)| *chunk)
            };
            self.stripes.iter().filter_map(next).min().unwrap_or(u64::MAX / CHUNK_BYTES as u64)
        };
        let end = (end_chunk * CHUNK_BYTES as u64).min(range.end().get());
        (is_data, end - range.start().get())
    }
}
