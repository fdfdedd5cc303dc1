//! A server whose client is the input.
//!
//! ```text
//!   | how it is cut | 0: bytes | the rest is what the client sends                              |
//!   |               | 1: words | options [number, kind of data …] … requests [command, where …] |
//! ```
//! Demanded: the same answers however the bytes arrive; output in proportion to options; a request that is admitted is
//! inside of its export and permitted by its flags; a status is about no more than was asked.

use drystone_base::BeMut;
use drystone_nbd::server::{ServerHandshake, Step};
use drystone_nbd::wire::{CommandFlags, MAGIC_OPTION, MAGIC_REQUEST, MAGIC_REQUEST_EXTENDED, opt};
use drystone_nbd::{
    Command, ReplyTo, Request, RequestHeader, Session, StatusChunk, Style, TransmissionFlags, limit, reply,
};

use super::{DISK_BYTES, OPTIONS, VAST_BYTES, shelf};
use crate::input::{Input, pieces};

/// Most output for one piece of input that answers one option.
const ANSWER_BYTES_MAX: usize = limit::LIST_BYTES_MAX + (256 << 10);

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![
        // Extended headers, contexts, in; a write, a read, a status.
        [&[5, 1][..], &[1, 0, 3, 2, 0, 2], &[0xff], &[1, 0, 0, 1, 64, 0, 0, 1, 1, 7, 0, 0, 1, 0]].concat(),
        [&[2, 1][..], &[2, 0, 3, 1, 0, 3], &[0xff], &[7, 0, 8, 0, 0, 0, 6, 0, 2, 4, 1]].concat(),
        [&[1, 1][..], &[6, 0, 5, 1, 7, 1], &[0xff], &[0, 0, 0, 1, 9, 3, 0, 0, 0, 0]].concat(),
    ];
    // The same in the bytes of a client.
    let plain: Vec<Vec<u8>> =
        all.iter().map(|seed| [&[3, 0], &said(Input::new(&seed[2..]))[..]].concat()).collect();
    all.extend(plain);
    all
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (cut, is_words) = (input.byte(), input.byte() % 2 == 1);
    let sent = if is_words { said(input) } else { input.rest().to_vec() };
    let in_pieces = Peer::default().converse(&sent, cut);
    assert_eq!(
        in_pieces,
        Peer::default().converse(&sent, 0),
        "the answers depend on how the requests arrive"
    );
}

/// What a client sends that knows the protocol and nothing else.
fn said(mut input: Input<'_>) -> Vec<u8> {
    let mut out = 3_u32.to_be_bytes().to_vec();
    let mut is_extended = false;
    while !input.is_empty() {
        let number = input.byte();
        if number == 0xff {
            break;
        }
        let option = OPTIONS[usize::from(number) % OPTIONS.len()];
        is_extended |= option == opt::EXTENDED_HEADERS;
        let data = option_data(option, input.byte());
        BeMut(&mut out).u64(MAGIC_OPTION).u32(option).u32(u32::try_from(data.len()).unwrap()).bytes(&data);
        if option == opt::GO || option == opt::EXPORT_NAME {
            break;
        }
    }
    while !input.is_empty() {
        request(&mut input, is_extended, &mut out);
    }
    out
}

/// The data of an option: what it should be, or, by the last bits of `kind`, something near it.
fn option_data(option: u32, kind: u8) -> Vec<u8> {
    let name: &[u8] = if kind & 1 == 0 { b"disk" } else { b"vast" };
    let mut data = Vec::new();
    match option {
        opt::EXPORT_NAME => data.extend(name),
        opt::GO | opt::INFO => {
            BeMut(&mut data).u32(4).bytes(name).u16(2).u16(3).u16(1);
        }
        opt::SET_META_CONTEXT | opt::LIST_META_CONTEXT => {
            BeMut(&mut data).u32(4).bytes(name).u32(2).u32(15).bytes(b"base:allocation").u32(2).bytes(b"x:");
        }
        _ => {}
    }
    match kind >> 4 {
        1 => data.truncate(usize::from(kind & 15)),
        2 => data.extend(vec![kind; 1000]),
        3 if !data.is_empty() => data[0] = 0xff,
        4 => data.clear(),
        _ => {}
    }
    data
}

/// One request: command, flags, where, how long, and its payload.
fn request(input: &mut Input<'_>, is_extended: bool, out: &mut Vec<u8>) {
    let (command, flags) = (u16::from(input.byte() % 10), u16::from(input.byte()));
    let offsets = [0, 4096, DISK_BYTES - 1, DISK_BYTES, VAST_BYTES - 512, VAST_BYTES, u64::MAX, 1 << 32];
    let lens = [512, 4096, 0, 1, DISK_BYTES, u64::from(u32::MAX), 1 << 32, VAST_BYTES, u64::MAX, 24, 12, 264];
    let (offset, len) = (input.choice(&offsets), input.choice(&lens));
    let (offset, len) = (offset.wrapping_add(u64::from(input.byte())), len);
    if is_extended {
        BeMut(out).u32(MAGIC_REQUEST_EXTENDED).u16(flags).u16(command).u64(7).u64(offset).u64(len);
    } else {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        BeMut(out).u32(MAGIC_REQUEST).u16(flags).u16(command).u64(7).u64(offset).u32(len);
    }
    if command == 1 || (command == 7 && flags & 32 != 0) {
        let payload = [&len.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 0], input.bytes(4)].concat();
        let len = usize::try_from(len.min(4096)).unwrap();
        out.extend(payload.into_iter().chain(std::iter::repeat(0x5a)).take(len));
    }
}

/// A server, and what it says.
#[derive(Default)]
struct Peer {
    session: Option<Session>,
    out: Vec<u8>,
    /// Payload that is still to come and is not looked at.
    skip: u64,
    is_over: bool,
}

impl Peer {
    fn converse(mut self, sent: &[u8], cut: u8) -> Vec<u8> {
        let mut handshake = ServerHandshake::new(&mut self.out);
        let mut buffer = Vec::new();
        for piece in pieces(sent, cut) {
            buffer.extend_from_slice(piece);
            while !self.is_over {
                let used = match self.session {
                    None => self.negotiate(&mut handshake, &buffer),
                    Some(session) => self.serve(&session, &buffer),
                };
                drop(buffer.drain(..used));
                if used == 0 {
                    break;
                }
            }
        }
        self.out
    }

    fn negotiate(&mut self, handshake: &mut ServerHandshake, input: &[u8]) -> usize {
        let before = self.out.len();
        let step = handshake.receive(&shelf(), input, &mut self.out);
        assert!(self.out.len() - before <= ANSWER_BYTES_MAX, "an answer without end");
        match step {
            Ok((used, Step::More)) => return used,
            Ok((used, Step::Transmission(negotiated))) => {
                self.session = Some(negotiated.session);
                return used;
            }
            Ok((_, Step::Aborted)) => self.out.extend(b"aborted"),
            // What a failed call adds is not worth sending.
            Err(error) => {
                self.out.truncate(before);
                self.out.extend(error.to_string().bytes());
            }
        }
        self.is_over = true;
        0
    }

    /// Takes one request, or payload of the last one.
    fn serve(&mut self, session: &Session, input: &[u8]) -> usize {
        if self.skip > 0 {
            let used = self.skip.min(input.len() as u64);
            self.skip -= used;
            return usize::try_from(used).unwrap();
        }
        let parsed = RequestHeader::parse(session.style, input);
        let Ok(Some((header, used))) = parsed else {
            self.is_over = parsed.is_err();
            return 0;
        };
        let Ok(admitted) = session.admit(&header) else {
            self.is_over = true;
            return 0;
        };
        assert!(admitted.payload_bytes <= limit::PAYLOAD_BYTES_DEFAULT, "a payload without end");
        let mut head = [0; reply::ERROR_BYTES_MAX];
        let to = ReplyTo::new(session.style, header.cookie, header.offset_bytes);
        match admitted.request {
            Err(refusal) => {
                self.out.extend_from_slice(to.error(&mut head, refusal.error, None, refusal.text))
            }
            Ok(request) if request.command == Command::BlockStatus => {
                let end = used + admitted.payload_bytes as usize;
                let Some(payload) = input.get(used..end) else { return 0 };
                self.status(session, &request, payload, to);
                return end;
            }
            Ok(request) => {
                demand_permitted(session, &request);
                self.out.extend(format!("{request:?}").bytes());
            }
        }
        self.skip = u64::from(admitted.payload_bytes);
        used
    }

    fn status(&mut self, session: &Session, request: &Request, payload: &[u8], to: ReplyTo) {
        let Ok((request, contexts)) = session.status_request(request, payload) else {
            return self.out.extend(b"refused");
        };
        demand_permitted(session, &request);
        for context in contexts.iter() {
            let (mut head, mut room) = ([0; reply::HEAD_BYTES_MAX], [0; 64]);
            let mut chunk = StatusChunk::new(to, &request, &mut room);
            let mut status = 0;
            while chunk.push(request.len_bytes / 3 + 1, status) {
                status ^= 3;
            }
            let (head, extents) = chunk.finish(context, true, &mut head);
            demand_status(session.style, &request, extents);
            self.out.extend_from_slice(head);
            self.out.extend_from_slice(extents);
        }
    }
}

fn demand_permitted(session: &Session, request: &Request) {
    let Request { offset_bytes, len_bytes, command, flags, .. } = *request;
    if command == Command::Disconnect || command == Command::Flush {
        return;
    }
    let end = offset_bytes.checked_add(len_bytes).filter(|end| *end <= session.len_bytes);
    assert!(end.is_some(), "past the end: {request:?}");
    let writes = matches!(command, Command::Write | Command::WriteZeroes | Command::Trim);
    assert!(!writes || !session.flags.has(TransmissionFlags::READ_ONLY), "written, read-only: {request:?}");
    let moves = matches!(command, Command::Read | Command::Write);
    assert!(!moves || len_bytes <= u64::from(session.block.max_bytes), "too long: {request:?}");
    assert!(
        !flags.has(CommandFlags::PAYLOAD_LEN)
            || command == Command::Write
            || session.style == Style::Extended
    );
}

/// The extents are not empty, and about no more than was asked.
fn demand_status(style: Style, request: &Request, extents: &[u8]) {
    let width = if style == Style::Extended { 16 } else { 8 };
    let lens: Vec<u64> = extents
        .chunks_exact(width)
        .map(|extent| extent[..width / 2].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)))
        .collect();
    assert!(!lens.is_empty() && lens.iter().all(|len| *len > 0), "{request:?}: {lens:?}");
    assert!(
        lens.iter().map(|len| u128::from(*len)).sum::<u128>() <= u128::from(request.len_bytes),
        "{request:?}"
    );
}
