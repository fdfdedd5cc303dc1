//! A server's words, one by one: what a client asks, what it makes of answers, and what it refuses to believe.

use super::*;
use crate::error::NbdError;
use crate::request::Command::{BlockStatus, Read, Write};
use crate::request::{Command, Request};
use crate::wire::{CommandFlags, TransmissionFlags};
use ReplyError as E;
use Style::{Extended, Simple, Structured};

fn greeting(magic: u64, flags: u16) -> Vec<u8> {
    let mut out = Vec::new();
    BeMut(&mut out).u64(wire::MAGIC_INIT).u64(magic).u16(flags);
    out
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let len = u32::try_from(data.len()).unwrap();
    BeMut(&mut out).u64(wire::MAGIC_OPTION_REPLY).u32(option).u32(kind).u32(len).bytes(data);
    out
}

fn fact(option: u32, kind: u16, data: &[u8]) -> Vec<u8> {
    reply(option, rep::INFO, &[&kind.to_be_bytes(), data].concat())
}

fn export_fact(option: u32) -> Vec<u8> {
    fact(option, 0, &[&(1_u64 << 20).to_be_bytes()[..], &[0x0d, 0xed]].concat())
}

fn enter(contexts: &[&str]) -> Goal {
    Goal::Enter { export: "disk".into(), contexts: contexts.iter().map(ToString::to_string).collect() }
}

/// The options that a client sends, in short, and how it ends.
fn asks(goal: Goal, style: Style, replies: &[Vec<u8>]) -> (String, Result<Step, HandshakeError>) {
    let mut client = ClientHandshake::new(goal, style).unwrap();
    let (mut output, mut step) = (Vec::new(), Ok(Step::More));
    for input in [&[greeting(wire::MAGIC_OPTION, 3)][..], replies].concat() {
        assert!(matches!(step, Ok(Step::More)), "{step:?} before the end");
        step = client.receive(&input, &mut output).map(|(used, step)| {
            assert_eq!(used, input.len());
            step
        });
    }
    let mut be = Be(&output);
    assert_eq!(be.u32(), Ok(3), "client flags");
    let mut text = Vec::new();
    while be.u64() == Ok(wire::MAGIC_OPTION) {
        let (option, len) = (be.u32().unwrap(), be.u32().unwrap());
        let data = be.take(len as usize).unwrap();
        text.push(format!("{option}({})", data.escape_ascii()));
    }
    (text.join(" "), step)
}

const ASK_DISK: &str = r"(\x00\x00\x00\x04disk\x00\x03\x00\x01\x00\x02\x00\x03)";

#[test]
fn the_best_headers_come_first_and_what_is_refused_is_done_without() {
    let (ack, unsup) = (|option| reply(option, rep::ACK, &[]), |option| reply(option, rep::ERR_UNSUP, b"no"));
    let end = [export_fact(7), ack(7)];
    let contexts = r"10(\x00\x00\x00\x04disk\x00\x00\x00\x01\x00\x00\x00\x03a:b)";
    for (replies, options, style) in [
        (vec![ack(11), ack(10)], format!("11() {contexts} 7{ASK_DISK}"), Style::Extended),
        (vec![unsup(11), ack(8), ack(10)], format!("11() 8() {contexts} 7{ASK_DISK}"), Style::Structured),
        (vec![unsup(11), ack(8), unsup(10)], format!("11() 8() {contexts} 7{ASK_DISK}"), Style::Structured),
        (vec![unsup(11), unsup(8)], format!("11() 8() 7{ASK_DISK}"), Style::Simple),
    ] {
        let (asked, step) = asks(enter(&["a:b"]), Style::Extended, &[&replies[..], &end].concat());
        assert_eq!(asked, options);
        let Ok(Step::Entered(transmission)) = step else { panic!("{step:?}") };
        assert_eq!(transmission.session().style, style);
    }
}

#[test]
fn a_server_without_go_is_entered_the_old_way_unless_headers_are_extended() {
    let unsup = reply(7, rep::ERR_UNSUP, &[]);
    let answer = [&(1_u64 << 20).to_be_bytes()[..], &[0, 1]].concat();
    let (asked, step) = asks(enter(&[]), Style::Simple, &[unsup.clone(), answer]);
    assert_eq!(asked, format!("7{ASK_DISK} 1(disk)"));
    assert!(matches!(step, Ok(Step::Entered(_))));
    let (_, step) = asks(enter(&[]), Style::Extended, &[reply(11, rep::ACK, &[]), unsup]);
    assert!(matches!(step, Err(HandshakeError::Refused { option: 7, .. })), "{step:?}");
}

#[test]
fn an_unfixed_server_is_entered_with_its_zeroes_and_an_old_one_is_named() {
    let mut output = Vec::new();
    let mut client = ClientHandshake::new(enter(&[]), Style::Extended).unwrap();
    client.receive(&greeting(wire::MAGIC_OPTION, 0), &mut output).unwrap();
    assert_eq!(output, b"\0\0\0\0IHAVEOPT\0\0\0\x01\0\0\0\x04disk");
    let answer = [&(1_u64 << 20).to_be_bytes()[..], &[0, 1], &[0; 124], b"next"].concat();
    let (used, step) = client.receive(&answer, &mut output).unwrap();
    assert!(matches!(step, Step::Entered(_)) && used == 134, "the next bytes are not ours");

    for (goal, greeting, error) in [
        (enter(&[]), greeting(wire::MAGIC_OLDSTYLE, 3), HandshakeError::Oldstyle),
        (enter(&[]), b"SSH-2.0-OpenSSH_9.6".to_vec(), HandshakeError::NotNbd),
        (Goal::List, greeting(wire::MAGIC_OPTION, 2), HandshakeError::NotFixed),
    ] {
        let mut client = ClientHandshake::new(goal, Style::Simple).unwrap();
        assert_eq!(client.receive(&greeting, &mut Vec::new()).unwrap_err(), error);
        assert_eq!(client.receive(b"x", &mut Vec::new()).unwrap_err(), HandshakeError::Over);
    }
}

#[test]
fn a_server_of_the_old_style_is_entered_without_a_word() {
    let goal = Goal::Enter { export: String::new(), contexts: vec!["a:b".into()] };
    let mut client = ClientHandshake::new(goal, Style::Extended).unwrap();
    let mut input = Vec::new();
    BeMut(&mut input).u64(wire::MAGIC_INIT).u64(wire::MAGIC_OLDSTYLE).u64(1 << 20).u16(0).u16(0x0d);
    input.extend([0; 124]);
    input.extend(b"next");
    let mut output = Vec::new();
    for at in 0..input.len() - 5 {
        let (used, step) = client.receive(&input[at..=at], &mut output).unwrap();
        assert!(matches!(step, Step::More) && used == 1, "byte {at}");
    }
    let (used, step) = client.receive(&input[input.len() - 5..], &mut output).unwrap();
    let Step::Entered(transmission) = step else { panic!("{step:?}") };
    assert_eq!((used, output.len()), (1, 0));
    let session = transmission.session();
    assert_eq!((session.len_bytes, session.style), (1 << 20, Style::Simple));
    assert!(session.flags.has(TransmissionFlags::SEND_FLUSH.with(TransmissionFlags::SEND_FUA)));
}

#[test]
fn a_list_ends_with_a_goodbye_that_need_not_be_answered() {
    let server = reply(3, rep::SERVER, b"\0\0\0\x01ahell\x1b\xff");
    let mut client = ClientHandshake::new(Goal::List, Style::Extended).unwrap();
    let mut output = Vec::new();
    let input = [greeting(wire::MAGIC_OPTION, 3), server, reply(3, rep::ACK, &[])].concat();
    client.receive(&input, &mut output).unwrap();
    assert!(output.ends_with(b"IHAVEOPT\0\0\0\x02\0\0\0\0"));
    let Ok(Step::Listed(list)) = client.closed() else { panic!() };
    assert_eq!(list, [ListedExport { name: "a".into(), description: "hell\u{fffd}".into() }]);
    assert!(matches!(client.closed(), Err(HandshakeError::Closed)));
}

#[test]
fn a_refusal_says_what_the_server_said() {
    let refusal = reply(7, rep::ERR_UNKNOWN, b"no such \x07export");
    let (asked, step) = asks(enter(&[]), Style::Simple, &[refusal]);
    assert!(asked.ends_with(" 2()"), "goodbye: {asked}");
    let error = Error::from(step.unwrap_err());
    assert_eq!(error.kind(), Kind::NotFound);
    let report = "cannot negotiate with the NBD server: the server refused option 7 with error 0x80000006: 'no such export'";
    assert_eq!(error.report(), report);
    for code in [rep::ERR_SHUTDOWN, rep::ERR_TLS_REQD] {
        let (_, step) = asks(enter(&[]), Style::Extended, &[reply(11, code, &[])]);
        assert!(matches!(step, Err(HandshakeError::Refused { option: 11, .. })), "no use to go on");
    }
}

#[test]
fn replies_that_do_not_fit_are_not_believed() {
    let ack = |option| reply(option, rep::ACK, &[]);
    let context =
        |id: u8, name: &str| reply(10, rep::META_CONTEXT, &[&[0, 0, 0, id][..], name.as_bytes()].concat());
    let mut oversized = ack(8);
    oversized[16..].copy_from_slice(&(limit::OPTION_REPLY_BYTES_MAX + 1).to_be_bytes());
    for replies in [
        vec![b"IHAVEOPT\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()],
        vec![ack(7)],
        vec![oversized],
        vec![reply(8, rep::SERVER, b"\0\0\0\0")],
        vec![reply(8, 77, &[])],
        vec![ack(8), context(1, "x:other")],
        vec![ack(8), context(1, "a:b"), context(1, "c:d")],
        vec![ack(8), context(1, "a:b"), context(2, "a:b")],
        vec![ack(8), reply(10, rep::META_CONTEXT, &[0; 3])],
        vec![ack(8), ack(10), ack(7)],
        vec![ack(8), ack(10), fact(7, 0, &[0; 9])],
        vec![ack(8), ack(10), fact(7, 3, &[0; 13])],
        vec![ack(8), ack(10), fact(7, 1, b"\xff")],
        vec![ack(8), ack(10), reply(7, rep::INFO, &[0])],
        vec![ack(8), ack(10), export_fact(7), fact(7, 3, &[0; 12]), ack(7)],
    ] {
        let (_, step) = asks(enter(&["a:b", "c:d"]), Style::Structured, &replies);
        assert!(
            matches!(step, Err(HandshakeError::Unexpected(_) | HandshakeError::TooLong)),
            "{step:?} {replies:?}"
        );
    }
}

#[test]
fn an_endless_list_is_cut() {
    let mut client = ClientHandshake::new(Goal::List, Style::Simple).unwrap();
    client.receive(&greeting(wire::MAGIC_OPTION, 3), &mut Vec::new()).unwrap();
    let entry = reply(3, rep::SERVER, b"\0\0\0\0");
    let mut ends = |_| client.receive(&entry, &mut Vec::new()).is_err();
    assert_eq!((0..100_000).position(&mut ends), Some(limit::REPLIES_MAX as usize));

    let mut client = ClientHandshake::new(Goal::List, Style::Simple).unwrap();
    client.receive(&greeting(wire::MAGIC_OPTION, 3), &mut Vec::new()).unwrap();
    let entry = reply(3, rep::SERVER, &[&[0; 4], &[b'd'; 60_000][..]].concat());
    let mut ends = |_| client.receive(&entry, &mut Vec::new()).is_err();
    assert!((0..1000).position(&mut ends).unwrap() < 300);
}

#[test]
fn a_goal_that_the_protocol_cannot_carry_is_refused_at_once() {
    let long = "n".repeat(limit::STRING_BYTES_MAX + 1);
    for goal in [
        Goal::Inspect { export: long.clone() },
        Goal::Inspect { export: "a\0".into() },
        enter(&[&long]),
        enter(&vec!["a:b"; limit::CONTEXTS_MAX + 1]),
    ] {
        assert_eq!(ClientHandshake::new(goal, Style::Simple).unwrap_err(), HandshakeError::BadGoal);
    }
}

/// A connection with two contexts, numbered 4 and 9 by the server, to an export of 1 MiB.
fn transmission(style: Style) -> Transmission {
    let facts = ExportFacts {
        name: None,
        description: String::new(),
        len_bytes: 1 << 20,
        flags: TransmissionFlags::from_wire(0x1dfd),
        block: crate::BlockSizes::DEFAULT,
        says_block: true,
        style,
        contexts: vec![(4, "a:b".into()), (9, "c:d".into())],
    };
    Transmission::new(style, facts)
}

fn ask(command: Command, flags: CommandFlags) -> Request {
    Request { cookie: 5, offset_bytes: 0x1000, len_bytes: 0x1000, command, flags }
}

/// The events of a reply that is given as hexadecimal fields; the stream's data are skipped.
fn events(style: Style, request: Request, fields: &str) -> Result<String, ReplyError> {
    let mut client = transmission(style);
    client.begin(&request, &mut [0; 32]).unwrap();
    let digits: String = fields.split_whitespace().collect();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let (mut at, mut text) = (0, Vec::new());
    while let Some((used, event)) = client.next(&bytes[at..])? {
        at += used;
        text.push(match event.what {
            What::Nothing => "nothing".into(),
            What::Data { offset_bytes, len_bytes } => {
                at += usize::try_from(len_bytes).unwrap().min(bytes.len() - at);
                format!("data {offset_bytes:#x}+{len_bytes:#x}")
            }
            What::Hole { offset_bytes, len_bytes } => format!("hole {offset_bytes:#x}+{len_bytes:#x}"),
            What::Extent { context, offset_bytes, len_bytes, status } => {
                format!("extent {context}: {offset_bytes:#x}+{len_bytes:#x}={status}")
            }
            What::Error { error, offset_bytes, text } => {
                format!("{error:?} {offset_bytes:?} '{}'", text.escape_ascii())
            }
        });
        if let Some(end) = event.end {
            text.push(format!("{end:?}"));
        }
    }
    assert_eq!(at, bytes.len(), "{text:?}");
    Ok(text.join(", "))
}

/// The cookie of [`ask`], written `C` in the tables below.
const COOKIE: &str = "0000000000000005";

const EVENTS: &[(Style, Command, &str, &str)] = &[
    (Simple, Write, "67446698 00000000 C", "nothing, Ok(())"),
    (Simple, Write, "67446698 0000001c C", "nothing, Err(NoSpace)"),
    (Simple, Read, "67446698 00000000 C", "data 0x1000+0x1000, Ok(())"),
    (Simple, Read, "67446698 00000063 C", "nothing, Err(Invalid)"),
    (Structured, Write, "67446698 00000000 C", "nothing, Ok(())"),
    (Structured, Write, "668e33ef 0001 0000 C 00000000", "nothing, Ok(())"),
    (
        Structured,
        Read,
        "668e33ef 0000 0001 C 00000009 0000000000001000 aa
        668e33ef 0000 0002 C 0000000c 0000000000001001 00000fff
        668e33ef 0001 0000 C 00000000",
        "data 0x1000+0x1, hole 0x1001+0xfff, nothing, Ok(())",
    ),
    (
        Structured,
        Read,
        "668e33ef 0000 8002 C 00000010 00000005 0002 6162 0000000000001200
        668e33ef 0001 0000 C 00000000",
        "Io Some(4608) 'ab', nothing, Err(Io)",
    ),
    (Structured, Write, "668e33ef 0001 9999 C 00000008 00000005 0000 ffff", "Io None '', Err(Io)"),
    (
        Structured,
        BlockStatus,
        "668e33ef 0000 0005 C 00000014 00000009 00000200 00000003 00002000 00000000
        668e33ef 0001 0005 C 0000000c 00000004 7fffffff 00000001",
        "extent 1: 0x1000+0x200=3, extent 1: 0x1200+0x2000=0, extent 0: 0x1000+0xff000=1, Ok(())",
    ),
    (
        Extended,
        Read,
        "6e8a278c 0001 0002 C 0000000000001000 000000000000000c 0000000000001000 00001000",
        "hole 0x1000+0x1000, Ok(())",
    ),
    (
        Extended,
        BlockStatus,
        "6e8a278c 0000 0006 C 0000000000001000 0000000000000018 00000004 00000001
        0000000000001000 0000000100000000
        6e8a278c 0001 0005 C 0000000000001000 000000000000000c 00000009 00001000 00000001",
        "extent 0: 0x1000+0x1000=4294967296, extent 1: 0x1000+0x1000=1, Ok(())",
    ),
];

#[test]
fn replies_become_events() {
    for (style, command, fields, expected) in EVENTS {
        let request = ask(*command, CommandFlags::NONE);
        let result = events(*style, request, &fields.replace('C', COOKIE));
        assert_eq!(result.as_deref(), Ok(*expected), "{style:?} {command:?}");
    }
}

const NONE: CommandFlags = CommandFlags::NONE;
const DF: CommandFlags = CommandFlags::DF;
const ONE: CommandFlags = CommandFlags::REQ_ONE;

const REFUSED: &[(Style, Command, CommandFlags, &str, E)] = &[
    (Simple, Read, NONE, "668e33ef 0001 0000", E::Magic(0x668e_33ef)),
    (Extended, Write, NONE, "67446698", E::Magic(0x6744_6698)),
    (Simple, Read, NONE, "67446698 00000000 0000000000000006", E::UnknownCookie(6)),
    (Structured, Read, NONE, "67446698 00000005 C", E::Kind),
    (Structured, BlockStatus, NONE, "67446698 00000000 C", E::Kind),
    (Structured, Read, NONE, "668e33ef 0001 0007 C 00000000", E::Kind),
    (Structured, Write, NONE, "668e33ef 0001 0002 C 0000000c 0000000000001000 00001000", E::Kind),
    (Structured, Read, NONE, "668e33ef 0001 0005 C 0000000c 00000004 00001000 00000000", E::Kind),
    (Structured, BlockStatus, NONE, "668e33ef 0001 0006 C 00000018 00000004 00000000", E::Kind),
    (Structured, Write, NONE, "668e33ef 0001 8001 C 00000006 00000000 0000", E::Kind),
    (Structured, Write, NONE, "668e33ef 0000 0000 C 00000000", E::Length),
    (Structured, Write, NONE, "668e33ef 0001 0000 C 00000001", E::Length),
    (Structured, Read, NONE, "668e33ef 0000 0001 C 00000008", E::Length),
    (Structured, Read, NONE, "668e33ef 0000 0002 C 0000000d", E::Length),
    (Structured, Write, NONE, "668e33ef 0001 8001 C 00000005 00000005 00", E::Length),
    (Structured, Write, NONE, "668e33ef 0001 8001 C 00000007 00000005 0002 61", E::Length),
    (Structured, Write, NONE, "668e33ef 0001 8002 C 00000006 00000005 0000", E::Length),
    (Structured, Write, NONE, "668e33ef 0001 8001 C 00002001", E::Length),
    (Structured, BlockStatus, NONE, "668e33ef 0001 0005 C 00000004", E::Length),
    (Structured, BlockStatus, NONE, "668e33ef 0001 0005 C 0000000d", E::Length),
    (
        Extended,
        BlockStatus,
        NONE,
        "6e8a278c 0001 0006 C 0000000000001000 0000000000000018 00000004 00000002",
        E::Length,
    ),
    (Extended, BlockStatus, NONE, "6e8a278c 0001 0006 C 0000000000001000 0000000001000018", E::Length),
    (Extended, Write, NONE, "6e8a278c 0001 0000 C 0000000000001001", E::Offset),
    (Structured, Read, NONE, "668e33ef 0000 0002 C 0000000c 0000000000001001 00001000", E::OutOfRange),
    (Structured, Read, NONE, "668e33ef 0000 0001 C ffffffff 0000000000001000", E::OutOfRange),
    (
        Extended,
        Read,
        NONE,
        "6e8a278c 0000 0001 C 0000000000001000 ffffffffffffffff 0000000000001000",
        E::OutOfRange,
    ),
    (Structured, Read, NONE, "668e33ef 0001 8002 C 0000000e 00000005 0000 0000000000002000", E::OutOfRange),
    (
        Structured,
        Read,
        DF,
        "668e33ef 0000 0002 C 0000000c 0000000000001000 00000001
            668e33ef 0000 0002 C 0000000c 0000000000001001 00000001",
        E::Fragmented,
    ),
    (Structured, Read, NONE, "668e33ef 0001 0000 C 00000000", E::Incomplete),
    (Structured, Read, NONE, "668e33ef 0001 0002 C 0000000c 0000000000001000 00000fff", E::Incomplete),
    (
        Structured,
        BlockStatus,
        NONE,
        "668e33ef 0001 0005 C 0000000c 00000004 00001000 00000000",
        E::Incomplete,
    ),
    (Structured, BlockStatus, NONE, "668e33ef 0001 0005 C 0000000c 00000005", E::Context),
    (
        Structured,
        BlockStatus,
        NONE,
        "668e33ef 0000 0005 C 0000000c 00000004 00001000 00000000
            668e33ef 0000 0005 C 0000000c 00000004 00001000 00000000",
        E::Context,
    ),
    (Structured, BlockStatus, NONE, "668e33ef 0000 0005 C 0000000c 00000004 00000000 00000000", E::Extent),
    (
        Structured,
        BlockStatus,
        NONE,
        "668e33ef 0000 0005 C 00000014 00000004 00001000 00000000 00000001 00000001",
        E::Extent,
    ),
    (Structured, BlockStatus, ONE, "668e33ef 0000 0005 C 00000014 00000004", E::Extent),
    (Structured, BlockStatus, ONE, "668e33ef 0000 0005 C 0000000c 00000004 00001001 00000000", E::Extent),
];

#[test]
fn replies_that_do_not_answer_the_question_end_the_connection() {
    for (style, command, flags, fields, error) in REFUSED {
        let result = events(*style, ask(*command, *flags), &fields.replace('C', COOKIE));
        assert_eq!(result, Err(*error), "{style:?} {command:?} {fields}");
    }
}

#[test]
fn a_request_that_the_server_would_refuse_is_not_sent() {
    let mut client = transmission(Style::Structured);
    let mut begin = |request: &Request| client.begin(request, &mut [0; 32]).map(<[u8]>::len);
    let read = ask(Command::Read, CommandFlags::NONE);
    assert_eq!(begin(&read), Ok(28));
    assert_eq!(begin(&read), Err(SendError::CookieInUse));
    let past = Request { cookie: 6, offset_bytes: 1 << 20, ..read };
    assert!(matches!(begin(&past), Err(SendError::Refused(refusal)) if refusal.error == NbdError::Invalid));
    let long = Request { command: Command::Write, len_bytes: 1 << 26, ..past };
    assert!(matches!(begin(&long), Err(SendError::Forbidden(_))));
    assert_eq!(begin(&Request { cookie: 9, command: Command::Disconnect, ..read }), Ok(28));
    for cookie in 1000..1000 + limit::IN_FLIGHT_MAX as u64 - 1 {
        assert_eq!(begin(&Request { cookie, ..read }), Ok(28));
    }
    assert_eq!(begin(&Request { cookie: 7, ..read }), Err(SendError::TooMany));
    assert_eq!(client.in_flight().take(2).collect::<Vec<_>>(), [5, 1000]);
    let answer =
        [&wire::MAGIC_REPLY_STRUCTURED.to_be_bytes()[..], &[0, 1, 0, 0], &5_u64.to_be_bytes(), &[0; 4]]
            .concat();
    assert_eq!(client.next(&answer), Err(ReplyError::Incomplete));
}
