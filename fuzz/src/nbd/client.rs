//! A client whose server is the input.
//!
//! ```text
//!   | how it is cut | style | 0: the goal is a list; 1: facts; 2: use; 3: use, already negotiated | bytes of the server |
//! ```
//! Demanded: the same events however the bytes arrive; bounded output; no event about bytes that were not asked for.

use drystone_nbd::client::{ClientHandshake, Goal, Step, Transmission, What};
use drystone_nbd::server::ServerHandshake;
use drystone_nbd::wire::context;
use drystone_nbd::{Command, CommandFlags, NbdError, ReplyTo, Request, StatusChunk, Style, limit, reply};

use super::shelf;
use crate::input::{Input, pieces};

/// Most that a client says in a handshake of these tests.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

/// The requests of a client that got in.
fn requests(style: Style) -> Vec<Request> {
    let commands =
        [Command::Read, Command::BlockStatus, Command::Write, Command::Flush, Command::WriteZeroes];
    let asked =
        commands.into_iter().filter(|command| style != Style::Simple || *command != Command::BlockStatus);
    let request = |(cookie, command)| Request {
        cookie,
        offset_bytes: 4096,
        len_bytes: if command == Command::Flush { 0 } else { 16384 },
        command,
        flags: CommandFlags::NONE,
    };
    (1..).zip(asked).map(request).map(flush_is_nowhere).collect()
}

fn flush_is_nowhere(request: Request) -> Request {
    if request.command == Command::Flush { Request { offset_bytes: 0, ..request } } else { request }
}

fn goal(number: u8) -> Goal {
    match number {
        0 => Goal::List,
        1 => Goal::Inspect { export: "disk".into() },
        _ => {
            let contexts = vec![context::BASE_ALLOCATION.into(), "x:depth".into()];
            Goal::Enter { export: "disk".into(), contexts }
        }
    }
}

/// A client that talked to a true server, until it got what it wanted; and what that server said.
fn negotiated(goal: Goal, style: Style) -> (Step, Vec<u8>) {
    let (mut to_client, mut to_server, mut heard, mut told) = (Vec::new(), Vec::new(), 0, 0);
    let mut server = ServerHandshake::new(&mut to_client);
    let mut client = ClientHandshake::new(goal, style).unwrap();
    loop {
        let (used, step) = client.receive(&to_client[heard..], &mut to_server).unwrap();
        heard += used;
        if !matches!(step, Step::More) {
            return (step, to_client);
        }
        told += server.receive(&shelf(), &to_server[told..], &mut to_client).unwrap().0;
    }
}

/// Right answers to [`requests`].
fn replies(style: Style) -> Vec<u8> {
    let mut out = Vec::new();
    for request in requests(style) {
        let to = ReplyTo::new(style, request.cookie, request.offset_bytes);
        let (mut head, mut room) = ([0; reply::HEAD_BYTES_MAX], [0; 64]);
        match request.command {
            Command::Read if style == Style::Simple => {
                out.extend_from_slice(to.data(&mut head, 4096, 16384, true));
                out.extend_from_slice(&[7; 16384]);
            }
            Command::Read => {
                out.extend_from_slice(to.data(&mut head, 4096, 100, false));
                out.extend_from_slice(&[7; 100]);
                out.extend_from_slice(to.hole(&mut head, 4196, 16284, true).unwrap());
            }
            Command::BlockStatus => {
                for context in [0, 1] {
                    let mut chunk = StatusChunk::new(to, &request, &mut room);
                    chunk.push(4096, 3);
                    chunk.push(12288, 0);
                    let (head, extents) = chunk.finish(context, context == 1, &mut head);
                    out.extend_from_slice(head);
                    out.extend_from_slice(extents);
                }
            }
            Command::Write => {
                let mut room = [0; reply::ERROR_BYTES_MAX];
                out.extend_from_slice(to.error(&mut room, NbdError::NoSpace, Some(4200), "full"));
            }
            _ => out.extend_from_slice(to.done(&mut head)),
        }
    }
    out
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (index, style) in (0..).zip(STYLES) {
        for number in 0..3 {
            let (_, said) = negotiated(goal(number), style);
            all.push([&[3, index, number][..], &said].concat());
        }
        let mut replies = replies(style);
        replies.truncate(3000);
        all.push([&[5, index, 3][..], &replies].concat());
    }
    all
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (cut, style, number) = (input.byte(), input.choice(&STYLES), input.byte() % 4);
    let in_pieces = converse(input.rest(), cut, style, number);
    let at_once = converse(input.rest(), 0, style, number);
    assert_eq!(in_pieces, at_once, "what is understood depends on how the bytes arrive");
}

/// Everything that the client understood.
fn converse(said: &[u8], cut: u8, style: Style, number: u8) -> Vec<String> {
    let mut log = Vec::new();
    let mut client = ClientHandshake::new(goal(number), style).unwrap();
    let mut inside: Option<Box<Transmission>> = None;
    if number == 3 {
        let (Step::Entered(mut transmission), _) = negotiated(goal(2), style) else { panic!("it gets in") };
        ask(&mut transmission);
        inside = Some(transmission);
    }
    let (mut buffer, mut output, mut skip) = (Vec::new(), Vec::new(), 0);
    for piece in pieces(said, cut) {
        buffer.extend_from_slice(piece);
        loop {
            let used = match &mut inside {
                None => match client.receive(&buffer, &mut output) {
                    Ok((used, Step::More)) => used,
                    Ok((used, Step::Entered(mut transmission))) => {
                        log.push(format!("{:?}", transmission.facts()));
                        ask(&mut transmission);
                        inside = Some(transmission);
                        used
                    }
                    Ok((_, step)) => return [log, vec![format!("{step:?}")]].concat(),
                    Err(error) => return [log, vec![error.to_string()]].concat(),
                },
                Some(transmission) => match take(transmission, &buffer, &mut skip, &mut log) {
                    Some(used) => used,
                    None => return log,
                },
            };
            assert!(output.len() <= OUTPUT_BYTES_MAX, "a client that talks without end");
            drop(buffer.drain(..used));
            if used == 0 {
                break;
            }
        }
    }
    log
}

/// Makes those requests that the server's facts permit.
fn ask(transmission: &mut Transmission) {
    for request in requests(transmission.session().style) {
        let _ = transmission.begin(&request, &mut [0; 32]);
    }
}

/// Takes one event, or data; how many bytes that took, 0 if more are needed, `None` at the end.
fn take(
    transmission: &mut Transmission,
    input: &[u8],
    skip: &mut u64,
    log: &mut Vec<String>,
) -> Option<usize> {
    if *skip > 0 {
        let used = (*skip).min(input.len() as u64);
        *skip -= used;
        return usize::try_from(used).ok();
    }
    match transmission.next(input) {
        Ok(None) => {
            assert!(input.len() < limit::LOOKAHEAD_BYTES, "this many bytes are always enough");
            Some(0)
        }
        Ok(Some((used, event))) => {
            log.push(format!("{event:?}"));
            match event.what {
                What::Data { offset_bytes, len_bytes } | What::Hole { offset_bytes, len_bytes } => {
                    demand_asked(offset_bytes, len_bytes);
                }
                What::Extent { offset_bytes, len_bytes, context, .. } => {
                    assert!(
                        len_bytes > 0
                            && usize::try_from(context).unwrap() < transmission.facts().contexts.len()
                    );
                    assert!((4096..4096 + 16384).contains(&offset_bytes), "{event:?}");
                }
                What::Error { offset_bytes: Some(at), .. } => assert!((4096..=4096 + 16384).contains(&at)),
                What::Error { .. } | What::Nothing => {}
            }
            if let What::Data { len_bytes, .. } = event.what {
                *skip = len_bytes;
            }
            Some(used)
        }
        Err(error) => {
            log.push(error.to_string());
            None
        }
    }
}

fn demand_asked(offset_bytes: u64, len_bytes: u64) {
    let end = offset_bytes.checked_add(len_bytes);
    let is_inside = offset_bytes >= 4096 && end.is_some_and(|end| end <= 4096 + 16384);
    assert!(is_inside, "{len_bytes} bytes at {offset_bytes}, which nobody asked for");
}
