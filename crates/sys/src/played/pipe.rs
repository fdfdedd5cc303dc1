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
            for (to, byte) in into.iter_mut().zip(back.bytes.drain(..moved)) {
                *to = byte;
            }
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
            out.bytes.extend(parts.iter().flat_map(|part| part.iter()).take(moved));
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
