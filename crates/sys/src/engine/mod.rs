//! Where an I/O thread waits, and who carries out what it started.
//!
//! | engine | files | descriptors that become ready | waits in |
//! |---|---|---|---|
//! | [`ring`] | io_uring; threads for what has no opcode | `POLL_ADD` | `io_uring_enter` |
//! | [`epoll`] | threads | one-shot registrations | `epoll_pwait2` |
//!
//! Both engines only start things and report what ended; the table of operations is the thread's ([`crate::local`]).
//!
//! Invariant: an engine never runs a task and never calls back into itself.

pub(crate) mod epoll;
pub(crate) mod ring;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Waker;

use drystone_base::{Error, Kind, Result};
use drystone_core::disk::Finisher;

use self::epoll::Epoll;
use self::ring::Ring;
use crate::file::job::FileJob;
use crate::inbox::Inbox;
use crate::slots::Key;

/// What carries out a thread's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// `Uring` where the kernel has it and allows it, else `Pool`.
    #[default]
    Auto,
    /// One io_uring per thread.
    Uring,
    /// A bounded stock of blocking threads for files, epoll for sockets.
    Pool,
    /// No thread but the one itself, which blocks: for a program that has one thing to do at a time. epoll for sockets.
    InPlace,
    /// As `Auto`; with a ring, a thread copies bytes to the page cache itself, though it may wait for the disk in it: for a
    /// program that moves much, and whose users wait for its end alone.
    Batch,
}

/// What a descriptor is waited for to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Readable,
    Writable,
}

/// One operation under way, in the thread's table.
pub(crate) enum Op {
    /// On a ring. The kernel may still reach into the job's buffer.
    File { job: FileJob, finisher: Finisher },
    /// In the pool, job and all.
    Away { finisher: Finisher },
    /// A descriptor is watched. It stays open until the engine lets go of it.
    Poll { fd: Arc<OwnedFd>, wait: Wait },
    /// A blocking call.
    Call { wait: Wait },
}

/// The end of an operation that a future of this crate awaits.
pub(crate) enum Wait {
    /// Nobody has looked yet, or somebody waits.
    Running(Option<Waker>),
    /// It has ended; the future takes it out of the table.
    Ended,
    /// The future is gone; whoever ends the operation takes it out.
    Abandoned,
}

/// How long a turn of an engine may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// Until something happens, or a moment on the monotonic clock.
    Until(Option<u64>),
}

/// One thing that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) key: Key,
    /// Of a ring's operation: bytes moved, or a negative errno.
    pub(crate) result: i32,
}

#[expect(clippy::large_enum_variant, reason = "one per thread")]
pub(crate) enum Engine {
    Ring(Ring),
    Epoll(Epoll),
}

impl Engine {
    /// The engine of the calling thread. `kind` is not `Auto`.
    pub(crate) fn new(kind: EngineKind, inbox: &Arc<Inbox>) -> Result<Self> {
        match kind {
            EngineKind::Auto | EngineKind::Uring | EngineKind::Batch => Ring::new(inbox).map(Self::Ring),
            EngineKind::Pool | EngineKind::InPlace => Epoll::new(inbox).map(Self::Epoll),
        }
    }

    /// Which engine `Auto` means here; `Uring` is an error where it does not work.
    pub(crate) fn choose(kind: EngineKind) -> Result<EngineKind> {
        if matches!(kind, EngineKind::Pool | EngineKind::InPlace) {
            return Ok(kind);
        }
        match Ring::probe() {
            Ok(()) if kind == EngineKind::Batch => Ok(kind),
            Ok(()) => Ok(EngineKind::Uring),
            Err(_) if kind != EngineKind::Uring => Ok(EngineKind::Pool),
            Err(cause) => Err(Error::new(Kind::Unsupported, "io_uring cannot be used here").because(cause)),
        }
    }

    /// Submits what was started, waits as long as `patience` says, and adds what has ended to `events`.
    pub(crate) fn turn(&self, patience: Patience, events: &mut Vec<Event>) {
        match self {
            Self::Ring(ring) => ring.turn(patience, events),
            Self::Epoll(epoll) => epoll.turn(patience, events),
        }
    }
}
