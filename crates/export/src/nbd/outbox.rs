//! [`Outbox`]: replies on their way to the peer, sent many at a time.
//!
//! ```text
//!   reply  [head|body]   [head]   [head|body] ...      one `sendmsg` for as many as are there
//!               ^ sent so far
//! ```
//! Invariant: a reply leaves the queue when all of it was sent, and its buffer with it.

use std::collections::VecDeque;
use std::io::IoSlice;

use drystone_base::Result;
use drystone_buf::Buf;
use drystone_nbd::HeadBuf;
use drystone_nbd::reply::HEAD_BYTES_MAX;
use smallvec::SmallVec;

use super::load::Cost;
use super::spare::Spare;

/// Pieces of memory that one system call sends.
const PIECES_MAX: usize = 64;

/// One reply, or one chunk of one.
pub(super) struct Reply {
    head: HeadBuf,
    head_bytes: u8,
    body: Option<Buf>,
    cost: Cost,
}

impl Reply {
    /// A head that `write` makes, and what follows it. `cost` is given back once it was sent.
    pub(super) fn new(body: Option<Buf>, cost: Cost, write: impl FnOnce(&mut HeadBuf) -> usize) -> Self {
        let mut head = [0; HEAD_BYTES_MAX];
        let head_bytes = u8::try_from(write(&mut head)).unwrap_or(0); // a head has at most 44 bytes
        Self { head, head_bytes, body, cost }
    }

    fn head(&self) -> &[u8] {
        self.head.get(..usize::from(self.head_bytes)).unwrap_or_default()
    }

    fn body(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], Buf::as_slice)
    }

    fn len(&self) -> usize {
        self.head().len() + self.body().len()
    }
}

/// What became of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything.
    All,
    /// The peer takes no more at the moment.
    Blocked,
}

/// The replies of one connection, in the order in which they are sent.
#[derive(Default)]
pub(super) struct Outbox {
    queue: VecDeque<Reply>,
    /// How much of the first one was sent.
    sent_bytes: usize,
    /// How much is left of all.
    left_bytes: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, reply: Reply) {
        self.left_bytes += reply.len();
        self.queue.push_back(reply);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn left_bytes(&self) -> usize {
        self.left_bytes
    }

    /// Calls `send` with what is there until it takes no more, which is when it returns nothing. Returns the cost of the
    /// replies that were sent whole; their buffers go to `spare`.
    pub(super) fn flush(
        &mut self,
        spare: &Spare,
        mut send: impl FnMut(&[IoSlice<'_>]) -> Result<Option<usize>>,
    ) -> (Result<Sent>, Cost) {
        let mut cost = Cost::NOTHING;
        while !self.queue.is_empty() {
            let outcome = send(&self.pieces());
            match outcome {
                Ok(Some(sent_bytes)) => cost = cost.and(self.advance(sent_bytes, spare)),
                Ok(None) => return (Ok(Sent::Blocked), cost),
                Err(error) => return (Err(error), cost),
            }
        }
        (Ok(Sent::All), cost)
    }

    fn pieces(&self) -> SmallVec<[IoSlice<'_>; PIECES_MAX]> {
        let mut pieces = SmallVec::new();
        let mut skip = self.sent_bytes;
        for reply in &self.queue {
            for piece in [reply.head(), reply.body()] {
                let piece = piece.get(skip.min(piece.len())..).unwrap_or_default();
                skip = skip.saturating_sub(reply.head().len());
                if !piece.is_empty() {
                    pieces.push(IoSlice::new(piece));
                }
            }
            skip = 0;
            if pieces.len() + 2 > PIECES_MAX {
                break;
            }
        }
        pieces
    }

    fn advance(&mut self, sent_bytes: usize, spare: &Spare) -> Cost {
        self.left_bytes -= sent_bytes;
        self.sent_bytes += sent_bytes;
        let mut cost = Cost::NOTHING;
        while let Some(first) = self.queue.front()
            && first.len() <= self.sent_bytes
        {
            self.sent_bytes -= first.len();
            cost = cost.and(first.cost);
            if let Some(body) = self.queue.pop_front().and_then(|reply| reply.body) {
                spare.give(body);
            }
        }
        cost
    }

    /// Forgets all replies; nobody will take them.
    pub(super) fn clear(&mut self) -> Cost {
        let cost = self.queue.iter().fold(Cost::NOTHING, |sum, reply| sum.and(reply.cost));
        *self = Self::default();
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_base::rng::Rng;
    use drystone_base::{Error, Kind};
    use drystone_buf::Pool;

    fn reply(byte: u8, head_bytes: usize, body_bytes: Option<usize>) -> Reply {
        let body = body_bytes.map(|len| Buf::copy_of(&vec![byte; len]));
        Reply::new(body, Cost::request(u64::from(byte)), |head| {
            head[..head_bytes].fill(byte);
            head_bytes
        })
    }

    #[test]
    fn bytes_leave_in_order_however_little_the_peer_takes() {
        let spare = Spare::new(Pool::new(0));
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let (mut outbox, mut expected, mut got) = (Outbox::default(), Vec::new(), Vec::new());
            let (mut cost, mut whole) = (Cost::NOTHING, Cost::NOTHING);
            for byte in 1..=100 {
                let (head, body) = (1 + rng.index(44), [None, Some(0), Some(1), Some(5000)][rng.index(4)]);
                expected.extend(vec![byte; head + body.unwrap_or(0)]);
                outbox.push(reply(byte, head, body));
                whole = whole.and(Cost::request(u64::from(byte)));
                let (result, sent) = outbox.flush(&spare, |pieces| {
                    assert!(!pieces.is_empty() && pieces.len() <= PIECES_MAX);
                    if rng.one_in(2) {
                        return Ok(None);
                    }
                    let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
                    let taken = 1 + rng.index(all.len());
                    got.extend_from_slice(&all[..taken]);
                    Ok(Some(taken))
                });
                result.unwrap();
                cost = cost.and(sent);
                assert_eq!(outbox.left_bytes(), expected.len() - got.len());
            }
            cost = cost.and(outbox.flush(&spare, |pieces| Ok(Some(push_all(pieces, &mut got)))).1);
            assert!(got == expected && outbox.is_empty());
            assert_eq!(cost, whole);
        }
    }

    fn push_all(pieces: &[IoSlice<'_>], got: &mut Vec<u8>) -> usize {
        pieces.iter().for_each(|piece| got.extend_from_slice(piece));
        pieces.iter().map(|piece| piece.len()).sum()
    }

    #[test]
    fn an_error_keeps_what_was_not_sent_for_whoever_clears_it() {
        let (mut outbox, spare) = (Outbox::default(), Spare::new(Pool::new(0)));
        outbox.push(reply(1, 16, None));
        outbox.push(reply(2, 16, Some(10)));
        let (result, cost) = outbox.flush(&spare, |_| Err(Error::new(Kind::Disconnected, "gone")));
        assert!(result.is_err() && cost == Cost::NOTHING);
        assert_eq!(outbox.clear(), Cost::request(1).and(Cost::request(2)));
        assert!(outbox.is_empty() && outbox.left_bytes() == 0);
    }
}
