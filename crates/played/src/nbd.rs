//! [`NbdClient`]: requests over NBD.
//!
//! ```text
//!   request ──► sender (one at a time) ══► server        receiver's task: replies ──► whoever asked
//! ```
//! Clones use one connection, and may have a request each in flight. A reply that breaks the protocol panics.
//!
//! A request whose connection is lost may be carried out at any time later, or never. As a [`Target`] it never ends, so that
//! a model keeps it in flight; [`NbdClient::while_connected`] gets whoever waits for it out.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::io::IoSlice;
use std::rc::Rc;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_nbd::client::{ClientHandshake, Event, Goal, SendError, Step, Transmission, What};
use drystone_nbd::wire::REQUEST_EXTENDED_BYTES;
use drystone_nbd::{Command, CommandFlags, NbdError, Request, Style};
use drystone_sys::{Address, Network, Receiver, Sender};
use drystone_testkit::client::Target;

use crate::wait::{Shared, unless};

/// How a client enters.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The export.
    pub export: String,
    /// The best style of replies that it can do.
    pub style: Style,
    /// The metadata contexts that it asks for.
    pub contexts: Vec<String>,
}

impl Entry {
    /// With structured replies and `base:allocation`.
    #[must_use]
    pub fn to(export: &str) -> Self {
        let contexts = vec!["base:allocation".into()];
        Self { export: export.into(), style: Style::Structured, contexts }
    }
}

/// An extent of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The context, counted from 0 as they were asked for.
    pub context: u32,
    /// Where.
    pub range: GuestRange,
    /// The status.
    pub status: u64,
}

/// What a server said to one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The bytes of a read.
    pub data: Vec<u8>,
    /// The extents of a block status.
    pub extents: Vec<Extent>,
}

/// Why a request got no reply, or a bad one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is lost. The request may be carried out, at any time.
    Lost,
    /// The server said so.
    Failed(NbdError),
    /// It must not be sent.
    Refused(SendError),
}

/// A client. Clones use the same connection.
#[derive(Clone)]
pub struct NbdClient(Rc<Inner>);

struct Inner {
    local: LocalRef,
    state: Shared<State>,
}

struct State {
    transmission: Transmission,
    /// Nobody sends at the moment.
    sender: Option<Sender>,
    last_cookie: u64,
    asked: BTreeMap<u64, Asked>,
    /// Nothing is received.
    is_stalled: bool,
    /// The client goes without a word.
    is_going: bool,
    /// Nothing is sent or received any more.
    is_lost: bool,
}

/// A request in flight, and what is known of its reply.
struct Asked {
    start: u64,
    reply: Reply,
    end: Option<Result<(), NbdError>>,
}

/// A piece of a reply.
struct Piece {
    /// Its length without the data.
    used: usize,
    cookie: u64,
    /// Where on the export which number of bytes belongs that follow.
    data: Option<(u64, usize)>,
    end: Option<Result<(), NbdError>>,
}

impl NbdClient {
    /// Connects to `address` and enters an export.
    ///
    /// # Errors
    /// Those of connecting and negotiating.
    pub async fn enter(
        network: &Network,
        address: &Address,
        entry: &Entry,
        local: &LocalRef,
    ) -> Result<Self> {
        let mut lane = Lane::new(Rc::clone(local));
        let (mut receiver, mut sender) = network.connect(&mut lane, address, None).await?.split();
        let goal = Goal::Enter { export: entry.export.clone(), contexts: entry.contexts.clone() };
        let mut handshake = ClientHandshake::new(goal, entry.style)?;
        let mut output = Vec::new();
        let transmission = loop {
            if !receiver.fill(&mut lane, 1).await? {
                let text = "the server hung up during the handshake";
                return Err(Error::new(Kind::Disconnected, text));
            }
            let (used, step) = handshake.receive(receiver.buffered(), &mut output)?;
            receiver.consume(used);
            sender.send(&mut lane, &mut [IoSlice::new(&output)]).await?;
            output.clear();
            if let Step::Entered(transmission) = step {
                break *transmission;
            }
        };
        let state = State {
            transmission,
            sender: Some(sender),
            last_cookie: 0,
            asked: BTreeMap::new(),
            is_stalled: false,
            is_going: false,
            is_lost: false,
        };
        let inner = Rc::new(Inner { local: Rc::clone(local), state: Shared::new(state) });
        local.spawn(Box::pin(Rc::clone(&inner).receive(receiver, lane)));
        Ok(Self(inner))
    }

    /// The length of the export as it was at the beginning, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.0.state.look(|state| state.transmission.facts().len_bytes)
    }

    /// Makes a request and awaits the reply. `data` follows the header of a write.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn request(
        &self,
        command: Command,
        range: GuestRange,
        flags: CommandFlags,
        data: &[u8],
    ) -> Result<Reply, Fault> {
        let cookie = self.send(command, range, flags, data).await?;
        self.reply(cookie).await
    }

    /// Sends a request; its cookie.
    ///
    /// # Errors
    /// [`Fault::Lost`], [`Fault::Refused`].
    pub async fn send(
        &self,
        command: Command,
        range: GuestRange,
        flags: CommandFlags,
        data: &[u8],
    ) -> Result<u64, Fault> {
        let state = &self.0.state;
        let sender = state.until(|state| match state.sender.take() {
            Some(sender) => Some(Some(sender)),
            None => state.is_lost.then_some(None),
        });
        let mut sender = sender.await.ok_or(Fault::Lost)?;
        let mut header = [0; REQUEST_EXTENDED_BYTES];
        let begun = state.change(|state| state.begin(command, range, flags, &mut header));
        let (cookie, header_bytes) = match begun {
            Ok(begun) => begun,
            Err(refused) => {
                state.change(|state| state.sender = Some(sender));
                return Err(Fault::Refused(refused));
            }
        };
        let header = header.get(..header_bytes).unwrap_or_default();
        let mut lane = Lane::new(Rc::clone(&self.0.local));
        let sending = async {
            let sent = sender.send(&mut lane, &mut [IoSlice::new(header), IoSlice::new(data)]).await;
            (sender, sent)
        };
        match unless(sending, self.0.until_going()).await {
            Some((sender, Ok(()))) => {
                state.change(|state| state.sender = (!state.is_lost).then_some(sender));
                Ok(cookie)
            }
            Some((_, Err(_))) | None => Err(Fault::Lost),
        }
    }

    /// Waits for the reply to a request that was sent.
    ///
    /// # Errors
    /// [`Fault::Lost`], [`Fault::Failed`].
    pub async fn reply(&self, cookie: u64) -> Result<Reply, Fault> {
        let state = &self.0.state;
        let reply = state.until(|state| match state.asked.get(&cookie) {
            Some(Asked { end: Some(_), .. }) => state.asked.remove(&cookie),
            _ if state.is_lost => Some(Asked { start: 0, reply: Reply::default(), end: None }),
            _ => None,
        });
        let Asked { reply, end, .. } = reply.await;
        match end {
            None => Err(Fault::Lost),
            Some(Ok(())) => Ok(reply),
            Some(Err(error)) => Err(Fault::Failed(error)),
        }
    }

    /// Receives nothing until [`Self::listen`].
    pub fn stall(&self) {
        self.0.state.change(|state| state.is_stalled = true);
    }

    /// Goes on receiving.
    pub fn listen(&self) {
        self.0.state.change(|state| state.is_stalled = false);
    }

    /// Goes without a word, and without listening to what is on its way.
    pub fn vanish(&self) {
        let sender = self.0.state.change(|state| {
            state.is_going = true;
            state.sender.take()
        });
        drop(sender);
    }

    /// Says goodbye and waits until the server has hung up. Requests in flight are answered before.
    ///
    /// # Errors
    /// [`Fault::Lost`] if it had gone already.
    pub async fn leave(&self) -> Result<(), Fault> {
        let nothing = GuestRange::new(GuestOffset::ZERO, 0);
        self.send(Command::Disconnect, nothing, CommandFlags::NONE, &[]).await?;
        self.lost().await;
        Ok(())
    }

    /// Waits until the connection is lost.
    pub async fn lost(&self) {
        self.0.state.until(|state| state.is_lost.then_some(())).await;
    }

    /// Runs `work` until it ends or the connection is lost, which is `None`.
    pub async fn while_connected<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        unless(work, self.lost()).await
    }

    /// As a [`Target`]: what is lost never ends.
    async fn ask(
        &self,
        command: Command,
        range: GuestRange,
        flags: CommandFlags,
        data: &[u8],
    ) -> Result<Reply> {
        match self.request(command, range, flags, data).await {
            Ok(reply) => Ok(reply),
            Err(Fault::Lost) => pending().await,
            Err(Fault::Refused(cause)) => {
                Err(Error::new(Kind::InvalidInput, "the server would refuse it").because(cause))
            }
            Err(Fault::Failed(error)) => Err(Error::os(error.errno(), format_args!("{command:?} {range}"))),
        }
    }
}

impl Inner {
    async fn until_going(&self) {
        self.state.until(|state| state.is_going.then_some(())).await;
    }

    /// Takes replies until the connection is lost.
    async fn receive(self: Rc<Self>, mut receiver: Receiver, mut lane: Lane) {
        let taking = async {
            while self.take_reply(&mut receiver, &mut lane).await {
                self.state.until(|state| (!state.is_stalled).then_some(())).await;
            }
        };
        unless(taking, self.until_going()).await;
        drop(receiver);
        let sender = self.state.change(|state| {
            state.is_lost = true;
            state.sender.take()
        });
        drop(sender);
    }

    /// Takes what comes next of a reply. `false`: the connection is lost.
    async fn take_reply(&self, receiver: &mut Receiver, lane: &mut Lane) -> bool {
        let taken = self.state.change(|state| state.take(receiver.buffered()));
        let Some(Piece { used, cookie, data, end }) = taken else {
            let have = receiver.buffered().len();
            return matches!(receiver.fill(lane, have + 1).await, Ok(true));
        };
        receiver.consume(used);
        let (at, len) = data.unwrap_or_default();
        let mut bytes = vec![0; len];
        if receiver.recv_exact(lane, &mut bytes).await.is_err() {
            return false;
        }
        self.state.change(|state| {
            if let Some(asked) = state.asked.get_mut(&cookie) {
                asked.place(at, &bytes);
                asked.end = end;
            }
        });
        true
    }
}

impl State {
    fn begin(
        &mut self,
        command: Command,
        range: GuestRange,
        flags: CommandFlags,
        header: &mut [u8; REQUEST_EXTENDED_BYTES],
    ) -> Result<(u64, usize), SendError> {
        let (start, len_bytes) = (range.start().get(), range.len());
        let cookie = self.last_cookie + 1;
        let request = Request { cookie, offset_bytes: start, len_bytes, command, flags };
        let written = self.transmission.begin(&request, header)?.len();
        self.last_cookie = cookie;
        if command != Command::Disconnect {
            let room = if command == Command::Read { index(len_bytes) } else { 0 };
            let reply = Reply { data: vec![0; room], extents: Vec::new() };
            self.asked.insert(cookie, Asked { start, reply, end: None });
        }
        Ok((cookie, written))
    }

    /// What is at the start of `input`, if it is whole.
    fn take(&mut self, input: &[u8]) -> Option<Piece> {
        let next = match self.transmission.next(input) {
            Ok(next) => next,
            Err(error) => panic!("the server broke the protocol: {error}"),
        };
        let (used, Event { cookie, what, end }) = next?;
        let Some(asked) = self.asked.get_mut(&cookie) else { panic!("nobody has asked for {cookie}") };
        let mut data = None;
        match what {
            What::Data { offset_bytes, len_bytes } => data = Some((offset_bytes, index(len_bytes))),
            What::Extent { context, offset_bytes, len_bytes, status } => {
                let range = GuestRange::new(GuestOffset::new(offset_bytes), len_bytes);
                asked.reply.extents.push(Extent { context, range, status });
            }
            // They were zeroes from the start.
            What::Hole { .. } | What::Error { .. } | What::Nothing => {}
        }
        Some(Piece { used, cookie, data, end })
    }
}

impl Asked {
    fn place(&mut self, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let place = self.reply.data.get_mut(index(at - self.start)..).unwrap_or_default();
        match place.get_mut(..bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => panic!("{} bytes at {at} are outside of what was asked for", bytes.len()),
        }
    }
}

impl Target for NbdClient {
    async fn read(&mut self, range: GuestRange) -> Result<Vec<u8>> {
        Ok(self.ask(Command::Read, range, CommandFlags::NONE, &[]).await?.data)
    }

    async fn write(&mut self, at: u64, bytes: &[u8], fua: bool) -> Result<()> {
        let flags = if fua { CommandFlags::FUA } else { CommandFlags::NONE };
        let range = GuestRange::new(GuestOffset::new(at), bytes.len() as u64);
        self.ask(Command::Write, range, flags, bytes).await.map(drop)
    }

    async fn write_zeroes(&mut self, range: GuestRange, may_unmap: bool) -> Result<()> {
        let flags = if may_unmap { CommandFlags::NONE } else { CommandFlags::NO_HOLE };
        self.ask(Command::WriteZeroes, range, flags, &[]).await.map(drop)
    }

    async fn discard(&mut self, range: GuestRange) -> Result<()> {
        self.ask(Command::Trim, range, CommandFlags::NONE, &[]).await.map(drop)
    }

    async fn flush(&mut self) -> Result<()> {
        let nothing = GuestRange::new(GuestOffset::ZERO, 0);
        self.ask(Command::Flush, nothing, CommandFlags::NONE, &[]).await.map(drop)
    }

    /// Clients of NBD cannot.
    async fn resize(&mut self, _len: u64) -> Result<()> {
        Err(Error::new(Kind::Unsupported, "NBD clients cannot set the length"))
    }
}

fn index(bytes: u64) -> usize {
    match usize::try_from(bytes) {
        Ok(index) => index,
        Err(_) => panic!("{bytes} bytes exceed the address space"),
    }
}
