//! [`Inbound`]: what was received and not used yet, and where to receive more.
//!
//! ```text
//!            used    start                      end
//!   chunk  |-------|==header==payload==header==|------- space -------|
//!                             \______/
//!                              split off: becomes the buffer of a write, never copied
//! ```
//! When a payload does not fit into what is left of the chunk, the part that is here already is copied to the start of
//! another chunk; a long payload gets a buffer of its own instead, into which the rest is received directly. So no byte of
//! a payload is copied more than once, and most are not.
//!
//! Memory: one chunk, and whatever payloads the caller holds. A payload that was split off keeps its whole chunk alive.
//!
//! Not here: what the bytes mean, and how many payloads may be held ([`super::conn`]).

use drystone_buf::{Buf, Pool};

/// Bytes received at once. A unix socket holds about 200 KiB.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// A chunk with less than this left is not received into any more, once all of it is used.
const ROOM_BYTES_MIN: usize = CHUNK_BYTES / 2;
/// Room that there always is for more: the longest header fits into it several times.
const SPACE_BYTES_MIN: usize = 256;
/// A longer payload gets a buffer of its own.
const PAYLOAD_BYTES_MAX: usize = CHUNK_BYTES / 2;

/// The receive buffer of one connection.
pub(super) struct Inbound {
    pool: Pool,
    chunk: Buf,
    start: usize,
    end: usize,
    large: Option<Large>,
}

/// A payload that is received into a buffer of its own.
struct Large {
    buf: Buf,
    filled: usize,
}

impl Inbound {
    pub(super) fn new(pool: Pool) -> Self {
        let chunk = pool.take(CHUNK_BYTES);
        Self { pool, chunk, start: 0, end: 0, large: None }
    }

    /// What was received and not used yet.
    pub(super) fn unread(&self) -> &[u8] {
        self.chunk.as_slice().get(self.start..self.end).unwrap_or_default()
    }

    /// The first `len_bytes` of [`Self::unread`] were used.
    ///
    /// # Panics
    /// If there are fewer.
    pub(super) fn consume(&mut self, len_bytes: usize) {
        self.start += len_bytes;
        assert!(self.start <= self.end, "more was used than was received");
    }

    /// Where to receive next. Never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.large.is_none() {
            self.make_room();
        }
        match &mut self.large {
            Some(Large { buf, filled }) => buf.as_mut_slice().get_mut(*filled..).unwrap_or_default(),
            None => self.chunk.as_mut_slice().get_mut(self.end..).unwrap_or_default(),
        }
    }

    /// `len_bytes` were received into [`Self::space`].
    pub(super) fn received(&mut self, len_bytes: usize) {
        match &mut self.large {
            Some(large) => large.filled += len_bytes,
            None => self.end += len_bytes,
        }
    }

    fn make_room(&mut self) {
        if self.start == self.end {
            if self.chunk.len() < ROOM_BYTES_MIN {
                self.chunk = self.pool.take(CHUNK_BYTES);
            }
            (self.start, self.end) = (0, 0);
        } else if self.chunk.len() - self.end < SPACE_BYTES_MIN {
            self.move_on();
        }
    }

    /// Goes on in another chunk. There is little unread.
    fn move_on(&mut self) {
        let mut next = self.pool.take(CHUNK_BYTES);
        let len = copy(self.unread(), next.as_mut_slice());
        self.chunk = next;
        (self.start, self.end) = (0, len);
    }

    /// The next `len_bytes`, once all of them were received; `None` if more is to be received first.
    pub(super) fn payload(&mut self, len_bytes: usize) -> Option<Buf> {
        if let Some(large) = self.large.take_if(|large| large.filled == large.buf.len()) {
            return Some(large.buf);
        }
        if self.large.is_some() {
            return None;
        }
        if self.end - self.start >= len_bytes {
            return Some(self.split(len_bytes));
        }
        // Also what would fit but leave no room at all: `make_room` moves only little.
        let fits = self.start + len_bytes + SPACE_BYTES_MIN <= self.chunk.len();
        if !fits && len_bytes <= PAYLOAD_BYTES_MAX {
            self.move_on();
        } else if !fits {
            let mut buf = self.pool.take(len_bytes);
            let filled = copy(self.unread(), buf.as_mut_slice());
            self.start = self.end;
            self.large = Some(Large { buf, filled });
        }
        None
    }

    fn split(&mut self, len_bytes: usize) -> Buf {
        let mut payload = self.chunk.split_off(self.start);
        self.chunk = payload.split_off(len_bytes);
        (self.start, self.end) = (0, self.end - self.start - len_bytes);
        payload
    }

    /// Uses up to `len_bytes` that interest nobody; how many are still to come.
    pub(super) fn skip(&mut self, len_bytes: usize) -> usize {
        let here = len_bytes.min(self.end - self.start);
        self.consume(here);
        len_bytes - here
    }
}

/// Copies to the start of a buffer that is long enough.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    if let Some(start) = to.get_mut(..from.len()) {
        start.copy_from_slice(from);
    }
    from.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_base::rng::Rng;

    /// Receives `stream` in pieces of at most `piece` bytes while taking `(skipped, payload)` pairs off it.
    fn take_all(stream: &[u8], parts: &[(usize, usize)], mut piece: impl FnMut() -> usize) {
        let mut inbound = Inbound::new(Pool::new(1 << 22));
        let (mut left, mut at, mut held) = (stream, 0, Vec::new());
        let mut receive = |inbound: &mut Inbound| {
            let space = inbound.space();
            let len = piece().clamp(1, space.len()).min(left.len());
            assert!(len > 0, "waits for bytes that do not come");
            space[..len].copy_from_slice(&left[..len]);
            left = &left[len..];
            inbound.received(len);
        };
        for (head, payload) in parts {
            while inbound.unread().len() < *head {
                receive(&mut inbound);
            }
            assert_eq!(&inbound.unread()[..*head], &stream[at..at + head]);
            inbound.consume(*head);
            at += head;
            let buf = loop {
                match inbound.payload(*payload) {
                    Some(buf) => break buf,
                    None => receive(&mut inbound),
                }
            };
            held.push((at, buf));
            at += payload;
        }
        for (at, buf) in held {
            assert_eq!(buf.as_slice(), &stream[at..at + buf.len()], "the payload at {at}");
        }
    }

    #[test]
    fn payloads_of_every_length_arrive_whole_however_they_are_cut() {
        for seed in 0..12 {
            let mut rng = Rng::new(seed);
            let lengths = [0, 1, 512, 4096, 65_536, CHUNK_BYTES - 300, CHUNK_BYTES, CHUNK_BYTES + 1, 1 << 20];
            let parts: Vec<_> = (0..20).map(|_| (28, lengths[rng.index(lengths.len())])).collect();
            let mut stream = vec![0; parts.iter().map(|(head, payload)| head + payload).sum()];
            rng.fill(&mut stream);
            let longest = [5_000, 100_000, 1 << 20][rng.index(3)];
            take_all(&stream, &parts, || 1 + rng.index(longest));
        }
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let stream: Vec<u8> = (0..=255).cycle().take(3 * 28 + 5000).collect();
        take_all(&stream, &[(28, 4096), (28, 0), (28, 904)], || 1);
    }

    #[test]
    fn headers_alone_use_the_same_chunk_for_ever() {
        let mut inbound = Inbound::new(Pool::new(1 << 20));
        let first = inbound.space().as_ptr();
        for _ in 0..100_000 {
            inbound.space()[..28].fill(1);
            inbound.received(28);
            inbound.consume(28);
        }
        assert_eq!(inbound.space().as_ptr(), first);
    }

    #[test]
    fn what_is_skipped_needs_no_room() {
        let mut inbound = Inbound::new(Pool::new(1 << 20));
        let mut left = 32 << 20;
        while left > 0 {
            let len = inbound.space().len();
            inbound.received(len);
            left = inbound.skip(left);
        }
        assert!(inbound.large.is_none());
    }
}
