//! Monitors: clients that send commands and are told of events.
//!
//! ```text
//!   chardev ── stream ──► client ── Session ──► command ──► answer ──► outbox ──► writer
//!                           one command at a time             events ────┘
//! ```
//! | module | what |
//! |---|---|
//! | `chardev` | where clients come from: sockets that listen or connect, standard input and output |
//! | `client` | one connection from greeting to end |
//! | `outbox` | what is to be sent, and the bound on it |
//!
//! A character device has one client at a time, as in release 10.0; the next one waits in the socket's queue. Clients
//! of different monitors do not wait for each other.

pub(crate) mod chardev;
mod client;
mod outbox;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use drystone_core::lane::Lane;
use drystone_sys::{Closer, Stream};

use self::chardev::Source;
use self::client::Client;
use crate::daemon::Daemon;

/// How long the last answers and events may take to be sent at the end, in nanoseconds.
const FAREWELL_NS: u64 = 1_000_000_000;

/// All monitors of a daemon.
#[derive(Default)]
pub(crate) struct Monitors {
    clients: RefCell<Vec<Weak<Client>>>,
    /// What waits for connections or for new attempts to make them.
    sources: RefCell<Vec<Closer>>,
    /// Character devices and their kinds, by name.
    chardevs: RefCell<BTreeMap<String, &'static str>>,
    /// Commands that are being carried out.
    running: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
}

impl Monitors {
    /// There is one more character device.
    pub(crate) fn add_chardev(&self, name: &str, kind: &'static str) {
        self.chardevs.borrow_mut().insert(name.to_owned(), kind);
    }

    /// The kind of a character device.
    pub(crate) fn chardev(&self, name: &str) -> Option<&'static str> {
        self.chardevs.borrow().get(name).copied()
    }

    /// The character devices and their kinds.
    pub(crate) fn chardevs(&self) -> Vec<(String, &'static str)> {
        self.chardevs.borrow().iter().map(|(name, kind)| (name.clone(), *kind)).collect()
    }

    /// Hands what has happened to every client.
    pub(crate) fn tell(&self, daemon: &Daemon) {
        for (event, time) in daemon.events.take() {
            let clients: Vec<Rc<Client>> = self.clients.borrow().iter().filter_map(Weak::upgrade).collect();
            clients.iter().for_each(|client| client.tell(&event, time));
        }
    }

    fn begin(&self) {
        self.running.set(self.running.get() + 1);
    }

    fn end(&self) {
        self.running.set(self.running.get() - 1);
        self.wake();
    }

    fn wake(&self) {
        let waiting = self.waiting.borrow_mut().take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Waits until no command is being carried out. None begins once the end was asked for.
    pub(crate) async fn settle(&self) {
        self.until(|| self.running.get() == 0).await;
    }

    /// Sends what is left, as far as clients take it soon, and ends all connections.
    pub(crate) async fn close(&self, daemon: &Daemon) {
        self.tell(daemon);
        self.sources.borrow().iter().for_each(Closer::close);
        let clients: Vec<Rc<Client>> = self.clients.borrow().iter().filter_map(Weak::upgrade).collect();
        let until_ns = daemon.local.now_ns().saturating_add(FAREWELL_NS);
        for client in &clients {
            client.finish(&daemon.local, until_ns).await;
        }
    }

    async fn until(&self, done: impl Fn() -> bool) {
        poll_fn(|cx| {
            if done() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Serves the clients of a character device, one after the other.
pub(crate) fn start(daemon: &Rc<Daemon>, source: Source, is_pretty: bool) {
    daemon.monitors.sources.borrow_mut().extend(source.closer());
    let daemon = Rc::clone(daemon);
    let local = daemon.local.clone();
    local.spawn(Box::pin(async move {
        let mut source = source;
        let mut lane = Lane::new(daemon.local.clone());
        while let Some(stream) = source.next(&daemon, &mut lane).await {
            serve(&daemon, stream, is_pretty).await;
            if daemon.stop.is_asked() {
                return;
            }
        }
    }));
}

async fn serve(daemon: &Rc<Daemon>, stream: Stream, is_pretty: bool) {
    let (client, receiver) = Client::new(daemon, stream, is_pretty);
    {
        let mut clients = daemon.monitors.clients.borrow_mut();
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Rc::downgrade(&client));
    }
    client.serve(daemon, receiver).await;
}
