//! Damaged streams: nothing panics, and nothing grows beyond its limits.

use crate::peer::{Cut, Disk, enter, shelf};
use drystone_base::rng::Rng;
use drystone_nbd::client::{self, ClientHandshake, Goal, What};
use drystone_nbd::server::{self, ServerHandshake};
use drystone_nbd::{Command, CommandFlags, Request, RequestHeader, Style, Uri, limit};

/// A few bytes flipped, a run repeated, a run removed, or random numbers where lengths are.
fn damage(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..1 + rng.below(4) {
        if out.is_empty() {
            return out;
        }
        let at = rng.index(out.len());
        let len = rng.index(24).min(out.len() - at);
        match rng.below(5) {
            0 => out[at] ^= 1 << rng.below(8),
            1 => out[at] = [0, 1, 0x7f, 0x80, 0xff][rng.index(5)],
            2 => drop(out.drain(at..at + len)),
            3 => {
                let run = out[at..at + len].to_vec();
                out.splice(at..at, run);
            }
            _ => rng.fill(&mut out[at..at + len]),
        }
    }
    out
}

/// Everything that a client says to reach a goal, recorded.
fn said_by_client(goal: &Goal, style: Style) -> (Vec<u8>, Vec<u8>) {
    let (mut to_client, mut to_server, mut heard) = (Vec::new(), Vec::new(), 0);
    let mut server = ServerHandshake::new(&mut to_client);
    let mut client = ClientHandshake::new(goal.clone(), style).unwrap();
    let mut told = 0;
    loop {
        let (used, step) = client.receive(&to_client[heard..], &mut to_server).unwrap();
        heard += used;
        if !matches!(step, client::Step::More) {
            return (to_server, to_client);
        }
        let (used, _) = server.receive(&shelf(), &to_server[told..], &mut to_client).unwrap();
        told += used;
    }
}

fn conversations() -> Vec<(Goal, Style, Vec<u8>, Vec<u8>)> {
    let enter =
        Goal::Enter { export: "disk".into(), contexts: vec!["base:allocation".into(), "x:depth".into()] };
    let goals = [Goal::List, Goal::Inspect { export: "ödland".into() }, enter];
    let mut all = Vec::new();
    for goal in goals {
        for style in [Style::Simple, Style::Structured, Style::Extended] {
            let (to_server, to_client) = said_by_client(&goal, style);
            all.push((goal.clone(), style, to_server, to_client));
        }
    }
    all
}

#[test]
fn a_server_survives_damaged_handshakes() {
    let mut entered = 0;
    for (_, _, said, _) in conversations() {
        for seed in 0..2000 {
            let mut rng = Rng::new(seed);
            let input = damage(&said, &mut rng);
            let mut output = Vec::new();
            let mut server = ServerHandshake::new(&mut output);
            let mut rest = &input[..];
            while !rest.is_empty() {
                let piece = &rest[..(1 + rng.index(64)).min(rest.len())];
                match server.receive(&shelf(), piece, &mut output) {
                    Ok((used, server::Step::More)) => rest = &rest[used..],
                    Ok((_, step)) => {
                        entered += usize::from(matches!(step, server::Step::Transmission(_)));
                        break;
                    }
                    Err(_) => break,
                }
            }
            assert!(output.len() < 16 << 10, "seed {seed}: {} bytes of output", output.len());
        }
    }
    assert!(entered > 100, "not all damage is fatal: {entered}");
}

#[test]
fn a_client_survives_damaged_handshakes() {
    let mut ended = 0;
    for (goal, style, _, said) in conversations() {
        for seed in 0..2000 {
            let mut rng = Rng::new(seed);
            let input = damage(&said, &mut rng);
            let (mut client, mut output) = (ClientHandshake::new(goal.clone(), style).unwrap(), Vec::new());
            let mut rest = &input[..];
            while !rest.is_empty() {
                let piece = &rest[..(1 + rng.index(64)).min(rest.len())];
                match client.receive(piece, &mut output) {
                    Ok((used, client::Step::More)) => rest = &rest[used..],
                    Ok(_) => {
                        ended += 1;
                        break;
                    }
                    Err(_) => break,
                }
            }
            assert!(output.len() < 16 << 10, "seed {seed}: {} bytes of output", output.len());
        }
    }
    assert!(ended > 100, "not all damage is fatal: {ended}");
}

/// Requests of every command, as bytes, and the server's replies to them.
fn transmission(style: Style) -> (Vec<Request>, Vec<u8>, Vec<u8>) {
    let (negotiated, mut client) = enter(style, &mut Cut::random(0));
    let mut disk = Disk::new(negotiated.session);
    disk.bytes[5000..9000].fill(7);
    let commands =
        [Command::Write, Command::Read, Command::Flush, Command::BlockStatus, Command::WriteZeroes];
    let (mut requests, mut to_server, mut to_client) = (Vec::new(), Vec::new(), Vec::new());
    for (cookie, command) in
        (1..).zip(commands).filter(|(_, command)| style != Style::Simple || *command != Command::BlockStatus)
    {
        let request =
            Request { cookie, offset_bytes: 4096, len_bytes: 16384, command, flags: CommandFlags::NONE };
        let data = if command == Command::Write { vec![9; 16384] } else { vec![] };
        let bytes = crate::peer::encode(&mut client, &request, &data);
        assert_eq!(disk.serve(&bytes, &mut to_client), Some(bytes.len()));
        to_server.extend(bytes);
        requests.push(request);
    }
    (requests, to_server, to_client)
}

#[test]
fn a_server_survives_damaged_requests() {
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let (_, said, _) = transmission(style);
        let (negotiated, _) = enter(style, &mut Cut::random(0));
        let mut disk = Disk::new(negotiated.session);
        for seed in 0..4000 {
            let input = damage(&said, &mut Rng::new(seed));
            let (mut rest, mut output) = (&input[..], Vec::new());
            while let Some(used @ 1..) = disk.serve(rest, &mut output) {
                rest = &rest[used..];
            }
        }
        for seed in 0..20_000 {
            let mut noise = [0; 32];
            let mut rng = Rng::new(seed);
            rng.fill(&mut noise);
            noise[..4].copy_from_slice(if style == Style::Extended {
                b"\x21\xe4\x1c\x71"
            } else {
                b"\x25\x60\x95\x13"
            });
            noise[6..8].copy_from_slice(&[0, u8::try_from(rng.below(10)).unwrap()]);
            let (header, _) = RequestHeader::parse(style, &noise).unwrap().unwrap();
            if let Ok(admitted) = negotiated.session.admit(&header) {
                assert!(admitted.payload_bytes <= limit::PAYLOAD_BYTES_DEFAULT);
            }
        }
    }
}

#[test]
fn a_client_survives_damaged_replies_and_never_believes_bytes_outside_a_request() {
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let (requests, _, said) = transmission(style);
        for seed in 0..4000 {
            let (_, mut client) = enter(style, &mut Cut::random(0));
            for request in &requests {
                client.begin(request, &mut [0; 32]).unwrap();
            }
            let input = damage(&said, &mut Rng::new(seed));
            let mut rest = &input[..];
            while let Ok(Some((used, event))) = client.next(rest) {
                rest = &rest[used..];
                if let What::Data { offset_bytes, len_bytes } | What::Hole { offset_bytes, len_bytes } =
                    event.what
                {
                    assert!(offset_bytes >= 4096 && offset_bytes + len_bytes <= 4096 + 16384, "seed {seed}");
                }
                if let What::Data { len_bytes, .. } = event.what {
                    rest = rest.get(usize::try_from(len_bytes).unwrap()..).unwrap_or_default();
                }
            }
        }
    }
}

#[test]
fn a_uri_parser_survives_noise() {
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let uri = ["nbd+unix:///a%20b?socket=/run/%00x", "nbd://[fe80::1]:10809/export/%c3%a4"][rng.index(2)];
        let damaged = damage(uri.as_bytes(), &mut rng);
        if let Ok(uri) = String::from_utf8_lossy(&damaged).parse::<Uri>() {
            assert_eq!(uri.to_string().parse(), Ok(uri), "seed {seed}");
        }
    }
}
