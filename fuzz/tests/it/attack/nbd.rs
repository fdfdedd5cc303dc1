//! NBD peers that mean harm.

use std::cell::Cell;
use std::sync::Arc;

use drystone_base::{BeMut, LEN_MAX};
use drystone_nbd::client::{self, ClientHandshake, Goal};
use drystone_nbd::server::{HandshakeError, ServerHandshake, Step};
use drystone_nbd::wire::{
    MAGIC_OPTION, MAGIC_OPTION_REPLY, MAGIC_REQUEST, MAGIC_REQUEST_EXTENDED, context, opt, rep,
};
use drystone_nbd::{
    Command, CommandFlags, ExportInfo, Exports, NbdError, ReplyTo, Request, Session, StatusChunk, Style,
    TransmissionFlags, limit, reply,
};

/// One export, and how often somebody looked for it.
struct Shelf {
    export: Arc<ExportInfo>,
    lookups: Cell<u32>,
}

impl Shelf {
    fn new(len_bytes: u64) -> Self {
        let export = ExportInfo::new(1, "disk", len_bytes).unwrap();
        let export = export.with_flags(TransmissionFlags::from_wire(0x1dec));
        let export = export.with_context(context::BASE_ALLOCATION).unwrap();
        Self { export: Arc::new(export), lookups: Cell::new(0) }
    }
}

impl Exports for Shelf {
    fn find(&self, name: &str) -> Option<Arc<ExportInfo>> {
        self.lookups.set(self.lookups.get() + 1);
        (self.export.name() == name).then(|| Arc::clone(&self.export))
    }

    fn list(&self) -> Vec<Arc<ExportInfo>> {
        self.lookups.set(self.lookups.get() + 1);
        vec![Arc::clone(&self.export)]
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    BeMut(&mut out).u64(MAGIC_OPTION).u32(number).u32(u32::try_from(data.len()).unwrap()).bytes(data);
    out
}

/// The data of `GO` and `INFO`.
fn go(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    BeMut(&mut out).u32(u32::try_from(name.len()).unwrap()).bytes(name).u16(0);
    out
}

/// What a server says to all of this, and where that leads.
fn said(shelf: &Shelf, options: &[Vec<u8>]) -> (Vec<u8>, Result<Step, HandshakeError>) {
    let mut server = ServerHandshake::new(&mut Vec::new());
    let (mut input, mut out) = ([vec![0, 0, 0, 3], options.concat()].concat(), Vec::new());
    loop {
        match server.receive(shelf, &input, &mut out) {
            Ok((used, Step::More)) if used > 0 => drop(input.drain(..used)),
            Ok((_, step)) => return (out, Ok(step)),
            Err(error) => return (out, Err(error)),
        }
    }
}

/// Kinds of the replies in a server's answer.
fn kinds(mut answer: &[u8]) -> Vec<u32> {
    let mut kinds = Vec::new();
    while answer.len() >= 20 {
        let word = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().unwrap());
        kinds.push(word(12));
        answer = &answer[20 + word(16) as usize..];
    }
    kinds
}

fn session(style: Style, len_bytes: u64) -> Session {
    let flags = TransmissionFlags::from_wire(0x1dec);
    let info = ExportInfo::new(1, "disk", len_bytes).unwrap();
    let mut contexts = drystone_nbd::ContextSet::EMPTY;
    contexts.insert(0);
    Session { style, flags, len_bytes, block: info.block(), contexts }
}

#[test]
fn an_export_name_of_any_length_gets_an_answer() {
    for len in [0, 1, 255, 256, 257, 3000, 4096, 4097, 65_000, 1 << 20] {
        let name = vec![b'a'; len];
        let shelf = Shelf::new(1 << 20);
        for number in [opt::INFO, opt::GO] {
            let (answer, step) = said(&shelf, &[option(number, &go(&name))]);
            assert_eq!(step, Ok(Step::More), "{len}");
            assert_eq!(kinds(&answer).len(), 1, "{len}");
            assert!(kinds(&answer)[0] & rep::ERROR_BIT != 0, "{len}");
            assert!(answer.len() < 8192, "{len}: it is not sent back");
        }
        // This one cannot be answered: the connection ends.
        assert!(said(&shelf, &[option(opt::EXPORT_NAME, &name)]).1.is_err());
        let mut contexts = Vec::new();
        BeMut(&mut contexts).u32(u32::try_from(len).unwrap()).bytes(&name).u32(0);
        let (answer, step) = said(&shelf, &[option(opt::SET_META_CONTEXT, &contexts)]);
        assert!(step == Ok(Step::More) && kinds(&answer)[0] & rep::ERROR_BIT != 0, "{len}");
    }
}

#[test]
fn a_name_whose_length_is_a_lie_is_refused() {
    for len in [5, 0xff, 0xffff_u32, 0x7fff_ffff, u32::MAX, u32::MAX - 3] {
        let data = [&len.to_be_bytes()[..], b"disk\0\0"].concat();
        let (answer, step) = said(&Shelf::new(512), &[option(opt::GO, &data), option(opt::GO, &go(b"disk"))]);
        assert_eq!(kinds(&answer)[0], rep::ERR_INVALID, "{len}");
        assert!(matches!(step, Ok(Step::Transmission(_))), "the stream is in step");
    }
}

#[test]
fn a_client_that_leaves_at_any_byte_leaves_nothing_behind() {
    let shelf = Shelf::new(1 << 20);
    let sent = [vec![0, 0, 0, 3], option(opt::EXTENDED_HEADERS, &[]), option(opt::GO, &go(b"disk"))].concat();
    for len in 0..sent.len() {
        let mut server = ServerHandshake::new(&mut Vec::new());
        let mut rest = &sent[..len];
        while let Ok((used @ 1.., Step::More)) = server.receive(&shelf, rest, &mut Vec::new()) {
            rest = &rest[used..];
        }
    }
    assert_eq!(Arc::strong_count(&shelf.export), 1);
}

#[test]
fn no_export_is_looked_for_before_a_client_names_one() {
    let shelf = Shelf::new(1 << 20);
    let (_, step) =
        said(&shelf, &[option(opt::EXTENDED_HEADERS, &[]), option(77, b"disk"), option(opt::STARTTLS, &[])]);
    assert_eq!((step, shelf.lookups.get()), (Ok(Step::More), 0));
}

#[test]
fn a_request_before_the_handshake_is_over_ends_the_connection() {
    for magic in [MAGIC_REQUEST, MAGIC_REQUEST_EXTENDED] {
        let mut request = magic.to_be_bytes().to_vec();
        request.resize(32, 0);
        let (_, step) = said(&Shelf::new(512), &[request]);
        assert!(matches!(step, Err(HandshakeError::OptionMagic(_))), "{step:?}");
    }
}

#[test]
fn what_was_negotiated_in_the_clear_is_never_taken_under_encryption() {
    // There is no encryption: a client that asks for it is told so, every time, and knows what it talks through.
    let asked = [option(opt::STRUCTURED_REPLY, &[]), option(opt::STARTTLS, &[]), option(opt::STARTTLS, b"x")];
    let (answer, step) = said(&Shelf::new(512), &asked);
    assert_eq!(kinds(&answer)[0], rep::ACK);
    assert!(kinds(&answer)[1..].iter().all(|kind| kind & rep::ERROR_BIT != 0));
    assert_eq!(step, Ok(Step::More));
}

#[test]
fn a_status_of_four_gigabytes_and_more_is_told_in_numbers_that_fit() {
    for (style, len_bytes) in [(Style::Structured, u64::from(u32::MAX)), (Style::Extended, LEN_MAX)] {
        let request = Request {
            cookie: 1,
            offset_bytes: 0,
            len_bytes,
            command: Command::BlockStatus,
            flags: CommandFlags::NONE,
        };
        let admitted = session(style, LEN_MAX).admit(&request.header(style)).unwrap();
        assert_eq!(admitted.request, Ok(request));
        for extents in
            [vec![u64::MAX], vec![1 << 32, 1 << 32], vec![(1 << 32) - 1, 1, 1 << 40], vec![0, 0, u64::MAX]]
        {
            let (mut room, mut head) = ([0; 64], [0; reply::HEAD_BYTES_MAX]);
            let mut chunk = StatusChunk::new(ReplyTo::new(style, 1, 0), &request, &mut room);
            for (status, extent) in (0..).zip(&extents) {
                chunk.push(*extent, status % 2);
            }
            let (_, told) = chunk.finish(0, true, &mut head);
            let width = if style == Style::Extended { 8 } else { 4 };
            let number =
                |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            let lens: Vec<u64> =
                told.chunks_exact(2 * width).map(|extent| number(&extent[..width])).collect();
            assert!(lens.iter().all(|len| *len > 0), "{extents:?}: {lens:?}");
            assert!(
                lens.iter().map(|len| u128::from(*len)).sum::<u128>() <= u128::from(len_bytes),
                "{lens:?}"
            );
        }
    }
}

#[test]
fn a_request_whose_end_wraps_around_is_refused() {
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let session = session(style, 1 << 20);
        for command in [Command::Read, Command::Write, Command::Trim, Command::WriteZeroes, Command::Cache] {
            for (offset_bytes, len_bytes) in
                [(u64::MAX, 1), (u64::MAX - 511, 512), (1 << 63, 4096), (1 << 20, 1), (512, 1 << 20)]
            {
                let request =
                    Request { cookie: 1, offset_bytes, len_bytes, command, flags: CommandFlags::NONE };
                let refusal = session.admit(&request.header(style)).unwrap().request.unwrap_err();
                assert!(matches!(refusal.error, NbdError::Invalid | NbdError::NoSpace), "{request:?}");
            }
        }
    }
}

#[test]
fn a_server_that_claims_replies_of_any_length_is_not_believed() {
    let goal = Goal::Enter { export: "disk".into(), contexts: vec![] };
    for (number, kind) in
        [(opt::EXTENDED_HEADERS, rep::ACK), (opt::EXTENDED_HEADERS, rep::ERR_UNSUP), (opt::GO, rep::INFO)]
    {
        for len in [u32::MAX, 1 << 31, limit::OPTION_REPLY_BYTES_MAX + 1] {
            let mut client = ClientHandshake::new(goal.clone(), Style::Extended).unwrap();
            let mut sent = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
            BeMut(&mut sent).u64(MAGIC_OPTION_REPLY).u32(number).u32(kind).u32(len);
            assert!(client.receive(&sent, &mut Vec::new()).is_err(), "{number} {kind:#x} {len}");
        }
    }
}

#[test]
fn data_that_nobody_asked_for_end_the_connection() {
    let shelf = Shelf::new(1 << 20);
    let (mut to_client, mut to_server, mut heard, mut told) = (Vec::new(), Vec::new(), 0, 0);
    let goal = Goal::Enter { export: "disk".into(), contexts: vec![] };
    let mut server = ServerHandshake::new(&mut to_client);
    let mut client = ClientHandshake::new(goal, Style::Structured).unwrap();
    let mut inside = loop {
        let (used, step) = client.receive(&to_client[heard..], &mut to_server).unwrap();
        heard += used;
        if let client::Step::Entered(inside) = step {
            break inside;
        }
        told += server.receive(&shelf, &to_server[told..], &mut to_client).unwrap().0;
    };
    let request = Request {
        cookie: 9,
        offset_bytes: 4096,
        len_bytes: 512,
        command: Command::Read,
        flags: CommandFlags::NONE,
    };
    inside.begin(&request, &mut [0; 32]).unwrap();
    let to = ReplyTo::new(Style::Structured, 9, 4096);
    for (at, len) in [(4096, 513), (4096, u32::MAX - 8), (4095, 512), (0, 512), (u64::MAX, 512), (4608, 1)] {
        let mut head = [0; reply::HEAD_BYTES_MAX];
        let reply = to.data(&mut head, at, len, true).to_vec();
        // A broken connection is over: what is asked here is whether the length is believed.
        assert!(inside.next(&reply).is_err(), "{len} bytes at {at}");
    }
    // A simple reply with data to a request that wants structured ones, and to one that was never made.
    for (style, cookie) in [(Style::Simple, 9), (Style::Structured, 8)] {
        let mut head = [0; reply::HEAD_BYTES_MAX];
        let reply = ReplyTo::new(style, cookie, 4096).data(&mut head, 4096, 512, true).to_vec();
        assert!(inside.next(&reply).is_err(), "{style:?} {cookie}");
    }
}
