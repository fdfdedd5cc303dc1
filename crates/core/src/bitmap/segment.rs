//! [`Segments`]: what was written between moments, kept for as long as a bitmap needs it.
//!
//! ```text
//!   number   3         4         5         6 (being marked)
//!   content  |  parts  |  parts  |  parts  |
//!                      ▲         ▲
//!            a bitmap that records since 4 is made of its own bits, 4, 5 and what is being marked
//! ```
//! Invariants: no two neighbours that no bitmap tells apart; no segment that nobody needs. So there are never more of them
//! than bitmaps, and a thousand bitmaps that began together share one.

use std::collections::{BTreeMap, VecDeque};

use super::{Bits, Granularity};

/// A closed segment: one part per granularity that was marked.
struct Segment {
    number: u64,
    parts: Vec<Bits>,
}

impl Segment {
    fn merge(&mut self, parts: Vec<Bits>) {
        for part in parts {
            match self.parts.iter_mut().find(|known| known.granularity() == part.granularity()) {
                Some(known) => known.merge(&part),
                None => self.parts.push(part),
            }
        }
    }
}

/// The closed segments of a node, and who needs them.
#[derive(Default)]
pub(super) struct Segments {
    /// The number of the one that is being marked.
    now: u64,
    closed: VecDeque<Segment>,
    /// How many bitmaps record since each.
    since: BTreeMap<u64, usize>,
}

impl Segments {
    /// Closes what was marked. With nothing marked, nothing changes.
    pub(super) fn close(&mut self, parts: Vec<Bits>) {
        if parts.is_empty() || self.since.is_empty() {
            return;
        }
        let is_told_apart = self.since.contains_key(&self.now);
        match self.closed.back_mut() {
            Some(last) if !is_told_apart => last.merge(parts),
            _ => {
                self.closed.push_back(Segment { number: self.now, parts });
                self.now += 1;
            }
        }
    }

    /// A bitmap records from now on. What was marked before must have been closed.
    pub(super) fn begin(&mut self) -> u64 {
        *self.since.entry(self.now).or_default() += 1;
        self.now
    }

    /// A bitmap that records since `since` needs nothing from here on.
    pub(super) fn end(&mut self, since: u64) {
        if let Some(count) = self.since.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                self.since.remove(&since);
                self.forget(since);
            }
        }
    }

    /// Nobody begins at `since` any more.
    fn forget(&mut self, since: u64) {
        let oldest = self.since.keys().next().copied().unwrap_or(u64::MAX);
        while self.closed.front().is_some_and(|segment| segment.number < oldest) {
            self.closed.pop_front();
        }
        let at = self.closed.partition_point(|segment| segment.number < since);
        let is_here = self.closed.get(at).is_some_and(|segment| segment.number == since);
        if is_here
            && at > 0
            && let Some(segment) = self.closed.remove(at)
        {
            self.closed.get_mut(at - 1).into_iter().for_each(|before| before.merge(segment.parts.clone()));
        }
    }

    /// Adds to `bits` what was written since `since`.
    pub(super) fn add_to(&self, bits: &mut Bits, since: u64) {
        let first = self.closed.partition_point(|segment| segment.number < since);
        for part in self.closed.iter().skip(first).flat_map(|segment| &segment.parts) {
            bits.merge(part);
        }
    }

    /// What was written since each of the moments `since` (newest first), at one granularity.
    pub(super) fn since_each(&self, since: &[u64], empty: &Bits) -> Vec<Bits> {
        let mut sum = empty.clone();
        let mut closed = self.closed.iter().rev().peekable();
        let mut sums = Vec::with_capacity(since.len());
        for moment in since {
            while let Some(segment) = closed.next_if(|segment| segment.number >= *moment) {
                segment.parts.iter().for_each(|part| sum.merge(part));
            }
            sums.push(sum.clone());
        }
        sums
    }

    /// The disk has another length.
    pub(super) fn truncate(&mut self, len_bytes: u64) {
        self.closed
            .iter_mut()
            .flat_map(|segment| &mut segment.parts)
            .for_each(|part| part.truncate(len_bytes));
    }

    /// All closed parts.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Bits> {
        self.closed.iter().flat_map(|segment| &segment.parts)
    }
}

/// The finest of some granularities.
pub(super) fn finest(granularities: impl Iterator<Item = Granularity>) -> Option<Granularity> {
    granularities.min()
}
