//! Stream sockets, unix and TCP.
//!
//! ```text
//!   Listener --accept--> Stream --split--> Receiver (bytes until something is whole) + Sender (all of some parts)
//!                          '--- Closer: ends what is under way, from any thread
//! ```
//! | module | what |
//! |---|---|
//! | `address` | [`Address`]: where a socket is |
//! | `listener` | [`Listener`] |
//! | `stream` | [`Stream`], [`Receiver`], [`Sender`] |
//! | `network` | [`Network`]: where addresses lead, as a parameter; who owes an answer |
//! | `stdio` | [`Stdio`]: standard input and output as a [`Stream`] |
//! | `wire` | the calls below all of them |
//!
//! Every method that can wait for the peer takes `&mut Lane`, so a ticket cannot be held across it.
//!
//! How: system calls that do not block, and a wait in the thread's engine when one would have. Measured against blocking
//! calls (28 B there, 4 KiB back, both ends on one CPU): a read through the ring took as long as waiting through the ring
//! and reading then, so there is one way for both engines, and bytes land where the caller wants them.
//!
//! Invariants: sockets do not block and are closed on exec; a socket that was closed by its [`Closer`] fails all that
//! waits for it; nobody gets SIGPIPE.

mod address;
mod listener;
mod network;
mod stdio;
mod stream;
mod wire;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use rustix::io::Errno;
use rustix::net::Shutdown;

pub use self::address::Address;
pub use self::listener::Listener;
pub use self::network::{Network, Patience};
pub use self::stdio::Stdio;
pub use self::stream::{Receiver, Sender, Stream};
pub(crate) use self::wire::Wire;
use crate::engine::Interest;

/// A socket, shared by its halves.
#[derive(Clone)]
struct Socket(Arc<Open>);

struct Open {
    wire: Wire,
    is_closed: AtomicBool,
    /// Something was sent, or was to be, since something was received.
    owes: AtomicBool,
    /// How often bytes have moved, in either direction. Wraps.
    moves: AtomicU32,
}

/// Closes a connection or a listener, whoever waits for it. Any thread may use it; clones close the same socket.
#[derive(Clone)]
pub struct Closer(Socket);

impl Closer {
    /// Ends the connection in both directions. What waits for it fails with [`Kind::Cancelled`], also later.
    pub fn close(&self) {
        self.0.0.close();
    }

    /// How often bytes have moved so far, in either direction: a number that stays the same as long as the peer neither says
    /// nor takes anything. Wraps.
    #[must_use]
    pub fn moves(&self) -> u32 {
        self.0.0.moves.load(Ordering::Relaxed)
    }
}

impl Open {
    /// How often bytes have moved, if the peer owes an answer. Equal at two looks: it was silent in between.
    fn owing(&self) -> Option<u32> {
        self.owes.load(Ordering::Relaxed).then(|| self.moves.load(Ordering::Relaxed))
    }

    fn note_moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // It may have ended by itself already.
        let _ = self.wire.shutdown(Shutdown::Both);
    }
}

impl Socket {
    fn new(fd: OwnedFd) -> Self {
        Self::on(Wire::Os(Arc::new(fd)))
    }

    fn on(wire: Wire) -> Self {
        let (is_closed, owes) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Open { wire, is_closed, owes, moves: AtomicU32::new(0) }))
    }

    fn wire(&self) -> &Wire {
        &self.0.wire
    }

    /// The peer is sent something that it may have to answer to.
    fn note_sending(&self) {
        if !self.0.owes.load(Ordering::Relaxed) {
            self.0.owes.store(true, Ordering::Relaxed);
        }
    }

    /// The peer has taken something.
    fn note_sent(&self) {
        self.0.note_moved();
    }

    /// The peer has said something.
    fn note_received(&self) {
        if self.0.owes.load(Ordering::Relaxed) {
            self.0.owes.store(false, Ordering::Relaxed);
        }
        self.0.note_moved();
    }

    fn closer(&self) -> Closer {
        Closer(self.clone())
    }

    fn check_open(&self) -> Result<()> {
        if self.0.is_closed.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Cancelled, "the connection was closed"));
        }
        Ok(())
    }

    /// Waits until the socket is ready, broken or closed.
    async fn when_ready(&self, lane: &Lane, interest: Interest, until_ns: Option<u64>) -> Result<()> {
        self.check_open()?;
        let waited = self.wire().when_ready(lane, interest, until_ns).await;
        self.check_open()?;
        waited
    }

    /// Makes `call` until it does not have to wait.
    async fn call<T>(
        &self,
        lane: &Lane,
        interest: Interest,
        until_ns: Option<u64>,
        what: &str,
        mut call: impl FnMut(&Wire) -> Result<T, Errno>,
    ) -> Result<T> {
        loop {
            self.check_open()?;
            match call(self.wire()) {
                Ok(value) => return Ok(value),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.when_ready(lane, interest, until_ns).await?,
                Err(errno) => {
                    // A closed socket fails in ways that say nothing.
                    self.check_open()?;
                    return Err(Error::os(errno.raw_os_error(), what));
                }
            }
        }
    }
}
