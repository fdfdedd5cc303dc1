//! A server with a disk in memory, a client, and streams between them that hand over bytes in pieces.

use drystone_base::rng::Rng;
use drystone_nbd::client::{self, ClientHandshake, Goal, Transmission, What};
use drystone_nbd::server::{self, Negotiated, ServerHandshake};
use drystone_nbd::wire::{REQUEST_EXTENDED_BYTES, context};
use drystone_nbd::{
    Command, CommandFlags, ExportInfo, Exports, NbdError, Refusal, ReplyTo, Request, RequestHeader, Session,
    StatusChunk, Style, TransmissionFlags, limit, reply,
};
use std::sync::Arc;

pub(crate) const DISK_BYTES: u64 = 1 << 20;
pub(crate) const GRAIN: u64 = 4096;

pub(crate) struct Shelf(pub(crate) Vec<Arc<ExportInfo>>);

impl Exports for Shelf {
    fn find(&self, name: &str) -> Option<Arc<ExportInfo>> {
        self.0.iter().find(|export| name.is_empty() || export.name() == name).cloned()
    }

    fn list(&self) -> Vec<Arc<ExportInfo>> {
        self.0.clone()
    }
}

/// One disk of 1 MiB, and a second export that only exists.
pub(crate) fn shelf() -> Shelf {
    let flags = TransmissionFlags::from_wire(0x1dec);
    let disk = ExportInfo::new(1, "disk", DISK_BYTES).unwrap().with_flags(flags);
    let disk = disk.with_context(context::BASE_ALLOCATION).unwrap().with_context("x:depth").unwrap();
    Shelf(vec![Arc::new(disk), Arc::new(ExportInfo::new(2, "ödland", 0).unwrap())])
}

/// How a stream is cut: pieces of one byte, or of any length.
pub(crate) struct Cut(Option<Rng>);

impl Cut {
    pub(crate) fn bytes() -> Self {
        Self(None)
    }

    pub(crate) fn random(seed: u64) -> Self {
        Self(Some(Rng::new(seed)))
    }

    fn next(&mut self, len: usize) -> usize {
        let Some(rng) = &mut self.0 else { return len.min(1) };
        let most = 1 << rng.below(12);
        (1 + rng.index(most)).min(len)
    }
}

/// Bytes under way in one direction: `seen` is what the receiver has at once.
#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) sent: Vec<u8>,
    seen: usize,
}

impl Stream {
    /// Shows the receiver one more piece; false if everything was shown before.
    pub(crate) fn advance(&mut self, cut: &mut Cut) -> bool {
        let more = cut.next(self.sent.len() - self.seen);
        self.seen += more;
        more > 0
    }

    pub(crate) fn visible(&self) -> &[u8] {
        &self.sent[..self.seen]
    }

    pub(crate) fn consume(&mut self, used: usize) {
        assert!(used <= self.seen, "nobody uses bytes that are not there");
        drop(self.sent.drain(..used));
        self.seen -= used;
    }
}

/// What both sides came to.
pub(crate) struct Met {
    pub(crate) server: Result<server::Step, server::HandshakeError>,
    pub(crate) client: Result<client::Step, client::HandshakeError>,
}

/// Lets a client with this goal talk to a server until neither has anything to say.
pub(crate) fn meet(exports: &dyn Exports, goal: Goal, style: Style, cut: &mut Cut) -> Met {
    let (mut to_client, mut to_server) = (Stream::default(), Stream::default());
    let mut server = ServerHandshake::new(&mut to_client.sent);
    let mut client = ClientHandshake::new(goal, style).unwrap();
    let mut met = Met { server: Ok(server::Step::More), client: Ok(client::Step::More) };
    loop {
        let progress = to_client.advance(cut) | to_server.advance(cut);
        if matches!(met.client, Ok(client::Step::More)) {
            met.client = client.receive(to_client.visible(), &mut to_server.sent).map(|(used, step)| {
                to_client.consume(used);
                step
            });
        }
        if met.server == Ok(server::Step::More) {
            met.server =
                server.receive(exports, to_server.visible(), &mut to_client.sent).map(|(used, step)| {
                    to_server.consume(used);
                    step
                });
        }
        if !progress {
            return met;
        }
    }
}

/// A connection in transmission, whose two sides agree.
pub(crate) fn enter(style: Style, cut: &mut Cut) -> (Negotiated, Transmission) {
    let contexts = vec![context::BASE_ALLOCATION.into(), "x:depth".into()];
    let goal = Goal::Enter { export: "disk".into(), contexts };
    match meet(&shelf(), goal, style, cut) {
        Met {
            server: Ok(server::Step::Transmission(negotiated)),
            client: Ok(client::Step::Entered(transmission)),
        } => (negotiated, *transmission),
        Met { server, client } => panic!("{server:?} {client:?}"),
    }
}

/// A server's half of a connection: answers requests from a disk in memory whose zero grains are holes.
pub(crate) struct Disk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) session: Session,
    pub(crate) flushes: usize,
}

impl Disk {
    pub(crate) fn new(session: Session) -> Self {
        Self { bytes: vec![0; usize::try_from(DISK_BYTES).unwrap()], session, flushes: 0 }
    }

    /// Takes one request with its payload from `input`, appends the reply; how many bytes it took, 0 if more are needed.
    /// `None` at the end of the connection.
    pub(crate) fn serve(&mut self, input: &[u8], output: &mut Vec<u8>) -> Option<usize> {
        let style = self.session.style;
        let Ok(parsed) = RequestHeader::parse(style, input) else { return None };
        let Some((header, used)) = parsed else { return Some(0) };
        let Ok(admitted) = self.session.admit(&header) else { return None };
        let end = used + admitted.payload_bytes as usize;
        let Some(payload) = input.get(used..end) else { return Some(0) };
        let to = ReplyTo::new(style, header.cookie, header.offset_bytes);
        match admitted.request {
            Ok(Request { command: Command::Disconnect, .. }) => return None,
            Ok(request) => self.run(&request, payload, to, output),
            Err(refusal) => refuse(to, refusal, output),
        }
        Some(end)
    }

    fn run(&mut self, request: &Request, payload: &[u8], to: ReplyTo, output: &mut Vec<u8>) {
        let start = usize::try_from(request.offset_bytes).unwrap();
        match request.command {
            Command::Read => return self.read(request, to, output),
            Command::BlockStatus => return self.status(request, payload, to, output),
            Command::Write => self.bytes[start..][..payload.len()].copy_from_slice(payload),
            Command::WriteZeroes | Command::Trim => {
                self.bytes[start..][..usize::try_from(request.len_bytes).unwrap()].fill(0);
            }
            Command::Flush => self.flushes += 1,
            Command::Cache | Command::Disconnect => {}
        }
        output.extend_from_slice(to.done(&mut [0; reply::HEAD_BYTES_MAX]));
    }

    /// The grains of a range: where, how long, whether all zero.
    fn grains(&self, offset_bytes: u64, len_bytes: u64) -> impl Iterator<Item = (u64, u64, bool)> {
        let end = offset_bytes + len_bytes;
        let starts = (offset_bytes / GRAIN..).map(move |grain| (grain * GRAIN).max(offset_bytes));
        starts.take_while(move |start| *start < end).map(move |start| {
            let stop = (start / GRAIN * GRAIN + GRAIN).min(end);
            let bytes = &self.bytes[usize::try_from(start).unwrap()..usize::try_from(stop).unwrap()];
            (start, stop - start, bytes.iter().all(|byte| *byte == 0))
        })
    }

    fn read(&self, request: &Request, to: ReplyTo, output: &mut Vec<u8>) {
        let head = &mut [0; reply::HEAD_BYTES_MAX];
        let Request { offset_bytes, len_bytes, .. } = *request;
        let whole =
            self.session.style == Style::Simple || request.flags.has(CommandFlags::DF) || len_bytes == 0;
        let pieces: Vec<_> = if whole {
            vec![(offset_bytes, len_bytes, false)]
        } else {
            self.grains(offset_bytes, len_bytes).collect()
        };
        let last = pieces.len() - 1;
        for (index, (start, len, hole)) in pieces.into_iter().enumerate() {
            let (len32, done) = (u32::try_from(len).unwrap(), index == last);
            if hole {
                output.extend_from_slice(to.hole(head, start, len32, done).unwrap());
            } else {
                output.extend_from_slice(to.data(head, start, len32, done));
                let start = usize::try_from(start).unwrap();
                output.extend_from_slice(&self.bytes[start..][..len32 as usize]);
            }
        }
    }

    fn status(&self, request: &Request, payload: &[u8], to: ReplyTo, output: &mut Vec<u8>) {
        let (request, contexts) = match self.session.status_request(request, payload) {
            Ok(asked) => asked,
            Err(refusal) => return refuse(to, refusal, output),
        };
        let (head, mut room) = (&mut [0; reply::HEAD_BYTES_MAX], [0; 16 * 8]);
        let last = contexts.iter().last();
        for context in contexts.iter() {
            let mut chunk = StatusChunk::new(to, &request, &mut room);
            for (_, len, hole) in self.grains(request.offset_bytes, request.len_bytes) {
                let status = if hole { context::STATE_HOLE | context::STATE_ZERO } else { 0 };
                if !chunk.push(len, status + context * 100) {
                    break;
                }
            }
            let (head, extents) = chunk.finish(context, Some(context) == last, head);
            output.extend_from_slice(head);
            output.extend_from_slice(extents);
        }
    }
}

fn refuse(to: ReplyTo, refusal: Refusal, output: &mut Vec<u8>) {
    output.extend_from_slice(to.error(&mut [0; reply::ERROR_BYTES_MAX], refusal.error, None, refusal.text));
}

/// What came back for one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) extents: Vec<(u32, u64, u64, u64)>,
    pub(crate) text: String,
    pub(crate) end: Option<Result<(), NbdError>>,
}

/// Takes one event at the start of the stream, with its data, for the request that it belongs to. `None` if more is needed.
pub(crate) fn take_event(
    client: &mut Transmission,
    stream: &mut Stream,
    answers: &mut dyn FnMut(u64) -> (u64, Answer),
) -> Option<(u64, Answer)> {
    let input = stream.visible();
    let Some((used, event)) = client.next(input).unwrap() else {
        assert!(input.len() < limit::LOOKAHEAD_BYTES, "this many bytes are always enough");
        return None;
    };
    let (mut used, cookie, end) = (used, event.cookie, event.end);
    let (offset_request, mut answer) = answers(cookie);
    match event.what {
        What::Data { offset_bytes, len_bytes } => {
            let (at, len) = (
                usize::try_from(offset_bytes - offset_request).unwrap(),
                usize::try_from(len_bytes).unwrap(),
            );
            used += len;
            while stream.visible().len() < used {
                assert!(stream.advance(&mut Cut::bytes()), "the data follow");
            }
            answer.bytes[at..at + len].copy_from_slice(&stream.visible()[used - len..used]);
        }
        What::Extent { context, offset_bytes, len_bytes, status } => {
            answer.extents.push((context, offset_bytes, len_bytes, status));
        }
        What::Error { text, .. } => answer.text = String::from_utf8_lossy(text).into_owned(),
        What::Hole { offset_bytes, len_bytes } => {
            let at = usize::try_from(offset_bytes - offset_request).unwrap();
            answer.bytes[at..at + usize::try_from(len_bytes).unwrap()].fill(0);
        }
        What::Nothing => {}
    }
    answer.end = end;
    stream.consume(used);
    Some((cookie, answer))
}

/// The bytes of a request, its data behind it.
pub(crate) fn encode(client: &mut Transmission, request: &Request, data: &[u8]) -> Vec<u8> {
    let mut out = [0; REQUEST_EXTENDED_BYTES];
    let mut bytes = client.begin(request, &mut out).unwrap().to_vec();
    bytes.extend_from_slice(data);
    bytes
}
