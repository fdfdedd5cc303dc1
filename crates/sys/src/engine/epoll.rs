//! The second engine's place to wait: epoll, for the bell and for descriptors that become ready. Files go to the pool.
//!
//! A descriptor has at most one registration, for everybody who watches it, one-shot: armed while somebody watches. The
//! kernel drops a registration when the descriptor is closed, so arming tries to change one first and then to add it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drystone_base::{Error, Result};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::{Event, Interest, Patience};
use crate::inbox::Inbox;
use crate::slots::Key;
use crate::timer::now_ns;

/// Events that one turn takes from the kernel.
const EVENTS_MAX: usize = 256;
/// The mark of the bell. Descriptors are smaller.
const BELL: u64 = u64::MAX;

pub(crate) struct Epoll {
    epoll: OwnedFd,
    /// Registered, so it must live as long.
    _inbox: Arc<Inbox>,
    state: RefCell<State>,
}

struct State {
    /// Who watches which descriptor.
    watchers: BTreeMap<i32, Vec<Watcher>>,
    events: Vec<epoll::Event>,
}

#[derive(Clone, Copy)]
struct Watcher {
    key: Key,
    interest: Interest,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Readable => EventFlags::IN | EventFlags::RDHUP,
            Self::Writable => EventFlags::OUT,
        }
    }
}

impl Epoll {
    pub(crate) fn new(inbox: &Arc<Inbox>) -> Result<Self> {
        let os = |errno: Errno| Error::os(errno.raw_os_error(), "set up epoll");
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(os)?;
        // Edges: the bell is never read.
        epoll::add(&epoll, inbox.bell.as_fd(), EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)
            .map_err(os)?;
        let state = State { watchers: BTreeMap::new(), events: Vec::with_capacity(EVENTS_MAX) };
        Ok(Self { epoll, _inbox: Arc::clone(inbox), state: RefCell::new(state) })
    }

    /// Watches `fd` until the event of `key`. An error: the kernel does not watch such descriptors.
    pub(crate) fn start_poll(&self, key: Key, fd: BorrowedFd<'_>, interest: Interest) -> Result<(), Errno> {
        let mut state = self.state.borrow_mut();
        let watchers = state.watchers.entry(fd.as_raw_fd()).or_default();
        watchers.push(Watcher { key, interest });
        self.arm(fd.as_raw_fd(), watchers).inspect_err(|_| watchers.retain(|watcher| watcher.key != key))
    }

    /// Stops watching for `key`; there will be no event.
    pub(crate) fn cancel_poll(&self, key: Key, fd: BorrowedFd<'_>) {
        let mut state = self.state.borrow_mut();
        if let Some(watchers) = state.watchers.get_mut(&fd.as_raw_fd()) {
            watchers.retain(|watcher| watcher.key != key);
            let _ = self.arm(fd.as_raw_fd(), watchers);
        }
    }

    /// Tells the kernel what `watchers`, of one descriptor, wait for now.
    fn arm(&self, number: i32, watchers: &[Watcher]) -> Result<(), Errno> {
        // SAFETY: whoever watches keeps the descriptor open, and this runs while somebody does or has just ceased to.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let flags =
            watchers.iter().fold(EventFlags::ONESHOT, |flags, watcher| flags | watcher.interest.flags());
        let data = EventData::new_u64(u64::from(number.unsigned_abs()));
        match epoll::modify(&self.epoll, fd, data, flags) {
            Err(Errno::NOENT) => epoll::add(&self.epoll, fd, data, flags),
            other => other,
        }
    }

    pub(crate) fn turn(&self, patience: Patience, events: &mut Vec<Event>) {
        let State { watchers, events: ready } = &mut *self.state.borrow_mut();
        ready.clear();
        let timeout = match patience {
            Patience::None => Some(timespec(0)),
            Patience::Until(None) => None,
            Patience::Until(Some(at_ns)) => Some(timespec(at_ns.saturating_sub(now_ns()))),
        };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(ready), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => panic!("epoll that worked refuses to wait: {errno}"),
        }
        for event in ready.iter() {
            let Ok(number) = i32::try_from(event.data.u64()) else { continue };
            let Some(waiting) = watchers.get_mut(&number) else { continue };
            let flags = event.flags;
            let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            waiting.retain(|watcher| {
                let ready = broken || flags.intersects(watcher.interest.flags());
                if ready {
                    events.push(Event { key: watcher.key, result: 0 });
                }
                !ready
            });
            if waiting.is_empty() {
                continue;
            }
            // One-shot: whoever was not served waits on.
            let _ = self.arm(number, waiting);
        }
    }
}

fn timespec(rest_ns: u64) -> Timespec {
    let [seconds, nanoseconds] = [rest_ns / 1_000_000_000, rest_ns % 1_000_000_000];
    Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    }
}
