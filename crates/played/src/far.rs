//! [`Far`]: an NBD server at the other end of a daemon's `nbd` nodes that does odd things.
//!
//! ```text
//!   daemon's client ══ played socket ══ accept ─► one task for each connection: request ─► decide ─► reply, made odd
//! ```
//! | oddity | what the client finds |
//! |---|---|
//! | mute, late | nothing, for ever or for a time; a server can answer all but flushes meanwhile |
//! | hang up, torn | the end, before a reply or in the middle of one |
//! | cookie, magic, length, twice, flipped, noise | a reply that nobody asked for, or that means nothing |
//! | refusal | an error |
//! | shrunk | the export has another length when the client comes again |
//!
//! Invariant: what is answered properly is right. Not here: whether a client survives it; whoever plays asks that.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::rng::Rng;
use drystone_base::{Error, Kind, Result};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_nbd::reply::{ERROR_BYTES_MAX, HEAD_BYTES_MAX};
use drystone_nbd::server::{ServerHandshake, Step};
use drystone_nbd::wire::context::{BASE_ALLOCATION, STATE_HOLE, STATE_ZERO};
use drystone_nbd::{
    Command, ExportInfo, NbdError, ReplyTo, Request, RequestHeader, Session, StatusChunk, TransmissionFlags,
};
use drystone_sys::{Closer, Listener, Receiver, Sender, Stream};

use crate::wait::{Shared, unless};

/// The flags that a server offers: all but `READ_ONLY`, and perhaps several connections.
const OFFERED: u16 = 0b1_1101_1110_1101;
/// `CAN_MULTI_CONN`.
const SEVERAL: u16 = 1 << 8;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// It is served.
    None,
    /// The same, so many nanoseconds later. Others are served meanwhile.
    Late(u64),
    /// It is never answered. Others are.
    Lost,
    /// Nothing is answered on this connection any more.
    Mute,
    /// The connection ends.
    HangUp,
    /// The connection ends in the middle of the reply.
    Torn,
    /// The reply has another cookie.
    Cookie,
    /// Another magic number.
    Magic,
    /// Another length or error than it should.
    Length,
    /// The reply comes twice.
    Twice,
    /// A bit of it is another one.
    Flipped,
    /// Bytes at random.
    Noise,
    /// An error.
    Refusal,
}

/// Decides what becomes of a request.
pub type Decide = Box<dyn FnMut(&Request) -> Oddity>;

/// A server. Clones are the same.
#[derive(Clone)]
pub struct Far(Rc<Inner>);

struct Inner {
    local: LocalRef,
    closer: Closer,
    bytes: RefCell<Vec<u8>>,
    len_bytes: Cell<u64>,
    decide: RefCell<Decide>,
    rng: RefCell<Rng>,
    asked: Cell<u64>,
}

/// One connection.
struct Peer {
    far: Far,
    line: Rc<Shared<Line>>,
    is_mute: bool,
}

/// The way to a client.
struct Line {
    /// Nobody sends at the moment.
    sender: Option<Sender>,
    is_over: bool,
}

impl Oddity {
    /// One of those that do not keep a client waiting for ever.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        match rng.below(11) {
            0 => Self::HangUp,
            1 => Self::Torn,
            2 => Self::Cookie,
            3 => Self::Magic,
            4 => Self::Length,
            5 => Self::Twice,
            6 => Self::Flipped,
            7 => Self::Noise,
            8 => Self::Refusal,
            _ => Self::Late(rng.below(5_000_000)),
        }
    }
}

impl Far {
    /// Serves a disk of `len_bytes` zeroes on `listener`, as tasks of `local`, until [`Self::close`] and the end of all
    /// connections.
    #[must_use]
    pub fn start(
        listener: Listener,
        local: &LocalRef,
        (len_bytes, seed): (u64, u64),
        decide: Decide,
    ) -> Self {
        let far = Self(Rc::new(Inner {
            local: Rc::clone(local),
            closer: listener.closer(),
            bytes: RefCell::new(vec![0; index(len_bytes)]),
            len_bytes: Cell::new(len_bytes),
            decide: RefCell::new(decide),
            rng: RefCell::new(Rng::new(seed)),
            asked: Cell::new(0),
        }));
        local.spawn(Box::pin(far.clone().accept(listener)));
        far
    }

    /// Takes no more connections.
    pub fn close(&self) {
        self.0.closer.close();
    }

    /// How many requests there were.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.0.asked.get()
    }

    /// The export has another length for whoever enters from now on; at most the first one.
    pub fn shrink(&self, len_bytes: u64) {
        self.0.len_bytes.set(len_bytes);
    }

    async fn accept(self, listener: Listener) {
        let mut lane = Lane::new(Rc::clone(&self.0.local));
        while let Ok(stream) = listener.accept(&mut lane).await {
            let (far, lane) = (self.clone(), Lane::new(Rc::clone(&self.0.local)));
            self.0.local.spawn(Box::pin(async move { drop(far.serve(stream, lane).await) }));
        }
    }

    fn info(&self) -> Result<ExportInfo> {
        let several = if self.0.rng.borrow_mut().one_in(2) { SEVERAL } else { 0 };
        let flags = TransmissionFlags::from_wire(OFFERED | several).without(TransmissionFlags::READ_ONLY);
        ExportInfo::new(0, "", self.0.len_bytes.get())?.with_flags(flags).with_context(BASE_ALLOCATION)
    }

    async fn serve(self, stream: Stream, mut lane: Lane) -> Result<()> {
        let (mut receiver, mut sender) = stream.split();
        let exports = Arc::new(self.info()?);
        let Some(session) = shake_hands(&exports, &mut lane, &mut receiver, &mut sender).await? else {
            return Ok(());
        };
        let line = Rc::new(Shared::new(Line { sender: Some(sender), is_over: false }));
        let mut peer = Peer { far: self, line, is_mute: false };
        loop {
            let head_bytes = session.style.request_bytes();
            if !receiver.fill(&mut lane, head_bytes).await? {
                return Ok(());
            }
            let header = RequestHeader::parse(session.style, receiver.buffered());
            let Ok(Some((header, used))) = header else { return Err(odd("no request")) };
            receiver.consume(used);
            let admitted = session.admit(&header).map_err(|_| odd("a request that must not be sent"))?;
            let mut payload = vec![0; index(u64::from(admitted.payload_bytes))];
            receiver.recv_exact(&mut lane, &mut payload).await?;
            match admitted.request {
                Ok(request) if request.command == Command::Disconnect => return Ok(()),
                Ok(request) => peer.answer(&session, &request, &payload, &mut lane).await?,
                Err(_) => return Err(odd("a request that has to be refused")),
            }
        }
    }

    /// Carries a request out; the right reply.
    fn run(&self, session: &Session, request: &Request, payload: &[u8]) -> Vec<u8> {
        let to = ReplyTo::new(session.style, request.cookie, request.offset_bytes);
        let mut head = [0; HEAD_BYTES_MAX];
        let mut disk = self.0.bytes.borrow_mut();
        let start = index(request.offset_bytes);
        let range = start..start + index(request.len_bytes);
        let part = disk.get_mut(range).unwrap_or_default();
        match request.command {
            Command::Read => {
                let len = u32::try_from(part.len()).unwrap_or(0);
                [to.data(&mut head, request.offset_bytes, len, true), part].concat()
            }
            Command::BlockStatus => {
                let zeroes = part.iter().take_while(|byte| **byte == 0).count() as u64;
                let data = part.iter().take_while(|byte| **byte != 0).count() as u64;
                let mut extents = [0; 16];
                let mut chunk = StatusChunk::new(to, request, &mut extents);
                chunk.push(zeroes.max(data), if zeroes > 0 { STATE_HOLE | STATE_ZERO } else { 0 });
                let (head, extents) = chunk.finish(0, true, &mut head);
                [head, extents].concat()
            }
            command => {
                match command {
                    Command::Write if part.len() == payload.len() => part.copy_from_slice(payload),
                    Command::WriteZeroes | Command::Trim => part.fill(0),
                    _ => {}
                }
                to.done(&mut head).to_vec()
            }
        }
    }
}

impl Peer {
    async fn answer(
        &mut self,
        session: &Session,
        request: &Request,
        payload: &[u8],
        lane: &mut Lane,
    ) -> Result<()> {
        let far = self.far.clone();
        far.0.asked.set(far.0.asked.get() + 1);
        let oddity = (far.0.decide.borrow_mut())(request);
        self.is_mute |= oddity == Oddity::Mute;
        if self.is_mute || oddity == Oddity::Lost {
            return Ok(());
        }
        let mut reply = match oddity {
            Oddity::Refusal => {
                let to = ReplyTo::new(session.style, request.cookie, request.offset_bytes);
                to.error(&mut [0; ERROR_BYTES_MAX], NbdError::Io, None, "odd").to_vec()
            }
            _ => far.run(session, request, payload),
        };
        let is_end = spoil(oddity, &mut reply, &mut far.0.rng.borrow_mut());
        if let Oddity::Late(ns) = oddity {
            let (line, local) = (Rc::clone(&self.line), Rc::clone(&far.0.local));
            let pause = local.sleep_until(local.now_ns().saturating_add(ns));
            let mut lane = Lane::new(Rc::clone(&local));
            local.spawn(Box::pin(async move {
                unless(pause, line.until(|line| line.is_over.then_some(()))).await;
                drop(say(&line, &mut lane, &reply).await);
            }));
            return Ok(());
        }
        say(&self.line, lane, &reply).await?;
        if is_end { Err(odd("the end of a connection")) } else { Ok(()) }
    }
}

/// The connection ends with the task that receives.
impl Drop for Peer {
    fn drop(&mut self) {
        self.line.change(|line| {
            line.is_over = true;
            line.sender.take()
        });
    }
}

/// Sends a whole reply, after those that others send, unless the connection has ended.
async fn say(line: &Shared<Line>, lane: &mut Lane, reply: &[u8]) -> Result<()> {
    let taken = line.until(|line| match line.sender.take() {
        Some(sender) => Some(Some(sender)),
        None => line.is_over.then_some(None),
    });
    let Some(mut sender) = taken.await else { return Err(odd("a connection that has ended")) };
    let sent = sender.send(lane, &mut [IoSlice::new(reply)]).await;
    line.change(|line| line.sender = (!line.is_over).then_some(sender));
    sent
}

/// Makes a reply odd; whether the connection ends after it.
fn spoil(oddity: Oddity, reply: &mut Vec<u8>, rng: &mut Rng) -> bool {
    let flip = |reply: &mut Vec<u8>, from: usize, to: usize, rng: &mut Rng| {
        let at = from + rng.index(to.min(reply.len()).saturating_sub(from).max(1));
        if let Some(byte) = reply.get_mut(at) {
            *byte ^= 1 << rng.below(8);
        }
    };
    match oddity {
        Oddity::None | Oddity::Late(_) | Oddity::Refusal | Oddity::Lost | Oddity::Mute => {}
        Oddity::HangUp => reply.clear(),
        Oddity::Torn => reply.truncate(rng.index(reply.len().max(1))),
        Oddity::Magic => flip(reply, 0, 4, rng),
        Oddity::Cookie => flip(reply, 8, 16, rng),
        Oddity::Length => flip(reply, 16, 32, rng),
        Oddity::Twice => reply.extend_from_within(..),
        // Heads only: data that are other ones are nobody's fault that a client could see.
        Oddity::Flipped => flip(reply, 0, 32, rng),
        Oddity::Noise => {
            *reply = vec![0; 1 + rng.index(100)];
            rng.fill(reply);
        }
    }
    matches!(oddity, Oddity::HangUp | Oddity::Torn)
}

/// Negotiates; `None`: the client has gone.
async fn shake_hands(
    exports: &Arc<ExportInfo>,
    lane: &mut Lane,
    receiver: &mut Receiver,
    sender: &mut Sender,
) -> Result<Option<Session>> {
    let mut output = Vec::new();
    let mut handshake = ServerHandshake::new(&mut output);
    loop {
        sender.send(lane, &mut [IoSlice::new(&std::mem::take(&mut output))]).await?;
        let (used, step) = handshake
            .receive(exports, receiver.buffered(), &mut output)
            .map_err(|_| odd("a client that negotiates something else"))?;
        receiver.consume(used);
        match step {
            Step::Transmission(negotiated) => {
                sender.send(lane, &mut [IoSlice::new(&output)]).await?;
                return Ok(Some(negotiated.session));
            }
            Step::Aborted => return Ok(None),
            Step::More if output.is_empty() => {
                let count = receiver.buffered().len() + 1;
                if !receiver.fill(lane, count).await? {
                    return Ok(None);
                }
            }
            Step::More => {}
        }
    }
}

fn odd(what: &str) -> Error {
    Error::new(Kind::Disconnected, what)
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
