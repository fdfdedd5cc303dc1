//! What is known of a request that was sent and not yet answered in full.
//!
//! A read is only complete when each of its bytes came exactly once: a server that leaves a gap, or sends a range twice, would
//! otherwise leave old memory in the reader's buffer.

use super::transmission::ReplyError;
use crate::error::NbdError;
use crate::export::ContextSet;
use crate::limit;
use crate::request::{Command, Request};
use crate::wire::CommandFlags;

/// A request in flight and what of its reply has come.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    /// The first error of the reply.
    pub(super) error: Option<NbdError>,
    /// The contexts whose status has come.
    contexts: ContextSet,
    content_chunks: u64,
    /// All bytes of a read up to here have come …
    prefix_end: u64,
    /// … and these ranges behind it: ascending, with gaps between them.
    islands: Vec<(u64, u64)>,
}

impl Asked {
    pub(super) const fn new(request: Request) -> Self {
        let (contexts, prefix_end) = (ContextSet::EMPTY, request.offset_bytes);
        Self { request, error: None, contexts, content_chunks: 0, prefix_end, islands: Vec::new() }
    }

    /// Notes a content chunk. Spec "`NBD_REPLY_TYPE_OFFSET_DATA`": not empty, inside the request, overlapping no other, the
    /// only one if `DF` was set.
    pub(super) fn content(&mut self, start: u64, len: u64) -> Result<(), ReplyError> {
        let request = &self.request;
        if request.command != Command::Read {
            return Err(ReplyError::Kind);
        }
        let request_end = request.offset_bytes + request.len_bytes; // checked when it was sent
        let end = start
            .checked_add(len)
            .filter(|end| len > 0 && start >= request.offset_bytes && *end <= request_end);
        let end = end.ok_or(ReplyError::OutOfRange)?;
        self.content_chunks += 1;
        if self.content_chunks > 1 && request.flags.has(CommandFlags::DF) {
            return Err(ReplyError::Fragmented);
        }
        self.cover(start, end)
    }

    fn cover(&mut self, start: u64, end: u64) -> Result<(), ReplyError> {
        let at = self.islands.partition_point(|island| island.1 <= start);
        let next = self.islands.get(at).copied();
        if start < self.prefix_end || next.is_some_and(|next| next.0 < end) {
            return Err(ReplyError::Overlap);
        }
        let joins_next = next.filter(|next| next.0 == end);
        let end = joins_next.map_or(end, |next| next.1);
        if joins_next.is_some() {
            self.islands.remove(at);
        }
        if start == self.prefix_end {
            self.prefix_end = end;
            return Ok(());
        }
        let full = self.islands.len() >= limit::READ_ISLANDS_MAX;
        match at.checked_sub(1).and_then(|left| self.islands.get_mut(left)) {
            Some(left) if left.1 == start => left.1 = end,
            _ if full => return Err(ReplyError::Fragmented),
            _ => self.islands.insert(at, (start, end)),
        }
        Ok(())
    }

    /// Notes the status chunk of the context at `index`.
    pub(super) fn status(&mut self, index: u32) -> Result<(), ReplyError> {
        if self.contexts.insert(index) { Ok(()) } else { Err(ReplyError::Context) }
    }

    /// Notes an error chunk. Spec "`NBD_REPLY_TYPE_ERROR_OFFSET`": inside the request.
    pub(super) fn fail(&mut self, error: NbdError, at: Option<u64>) -> Result<(), ReplyError> {
        let request = &self.request;
        let inside = |at: u64| at.checked_sub(request.offset_bytes).is_some_and(|n| n < request.len_bytes);
        if at.is_some_and(|at| !inside(at)) {
            return Err(ReplyError::OutOfRange);
        }
        self.error.get_or_insert(error);
        Ok(())
    }

    /// The outcome at the last chunk: a success has to be complete.
    pub(super) fn outcome(&self, contexts: ContextSet) -> Result<Result<(), NbdError>, ReplyError> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        let complete = match self.request.command {
            Command::Read => self.prefix_end == self.request.offset_bytes + self.request.len_bytes,
            Command::BlockStatus => self.contexts == contexts,
            _ => true,
        };
        if complete { Ok(Ok(())) } else { Err(ReplyError::Incomplete) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_base::rng::Rng;

    fn read(len_bytes: u64) -> Asked {
        let (command, flags) = (Command::Read, CommandFlags::NONE);
        Asked::new(Request { cookie: 0, offset_bytes: 100, len_bytes, command, flags })
    }

    #[test]
    fn pieces_in_any_order_make_a_whole_exactly_once() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut cuts: Vec<u64> =
                (0..rng.below(20)).map(|_| 100 + rng.below(1001)).chain([100, 1100]).collect();
            cuts.sort_unstable();
            cuts.dedup();
            let mut pieces: Vec<_> = cuts.windows(2).map(|cut| (cut[0], cut[1] - cut[0])).collect();
            for i in (1..pieces.len()).rev() {
                pieces.swap(i, rng.index(i + 1));
            }
            let mut asked = read(1000);
            for (start, len) in &pieces {
                assert_eq!(asked.outcome(ContextSet::EMPTY), Err(ReplyError::Incomplete), "seed {seed}");
                assert_eq!(asked.content(*start, *len), Ok(()), "seed {seed}");
                let again = start + rng.below(*len);
                assert_eq!(asked.content(again, 1), Err(ReplyError::Overlap), "seed {seed}");
            }
            assert_eq!(asked.outcome(ContextSet::EMPTY), Ok(Ok(())), "seed {seed}");
            assert!(asked.islands.is_empty(), "seed {seed}");
        }
    }

    #[test]
    fn a_piece_that_reaches_over_an_island_overlaps_it() {
        let mut asked = read(100);
        asked.content(150, 10).unwrap();
        for (start, len) in [(140, 11), (140, 40), (159, 1), (150, 10), (155, 20), (100, 100)] {
            assert_eq!(asked.content(start, len), Err(ReplyError::Overlap), "{start}+{len}");
        }
        assert_eq!(asked.islands, [(150, 160)]);
    }

    #[test]
    fn pieces_outside_the_request_or_empty_are_refused() {
        let mut asked = read(100);
        for (start, len) in
            [(99, 1), (99, 101), (200, 1), (100, 101), (u64::MAX, 1), (100, 0), (100, u64::MAX)]
        {
            assert_eq!(asked.content(start, len), Err(ReplyError::OutOfRange), "{start}+{len}");
        }
    }

    #[test]
    fn a_server_cannot_make_us_remember_endless_islands() {
        let mut asked = read(1 << 20);
        let mut results = (0..=limit::READ_ISLANDS_MAX as u64).map(|n| asked.content(101 + 2 * n, 1));
        assert_eq!(results.by_ref().take(limit::READ_ISLANDS_MAX).collect::<Result<(), _>>(), Ok(()));
        assert_eq!(results.next(), Some(Err(ReplyError::Fragmented)));
    }
}
