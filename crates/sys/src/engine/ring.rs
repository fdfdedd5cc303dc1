//! The io_uring engine: one ring per thread, one system call per turn.
//!
//! ```text
//!   tasks --entries--> submission queue --.                            .--> completions --> events
//!                        full? enter      |--> io_uring_enter (turn) --|
//!   still full --> backlog ---------------'    the only place to wait  '--> bell, timeout
//! ```
//! The thread's bell is watched by one multi-shot poll that stays in the ring. Timers bound the wait itself (`EXT_ARG`).
//! When the kernel has more completions than the queue holds it keeps the rest (`NODROP`); an enter brings them.
//!
//! Invariants: file operations are never cancelled; an entry points into memory that its operation's place in the
//! thread's table owns until the completion was seen.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use drystone_base::{Error, Result};
use io_uring::{Builder, IoUring, cqueue, opcode, squeue, types};

use super::{Event, Interest, Patience};
use crate::inbox::Inbox;
use crate::slots::Key;
use crate::timer::now_ns;

/// Entries that one turn can submit without an extra system call.
const ENTRIES: u32 = 256;
/// Completions that fit before the kernel keeps the rest for itself.
const COMPLETIONS: u32 = 2048;
/// The mark of the bell's poll. Keys are smaller.
const BELL: u64 = u64::MAX;
/// The mark of operations whose end interests nobody.
const IGNORED: u64 = u64::MAX - 1;

pub(crate) struct Ring {
    ring: RefCell<IoUring>,
    /// Entries that found the queue full twice.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    inbox: Arc<Inbox>,
    bell_is_watched: Cell<bool>,
}

impl Ring {
    pub(crate) fn new(inbox: &Arc<Inbox>) -> Result<Self> {
        let ring = build(ENTRIES).map_err(|cause| os(&cause, "set up an io_uring"))?;
        Ok(Self {
            ring: RefCell::new(ring),
            backlog: RefCell::new(VecDeque::new()),
            inbox: Arc::clone(inbox),
            bell_is_watched: Cell::new(false),
        })
    }

    /// Whether rings of the kind that we need can be made.
    pub(crate) fn probe() -> io::Result<()> {
        let ring = build(2)?;
        let params = ring.params();
        // The last is of Linux 5.13, like multi-shot polls, which have no mark of their own.
        let has_all =
            params.is_feature_ext_arg() && params.is_feature_nodrop() && params.is_feature_resource_tagging();
        if has_all { Ok(()) } else { Err(io::Error::from(io::ErrorKind::Unsupported)) }
    }

    /// Queues `entry` for the next turn, with `key` as its mark.
    ///
    /// # Safety
    /// What the entry points to stays valid, and untouched by others, until the event of `key` was seen.
    pub(crate) unsafe fn start(&self, key: Key, entry: squeue::Entry) {
        self.queue(entry.user_data(key.to_bits()));
    }

    /// Watches `fd`, which stays open until the event of `key` was seen.
    pub(crate) fn start_poll(&self, key: Key, fd: i32, interest: Interest) {
        let mask = match interest {
            Interest::Readable => libc::POLLIN | libc::POLLRDHUP,
            Interest::Writable => libc::POLLOUT,
        };
        let entry = opcode::PollAdd::new(types::Fd(fd), u32::from(mask.unsigned_abs())).build();
        self.queue(entry.user_data(key.to_bits()));
    }

    /// Ends a poll early; its event comes all the same.
    pub(crate) fn cancel_poll(&self, key: Key) {
        self.queue(opcode::PollRemove::new(key.to_bits()).build().user_data(IGNORED));
    }

    fn queue(&self, entry: squeue::Entry) {
        let mut backlog = self.backlog.borrow_mut();
        if !backlog.is_empty() || !self.push(&entry) {
            backlog.push_back(entry);
        }
    }

    /// `false` if the queue is full and the kernel takes nothing now.
    fn push(&self, entry: &squeue::Entry) -> bool {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: entries come from `start`, whose caller vouches for the memory, or point to none.
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return true;
        }
        // An error here is met again by the turn, which knows what to do.
        let _ = ring.submit();
        // SAFETY: as above.
        unsafe { ring.submission().push(entry) }.is_ok()
    }

    pub(crate) fn turn(&self, patience: Patience, events: &mut Vec<Event>) {
        if !self.bell_is_watched.replace(true) {
            let bell = types::Fd(self.inbox.bell.as_fd().as_raw_fd());
            let poll = opcode::PollAdd::new(bell, u32::from(libc::POLLIN.unsigned_abs())).multi(true).build();
            self.queue(poll.user_data(BELL));
        }
        self.push_backlog();
        // What did not fit must not wait for a completion that may never come.
        let patience = if self.backlog.borrow().is_empty() { patience } else { Patience::None };
        self.enter(patience);
        let mut ring = self.ring.borrow_mut();
        for completion in ring.completion() {
            match completion.user_data() {
                BELL => self.bell_is_watched.set(cqueue::more(completion.flags())),
                IGNORED => {}
                bits => events.push(Event { key: Key::from_bits(bits), result: completion.result() }),
            }
        }
    }

    fn push_backlog(&self) {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(entry) = backlog.front() {
            if !self.push(entry) {
                break;
            }
            backlog.pop_front();
        }
    }

    fn enter(&self, patience: Patience) {
        let mut ring = self.ring.borrow_mut();
        let entered = match patience {
            Patience::None => {
                let queue = ring.submission();
                let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
                drop(queue);
                if idle {
                    return;
                }
                ring.submit()
            }
            Patience::Until(None) => ring.submit_and_wait(1),
            Patience::Until(Some(at_ns)) => {
                let rest_ns = at_ns.saturating_sub(now_ns());
                let rest_nanos = u32::try_from(rest_ns % 1_000_000_000).unwrap_or(0);
                let rest = types::Timespec::new().sec(rest_ns / 1_000_000_000).nsec(rest_nanos);
                ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&rest))
            }
        };
        match entered {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // The time is over; a signal; too many completions waiting or no memory: the next turn goes on.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("a ring that worked refuses to be entered: {error}"),
            },
        }
    }
}

/// A ring with the newest set of flags that the kernel takes.
fn build(entries: u32) -> io::Result<IoUring> {
    let with = |set: fn(&mut Builder)| {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS.max(entries)).dontfork();
        set(&mut builder);
        builder.build(entries)
    };
    // Linux 6.1: completions are worked off by this thread when it enters, not by interrupting it.
    with(|builder| {
        builder.setup_submit_all().setup_taskrun_flag().setup_single_issuer().setup_defer_taskrun();
    })
    // Linux 5.19.
    .or_else(|_| {
        with(|builder| {
            builder.setup_submit_all().setup_taskrun_flag().setup_coop_taskrun();
        })
    })
    .or_else(|_| with(|_| {}))
}

fn os(cause: &io::Error, what: &str) -> Error {
    Error::os(cause.raw_os_error().unwrap_or(libc::EIO), what)
}
