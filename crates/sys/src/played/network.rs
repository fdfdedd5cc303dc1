//! [`PlayedNetwork`]: which addresses somebody listens at.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_core::runtime::sim_point;
use rustix::io::Errno;
use rustix::net::Shutdown;

use super::PlayedWire;
use super::dice::{Dice, WireOptions};
use super::pipe::{End, pair};
use super::waiting::Waiting;
use crate::engine::Interest;
use crate::net::{Address, Listener, Network, Stream, Wire};

/// Connections that wait to be accepted, before more are refused.
const BACKLOG: usize = 128;

/// Sockets in memory, between tasks of one simulation. Clones are the same.
#[derive(Clone)]
pub struct PlayedNetwork(Arc<Inner>);

struct Inner {
    dice: Arc<Dice>,
    doors: Mutex<BTreeMap<String, Weak<Door>>>,
}

impl PlayedNetwork {
    /// A network where nobody listens yet.
    #[must_use]
    pub fn new(options: WireOptions) -> Self {
        Self(Arc::new(Inner { dice: Arc::new(Dice::new(options)), doors: Mutex::default() }))
    }

    /// As a parameter of what listens and connects.
    #[must_use]
    pub fn network(&self) -> Network {
        Network::played(self.clone())
    }

    /// Both ends of a connection.
    #[must_use]
    pub fn pair(&self) -> (Stream, Stream) {
        let (one, other) = pair(&self.0.dice);
        (Stream::on(Wire::Played(one)), Stream::on(Wire::Played(other)))
    }

    fn doors(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Door>>> {
        self.0.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listen(&self, address: &Address) -> Result<Listener> {
        let mut doors = self.doors();
        let name = address.to_string();
        if doors.get(&name).and_then(Weak::upgrade).is_some_and(|door| !door.state().is_closed) {
            return Err(Error::new(Kind::InUse, format!("cannot listen at {name}")));
        }
        let door = Arc::new(Door { dice: Arc::clone(&self.0.dice), state: Mutex::default() });
        doors.insert(name, Arc::downgrade(&door));
        Ok(Listener::played(door, address.clone()))
    }

    pub(crate) async fn connect(&self, lane: &mut Lane, address: &Address) -> Result<Stream> {
        sim_point(lane.local()).await;
        let door = self.doors().get(&address.to_string()).and_then(Weak::upgrade);
        let refused = || Error::os(Errno::CONNREFUSED.raw_os_error(), format_args!("connect to {address}"));
        let (own, other) = pair(&self.0.dice);
        if !door.ok_or_else(refused)?.knock(other) {
            return Err(refused());
        }
        Ok(Stream::on(Wire::Played(own)))
    }
}

/// Where connections wait to be accepted.
pub(crate) struct Door {
    dice: Arc<Dice>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<End>>,
    is_closed: bool,
    waiting: Waiting,
}

impl Door {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `end` may wait to be accepted.
    fn knock(&self, end: Arc<End>) -> bool {
        let mut state = self.state();
        if state.is_closed || state.queue.len() >= BACKLOG {
            return false;
        }
        state.queue.push_back(end);
        let woken = state.waiting.take();
        drop(state);
        woken.for_each(Waker::wake);
        true
    }
}

impl PlayedWire for Door {
    fn recv(&self, _into: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::NOTCONN)
    }

    fn send(&self, _parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
        Err(Errno::NOTCONN)
    }

    fn accept(&self) -> Result<Arc<dyn PlayedWire>, Errno> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Errno::INVAL);
        }
        if self.dice.again() {
            return Err(Errno::AGAIN);
        }
        match state.queue.pop_front() {
            Some(end) => Ok(end),
            None => Err(Errno::AGAIN),
        }
    }

    fn shutdown(&self, _how: Shutdown) {
        let mut state = self.state();
        state.is_closed = true;
        let (left, woken) = (std::mem::take(&mut state.queue), state.waiting.take());
        drop(state);
        drop(left);
        woken.for_each(Waker::wake);
    }

    fn poll_ready(&self, _interest: Interest, number: &mut Option<u64>, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.is_closed || !state.queue.is_empty() {
            return Poll::Ready(());
        }
        state.waiting.wait(number, cx);
        Poll::Pending
    }

    fn forget(&self, _interest: Interest, number: u64) {
        self.state().waiting.forget(number);
    }

    fn lateness(&self) -> u64 {
        self.dice.lateness()
    }
}
