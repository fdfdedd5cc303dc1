//! [`Client`]: one connection from greeting to end.
//!
//! While a command is carried out, nothing is read: a client that sends faster than it is served fills its own socket.
//! One that goes meanwhile does not end the command, only its answer has no reader.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_qmp::schema::events::Event;
use drystone_qmp::wire::Limits;
use drystone_qmp::{Incoming, Session};
use drystone_sys::{Closer, Receiver, Sender, Stream};

use super::outbox::Outbox;
use crate::command;
use crate::daemon::Daemon;

/// Bytes of a client's input that are looked at before others have their turn.
const INPUT_BYTES: usize = 64 << 10;

/// A connected client.
pub(super) struct Client {
    session: RefCell<Session>,
    outbox: Outbox,
    closer: Closer,
}

impl Client {
    /// A client that has been greeted.
    pub(super) fn new(daemon: &Daemon, stream: Stream, is_pretty: bool) -> (Rc<Self>, Receiver) {
        let session = Session::new(command::version(), is_pretty, Limits::DEFAULT);
        let closer = stream.closer();
        let (receiver, sender) = stream.split();
        let client = Rc::new(Self { session: RefCell::new(session), outbox: Outbox::default(), closer });
        let greeting = client.session.borrow().greeting();
        client.outbox.push(greeting);
        let writer = Rc::clone(&client).write(sender, Lane::new(daemon.local.clone()));
        daemon.local.spawn(Box::pin(writer));
        (client, receiver)
    }

    /// Carries out commands until the client goes, or the end was asked for.
    pub(super) async fn serve(&self, daemon: &Rc<Daemon>, mut receiver: Receiver) {
        let mut lane = Lane::new(daemon.local.clone());
        loop {
            let used = self.take_input(daemon, receiver.buffered()).await;
            let Some(used) = used else { break };
            receiver.consume(used);
            if !matches!(receiver.fill(&mut lane, 1).await, Ok(true)) {
                break;
            }
        }
        if daemon.stop.is_asked() {
            // The end sends what is left.
            return;
        }
        // Whoever has said goodbye in one direction may listen in the other, but not for ever.
        self.finish(&daemon.local, daemon.local.now_ns().saturating_add(super::FAREWELL_NS)).await;
    }

    /// Carries out the commands in `input`; how much of it was used. `None`: nothing more is to be read.
    async fn take_input(&self, daemon: &Rc<Daemon>, input: &[u8]) -> Option<usize> {
        let mut rest = input.get(..input.len().min(INPUT_BYTES)).unwrap_or_default();
        let len_bytes = rest.len();
        loop {
            if daemon.stop.is_asked() {
                return None;
            }
            let incoming = self.session.borrow_mut().next(&mut rest);
            let bytes = match incoming {
                None => return Some(len_bytes - rest.len()),
                Some(Incoming::Reply(bytes)) => bytes,
                Some(Incoming::Command(pending, command)) => {
                    daemon.monitors.begin();
                    let answer = command::run(daemon, command).await;
                    daemon.monitors.tell(daemon);
                    let bytes = answer.bytes(&mut self.session.borrow_mut(), pending);
                    daemon.monitors.end();
                    bytes
                }
            };
            self.outbox.push(bytes);
            if !self.outbox.room().await {
                return None;
            }
        }
    }

    /// Tells the client of an event, if it has negotiated.
    pub(super) fn tell(&self, event: &Event, time: Duration) {
        let Some(bytes) = self.session.borrow().event(event, Some(time)) else { return };
        if self.outbox.is_overfull() {
            self.close();
        } else {
            self.outbox.push(bytes);
        }
    }

    fn close(&self) {
        self.outbox.close();
        self.closer.close();
    }

    /// Sends what is left until `until_ns`, and ends the connection.
    pub(super) async fn finish(&self, local: &LocalRef, until_ns: u64) {
        let (mut sent, mut late) = (pin!(self.outbox.sent()), pin!(local.sleep_until(until_ns)));
        poll_fn(|cx| {
            let is_over = sent.as_mut().poll(cx).is_ready() || late.as_mut().poll(cx).is_ready();
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.close();
    }

    async fn write(self: Rc<Self>, mut sender: Sender, mut lane: Lane) {
        while let Some(bytes) = self.outbox.next().await {
            if sender.send(&mut lane, &mut [IoSlice::new(&bytes)]).await.is_err() {
                self.close();
                return;
            }
            self.outbox.done();
        }
    }
}
