//! [`End`]: one end of a connection.
//!
//! ```text
//!   End ──send──► [ way: bytes, room ] ──recv──► End          one way for each direction
//! ```
//! | what happens to an end | its peer |
//! |---|---|
//! | it says that nothing more will come | reads what is there, then the end |
//! | it is shut down, or dropped with everything read | the same, and sends in vain (`EPIPE`) |
//! | it is dropped with something unread | is reset, and may lose what it has not read either |
//!
//! Source: unix(7), and tcp(7) for what is lost.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustix::io::Errno;
use rustix::net::Shutdown;

use super::PlayedWire;
use super::dice::Dice;
use super::waiting::Waiting;
use crate::engine::Interest;

/// One end of a connection. Dropping it closes it.
pub(super) struct End {
    pair: Arc<Pair>,
    /// The one that has connected, not the one that was connected to.
    is_first: bool,
}

struct Pair {
    dice: Arc<Dice>,
    /// From the first end to the second, and back.
    ways: Mutex<[Way; 2]>,
}

/// Bytes on their way in one direction.
#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    room_bytes: usize,
    /// Nothing more will come.
    is_finished: bool,
    /// Nobody will receive what is sent.
    is_deaf: bool,
    /// The sender has gone without listening to the end; to be told once.
    is_reset: bool,
    /// Those who wait for bytes, and for room.
    receivers: Waiting,
    senders: Waiting,
}

impl Way {
    fn is_ready(&self, interest: Interest) -> bool {
        match interest {
            Interest::Readable => !self.bytes.is_empty() || self.is_finished || self.is_deaf || self.is_reset,
            Interest::Writable => self.bytes.len() < self.room_bytes || self.is_finished || self.is_deaf,
        }
    }

    fn waiting(&mut self, interest: Interest) -> &mut Waiting {
        match interest {
            Interest::Readable => &mut self.receivers,
            Interest::Writable => &mut self.senders,
        }
    }

    /// Everybody, to look again.
    fn all(&mut self) -> Vec<Waker> {
        self.receivers.take().chain(self.senders.take()).collect()
    }
}

/// Both ends of a new connection, the one that has connected first.
pub(super) fn pair(dice: &Arc<Dice>) -> (Arc<End>, Arc<End>) {
    let ways = [(); 2].map(|()| Way { room_bytes: dice.room_bytes(), ..Way::default() });
    let pair = Arc::new(Pair { dice: Arc::clone(dice), ways: Mutex::new(ways) });
    let end = |is_first| Arc::new(End { pair: Arc::clone(&pair), is_first });
    (end(true), end(false))
}

impl End {
    fn lock(&self) -> MutexGuard<'_, [Way; 2]> {
        self.pair.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From this end, and to it.
    fn of<'w>(&self, ways: &'w mut [Way; 2]) -> (&'w mut Way, &'w mut Way) {
        let [first, second] = ways;
        if self.is_first { (first, second) } else { (second, first) }
    }

    /// Does something to the ways from this end and to it, and wakes whom that concerns.
    fn change<T>(&self, change: impl FnOnce(&mut Way, &mut Way) -> (T, Vec<Waker>)) -> T {
        let mut ways = self.lock();
        let (out, back) = self.of(&mut ways);
        let (result, woken) = change(out, back);
        drop(ways);
        woken.into_iter().for_each(Waker::wake);
        result
    }
}

impl PlayedWire for End {
    fn recv(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let dice = &self.pair.dice;
        self.change(|_, back| {
            let most_bytes = into.len().min(back.bytes.len());
            if most_bytes == 0 {
                let result = match () {
                    () if std::mem::take(&mut back.is_reset) => Err(Errno::CONNRESET),
                    () if back.is_finished || back.is_deaf => Ok(0),
                    () => Err(Errno::AGAIN),
                };
                return (result, Vec::new());
            }
            if dice.again() {
                return (Err(Errno::AGAIN), Vec::new());
            }
            let moved = dice.part(most_bytes);
            take(&mut back.bytes, into.get_mut(..moved).unwrap_or_default());
            (Ok(moved), back.senders.take().collect())
        })
    }

    fn send(&self, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let dice = &self.pair.dice;
        self.change(|out, _| {
            if out.is_finished || out.is_deaf {
                return (Err(Errno::PIPE), Vec::new());
            }
            let len_bytes: usize = parts.iter().map(|part| part.len()).sum();
            let most_bytes = len_bytes.min(out.room_bytes - out.bytes.len());
            if len_bytes > 0 && (most_bytes == 0 || dice.again()) {
                return (Err(Errno::AGAIN), Vec::new());
            }
            let moved = if len_bytes == 0 { 0 } else { dice.part(most_bytes) };
            put(&mut out.bytes, parts, moved);
            (Ok(moved), out.receivers.take().collect())
        })
    }

    fn accept(&self) -> Result<Arc<dyn PlayedWire>, Errno> {
        Err(Errno::INVAL)
    }

    fn shutdown(&self, how: Shutdown) {
        self.change(|out, back| {
            if how != Shutdown::Read {
                out.is_finished = true;
            }
            if how != Shutdown::Write {
                back.is_deaf = true;
            }
            ((), out.all().into_iter().chain(back.all()).collect())
        });
    }

    fn poll_ready(&self, interest: Interest, number: &mut Option<u64>, cx: &Context<'_>) -> Poll<()> {
        let mut ways = self.lock();
        let (out, back) = self.of(&mut ways);
        let way = if interest == Interest::Readable { back } else { out };
        if way.is_ready(interest) {
            return Poll::Ready(());
        }
        way.waiting(interest).wait(number, cx);
        Poll::Pending
    }

    fn forget(&self, interest: Interest, number: u64) {
        let mut ways = self.lock();
        let (out, back) = self.of(&mut ways);
        let way = if interest == Interest::Readable { back } else { out };
        way.waiting(interest).forget(number);
    }

    fn lateness(&self) -> u64 {
        self.pair.dice.lateness()
    }
}

/// Moves as many bytes as fill `into`, of which there are so many.
fn take(bytes: &mut VecDeque<u8>, into: &mut [u8]) {
    let (front, back) = bytes.as_slices();
    let (head, tail) = into.split_at_mut(front.len().min(into.len()));
    for (to, from) in [(head, front), (tail, back)] {
        let len_bytes = to.len();
        to.copy_from_slice(from.get(..len_bytes).unwrap_or_default());
    }
    bytes.drain(..into.len());
}

/// Adds the first `left` bytes of all `parts`.
fn put(bytes: &mut VecDeque<u8>, parts: &[IoSlice<'_>], mut left: usize) {
    for part in parts {
        let now = part.get(..left.min(part.len())).unwrap_or_default();
        bytes.extend(now);
        left -= now.len();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let dice = Arc::clone(&self.pair.dice);
        self.change(|out, back| {
            (out.is_finished, back.is_deaf) = (true, true);
            if !back.bytes.is_empty() {
                back.bytes.clear();
                out.is_reset = true;
                if dice.one_in(2) {
                    out.bytes.clear();
                }
            }
            ((), out.all().into_iter().chain(back.all()).collect())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::dice::WireOptions;
    use super::*;

    /// Both ends, with rooms of 64 bytes, and nothing left to chance.
    fn plain() -> (Arc<End>, Arc<End>) {
        let options = WireOptions { seed: 1, room_bits_max: 6, again_one_in: 0, part_one_in: 0 };
        pair(&Arc::new(Dice::new(options)))
    }

    fn send(end: &End, text: &[u8]) -> Result<usize, Errno> {
        let (head, tail) = text.split_at(text.len() / 2);
        end.send(&[IoSlice::new(head), IoSlice::new(tail)])
    }

    fn recv(end: &End, most_bytes: usize) -> Result<Vec<u8>, Errno> {
        let mut into = vec![0; most_bytes];
        end.recv(&mut into).map(|len| into[..len].to_vec())
    }

    fn is_ready(end: &End, interest: Interest) -> bool {
        end.poll_ready(interest, &mut None, &Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn bytes_arrive_in_their_order_as_far_as_there_is_room() {
        let (one, other) = plain();
        let text: Vec<u8> = (0..100).collect();
        assert_eq!((recv(&other, 9), is_ready(&other, Interest::Readable)), (Err(Errno::AGAIN), false));
        assert_eq!(send(&one, &text), Ok(64));
        assert_eq!((send(&one, &text), is_ready(&one, Interest::Writable)), (Err(Errno::AGAIN), false));
        assert_eq!(recv(&other, 50), Ok(text[..50].to_vec()));
        assert_eq!(send(&one, &text[64..]), Ok(36));
        assert_eq!(recv(&other, 99), Ok(text[50..].to_vec()), "around the end of the ring");
        assert_eq!(send(&other, b"back"), Ok(4));
        assert_eq!(recv(&one, 9), Ok(b"back".to_vec()));
    }

    #[test]
    fn an_end_that_says_it_is_over_still_listens() {
        let (one, other) = plain();
        send(&one, b"last words").unwrap();
        one.shutdown(Shutdown::Write);
        assert_eq!(send(&one, b"x"), Err(Errno::PIPE));
        assert_eq!(recv(&other, 99), Ok(b"last words".to_vec()));
        assert_eq!(recv(&other, 99), Ok(Vec::new()));
        send(&other, b"answer").unwrap();
        assert_eq!(recv(&one, 99), Ok(b"answer".to_vec()));
    }

    #[test]
    fn an_end_that_is_shut_down_neither_sends_nor_listens() {
        let (one, other) = plain();
        one.shutdown(Shutdown::Both);
        assert_eq!((recv(&one, 9), send(&other, b"x")), (Ok(Vec::new()), Err(Errno::PIPE)));
        assert!(is_ready(&other, Interest::Readable) && is_ready(&other, Interest::Writable));
        assert_eq!(recv(&other, 9), Ok(Vec::new()));
    }

    #[test]
    fn whoever_goes_with_something_unread_resets_the_other_once() {
        let (one, other) = plain();
        send(&other, b"unread").unwrap();
        drop(one);
        assert_eq!(recv(&other, 9), Err(Errno::CONNRESET));
        assert_eq!((recv(&other, 9), send(&other, b"x")), (Ok(Vec::new()), Err(Errno::PIPE)));
    }

    #[test]
    fn nobody_is_woken_who_waits_no_more() {
        struct Count(std::sync::atomic::AtomicU32);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (one, other) = plain();
        let count = Arc::new(Count(0.into()));
        let waker = Waker::from(Arc::clone(&count));
        let (mut first, mut second) = (None, None);
        for number in [&mut first, &mut second] {
            assert!(other.poll_ready(Interest::Readable, number, &Context::from_waker(&waker)).is_pending());
        }
        other.forget(Interest::Readable, first.unwrap());
        send(&one, b"x").unwrap();
        assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
