//! Requests through both sides: every style, many in flight, the streams in pieces, the bytes as a model says.

use crate::peer::{Answer, Cut, DISK_BYTES, Disk, GRAIN, Stream, encode, enter, take_event};
use drystone_base::rng::Rng;
use drystone_nbd::{Command, CommandFlags, NbdError, Request, RequestHeader, Style, limit};
use std::collections::BTreeMap;

/// Sends requests and reads replies in pieces until nothing is in flight.
struct Line {
    client: drystone_nbd::client::Transmission,
    disk: Disk,
    to_server: Stream,
    to_client: Stream,
    cut: Cut,
    open: BTreeMap<u64, (Request, Answer)>,
}

impl Line {
    fn new(style: Style, seed: u64) -> Self {
        let mut cut = Cut::random(seed);
        let (negotiated, client) = enter(style, &mut cut);
        let (to_server, to_client, open) = (Stream::default(), Stream::default(), BTreeMap::new());
        Self { client, disk: Disk::new(negotiated.session), to_server, to_client, cut, open }
    }

    fn send(&mut self, request: Request, data: &[u8]) {
        let bytes = encode(&mut self.client, &request, data);
        self.to_server.sent.extend_from_slice(&bytes);
        let room = if request.command == Command::Read { request.len_bytes } else { 0 };
        let answer = Answer { bytes: vec![0xee; usize::try_from(room).unwrap()], ..Answer::default() };
        self.open.insert(request.cookie, (request, answer));
    }

    /// Moves bytes until nothing moves; the finished answers.
    fn settle(&mut self) -> Vec<(Request, Answer)> {
        let mut finished = Vec::new();
        loop {
            let progress = self.to_server.advance(&mut self.cut) | self.to_client.advance(&mut self.cut);
            while let Some(used) = self.disk.serve(self.to_server.visible(), &mut self.to_client.sent) {
                self.to_server.consume(used);
                if used == 0 {
                    break;
                }
            }
            let open = &mut self.open;
            let mut answers = |cookie| {
                let (request, answer) = open.get_mut(&cookie).expect("an answer to an open request");
                (request.offset_bytes, std::mem::take(answer))
            };
            let event = take_event(&mut self.client, &mut self.to_client, &mut answers);
            let any = event.is_some();
            if let Some((cookie, answer)) = event {
                let ended = answer.end.is_some();
                let (request, slot) = open.get_mut(&cookie).expect("an event of an open request");
                *slot = answer;
                if ended {
                    finished.push((*request, std::mem::take(slot)));
                    open.remove(&cookie);
                }
            }
            if !progress && !any {
                assert_eq!(self.client.in_flight().count(), self.open.len());
                return finished;
            }
        }
    }

    fn one(&mut self, command: Command, flags: CommandFlags, offset_bytes: u64, len_bytes: u64) -> Answer {
        let request = Request { cookie: 77, offset_bytes, len_bytes, command, flags };
        let data =
            if command == Command::Write { vec![0x5a; usize::try_from(len_bytes).unwrap()] } else { vec![] };
        self.send(request, &data);
        self.settle().pop().unwrap().1
    }
}

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

#[test]
fn random_requests_in_flight_together_do_what_a_model_does() {
    for (style, seed) in STYLES.into_iter().flat_map(|style| (0..8).map(move |seed| (style, seed))) {
        let (mut line, mut rng) = (Line::new(style, seed), Rng::new(!seed));
        let mut model = vec![0_u8; usize::try_from(DISK_BYTES).unwrap()];
        for round in 0..12 {
            let mut expected = BTreeMap::new();
            for cookie in 0..1 + rng.below(6) {
                let cookie = cookie << 40 | round;
                let len = rng.below(4 * GRAIN);
                let offset = rng.below(DISK_BYTES - len);
                let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
                let command =
                    [Command::Read, Command::Write, Command::WriteZeroes, Command::Trim, Command::Flush]
                        [rng.index(5)];
                let mut data = Vec::new();
                match command {
                    Command::Write => {
                        data.resize(end - start, 0);
                        rng.fill(&mut data);
                        model[start..end].copy_from_slice(&data);
                    }
                    Command::Trim | Command::WriteZeroes => model[start..end].fill(0),
                    _ => {}
                }
                let bytes = if command == Command::Read { model[start..end].to_vec() } else { Vec::new() };
                expected.insert(cookie, bytes);
                let flags = CommandFlags::NONE;
                line.send(Request { cookie, offset_bytes: offset, len_bytes: len, command, flags }, &data);
            }
            for (request, answer) in line.settle() {
                assert_eq!(answer.end, Some(Ok(())), "{style:?} seed {seed} {request:?}");
                let bytes = expected.remove(&request.cookie).unwrap();
                assert!(answer.bytes == bytes, "{style:?} seed {seed} {request:?}: wrong bytes");
            }
            assert!(expected.is_empty(), "every request was answered");
        }
        assert_eq!(line.disk.bytes, model);
    }
}

#[test]
fn a_read_that_must_not_be_fragmented_comes_in_one_piece() {
    for style in [Style::Structured, Style::Extended] {
        let mut line = Line::new(style, 1);
        line.one(Command::Write, CommandFlags::FUA, GRAIN, 10);
        let answer = line.one(Command::Read, CommandFlags::DF, 0, 3 * GRAIN);
        assert_eq!(answer.end, Some(Ok(())), "the client would not accept a second chunk");
        let start = usize::try_from(GRAIN).unwrap();
        assert_eq!(answer.bytes[start - 1..][..12], *b"\0ZZZZZZZZZZ\0");
    }
}

#[test]
fn the_status_of_both_contexts_comes_back() {
    for style in [Style::Structured, Style::Extended] {
        let mut line = Line::new(style, 2);
        line.one(Command::Write, CommandFlags::NONE, 2 * GRAIN, 1);
        let answer = line.one(Command::BlockStatus, CommandFlags::NONE, GRAIN, 4 * GRAIN);
        let expected = [
            (0, GRAIN, GRAIN, 3),
            (0, 2 * GRAIN, GRAIN, 0),
            (0, 3 * GRAIN, 2 * GRAIN, 3),
            (1, GRAIN, GRAIN, 103),
            (1, 2 * GRAIN, GRAIN, 100),
            (1, 3 * GRAIN, 2 * GRAIN, 103),
        ];
        assert_eq!((answer.extents, answer.end), (expected.to_vec(), Some(Ok(()))));
        let one = line.one(Command::BlockStatus, CommandFlags::REQ_ONE, 0, DISK_BYTES);
        assert_eq!(one.extents, [(0, 0, 2 * GRAIN, 3), (1, 0, 2 * GRAIN, 103)]);
    }
}

#[test]
fn a_refused_request_leaves_the_connection_in_step() {
    let far = CommandFlags::from_wire(0x80);
    for style in STYLES {
        let mut line = Line::new(style, 3);
        // The client's side would not send these, so they go past it.
        let len_bytes = 3 * GRAIN;
        let write =
            Request { cookie: 1, offset_bytes: DISK_BYTES, len_bytes, command: Command::Write, flags: far };
        let mut out = [0; 32];
        let head = write.header(style).encode(style, &mut out).unwrap().to_vec();
        let mut reply = Vec::new();
        let sent = [head, vec![1; usize::try_from(len_bytes).unwrap()]].concat();
        assert_eq!(line.disk.serve(&sent, &mut reply), Some(sent.len()), "the data were consumed");
        assert!(!reply.is_empty());
        assert_eq!(
            line.disk.serve(&sent[..sent.len() - 1], &mut reply),
            Some(0),
            "not before all of them came"
        );
        assert_eq!(line.one(Command::Flush, CommandFlags::NONE, 0, 0).end, Some(Ok(())));
        assert_eq!(line.disk.flushes, 1);
        assert!(line.disk.bytes.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn an_error_reaches_the_client_with_its_text() {
    for style in [Style::Structured, Style::Extended] {
        let mut line = Line::new(style, 4);
        line.disk.session.len_bytes = 100; // as if the export had shrunk below what the client knows
        let answer = line.one(Command::Write, CommandFlags::NONE, 0, 512);
        assert_eq!(answer.end, Some(Err(NbdError::NoSpace)));
        assert_eq!(answer.text, "past the end of the export");
        assert_eq!(line.one(Command::Read, CommandFlags::NONE, 0, 512).end, Some(Err(NbdError::Invalid)));
    }
}

#[test]
fn a_goodbye_and_garbage_end_the_connection() {
    for style in STYLES {
        let mut line = Line::new(style, 5);
        let (command, flags) = (Command::Disconnect, CommandFlags::NONE);
        let goodbye = Request { cookie: 1, offset_bytes: 0, len_bytes: 0, command, flags };
        let bytes = encode(&mut line.client, &goodbye, &[]);
        assert_eq!(line.client.in_flight().count(), 0, "it has no reply");
        assert_eq!(line.disk.serve(&bytes, &mut Vec::new()), None);
        assert_eq!(line.disk.serve(b"GET / HTTP/1.1\r\n", &mut Vec::new()), None);
        let too_long = u64::from(limit::PAYLOAD_BYTES_DEFAULT) + 1;
        let attack = Request { command: Command::Write, len_bytes: too_long, ..goodbye };
        let header: RequestHeader = attack.header(style);
        assert_eq!(line.disk.serve(header.encode(style, &mut [0; 32]).unwrap(), &mut Vec::new()), None);
    }
}
