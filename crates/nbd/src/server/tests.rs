//! The table of options walked in full, golden bytes of each answer, and each limit.

use super::rule::{Answer, Mode};
use super::*;
use crate::export::BlockSizes;
use crate::wire::{TransmissionFlags as F, opt};

struct Shelf(Vec<Arc<ExportInfo>>);

impl Exports for Shelf {
    fn find(&self, name: &str) -> Option<Arc<ExportInfo>> {
        if name.is_empty() {
            return self.0.first().cloned();
        }
        self.0.iter().find(|export| export.name() == name).cloned()
    }

    fn list(&self) -> Vec<Arc<ExportInfo>> {
        self.0.clone()
    }
}

fn shelf() -> Shelf {
    let disk = ExportInfo::new(7, "disk", 0x1_0000_0000).unwrap().with_description("text").unwrap();
    let disk = disk.with_flags(F::from_wire(0xfffd)).with_context("base:allocation").unwrap();
    let disk =
        disk.with_context("qemu:allocation-depth").unwrap().with_context("qemu:dirty-bitmap:b0").unwrap();
    let other = ExportInfo::new(8, "other", 512).unwrap().with_context("base:allocation").unwrap();
    Shelf(vec![Arc::new(disk), Arc::new(other)])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let len = u32::try_from(data.len()).unwrap();
    BeMut(&mut out).u64(wire::MAGIC_OPTION).u32(option).u32(len).bytes(data);
    out
}

fn name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    BeMut(&mut out).u32(u32::try_from(name.len()).unwrap()).bytes(name.as_bytes());
    out
}

fn facts(export: &str, kinds: &[u16]) -> Vec<u8> {
    let mut out = name(export);
    BeMut(&mut out).u16(u16::try_from(kinds.len()).unwrap());
    kinds.iter().for_each(|kind| out.extend(kind.to_be_bytes()));
    out
}

fn queries(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = name(export);
    BeMut(&mut out).u32(u32::try_from(queries.len()).unwrap());
    queries.iter().for_each(|query| out.extend(name(query)));
    out
}

/// Feeds a client with these flags that sends all of `input`; the server's answers behind the greeting.
fn talk(flags: u32, input: &[Vec<u8>]) -> (Vec<u8>, Result<Step, HandshakeError>) {
    let mut greeting = Vec::new();
    let mut server = ServerHandshake::new(&mut greeting);
    let (mut output, mut input) = (Vec::new(), [flags.to_be_bytes().to_vec(), input.concat()].concat());
    let step = loop {
        match server.receive(&shelf(), &input, &mut output) {
            Ok((used, Step::More)) if used < input.len() => drop(input.drain(..used)),
            Ok((_, step)) => break Ok(step),
            Err(error) => break Err(error),
        }
    };
    (output, step)
}

/// The replies in short: option, kind, data as text.
fn replies(mut output: &[u8]) -> String {
    let mut text = Vec::new();
    while let Some((head, rest)) = output.split_at_checked(20) {
        let mut be = Be(head);
        assert_eq!(be.u64(), Ok(wire::MAGIC_OPTION_REPLY));
        let (option, kind, len) = (be.u32().unwrap(), be.u32().unwrap(), be.u32().unwrap());
        let (data, rest) = rest.split_at(len as usize);
        output = rest;
        text.push(match kind {
            rep::ACK => format!("{option} ack"),
            rep::META_CONTEXT => {
                format!("{option} context {} {}", data[3], String::from_utf8_lossy(&data[4..]))
            }
            rep::INFO => format!("{option} fact {}", hex(data)),
            rep::SERVER => format!("{option} export {}", String::from_utf8_lossy(&data[4..])),
            _ => format!("{option} error {}: {}", kind & !rep::ERROR_BIT, String::from_utf8_lossy(data)),
        });
    }
    assert!(output.is_empty(), "no torn reply");
    text.join("; ")
}

fn said(input: &[Vec<u8>]) -> String {
    replies(&talk(3, input).0)
}

const STRUCTURED: (u32, &[u8]) = (opt::STRUCTURED_REPLY, &[]);

fn structured() -> Vec<u8> {
    option(STRUCTURED.0, STRUCTURED.1)
}

#[test]
fn every_option_in_every_mode_gets_the_answer_of_the_table() {
    use Style::{Extended, Simple, Structured};
    let modes = [Mode::Unfixed, Mode::Haggling(Simple), Mode::Haggling(Structured), Mode::Haggling(Extended)];
    let table: [(u32, [&str; 4]); 13] = [
        (opt::EXPORT_NAME, ["enter", "enter", "enter", "close"]),
        (opt::ABORT, ["close", "end", "end", "end"]),
        (opt::LIST, ["close", "list", "list", "list"]),
        (4, ["close", "error 1", "error 1", "error 1"]),
        (opt::STARTTLS, ["close", "error 1", "error 1", "error 1"]),
        (opt::INFO, ["close", "inform", "inform", "inform"]),
        (opt::GO, ["close", "go", "go", "go"]),
        (opt::STRUCTURED_REPLY, ["close", "become Structured", "error 3", "error 10"]),
        (opt::LIST_META_CONTEXT, ["close", "list contexts", "list contexts", "list contexts"]),
        (opt::SET_META_CONTEXT, ["close", "error 3", "set contexts", "set contexts"]),
        (opt::EXTENDED_HEADERS, ["close", "become Extended", "become Extended", "error 3"]),
        (12, ["close", "error 1", "error 1", "error 1"]),
        (u32::MAX, ["close", "error 1", "error 1", "error 1"]),
    ];
    for (option, row) in table {
        for (mode, expected) in modes.into_iter().zip(row) {
            let answer = match rule::answer(mode, option) {
                Err(_) => "close".into(),
                Ok(Answer::Enter) => "enter".into(),
                Ok(Answer::End) => "end".into(),
                Ok(Answer::List) => "list".into(),
                Ok(Answer::Inform) => "inform".into(),
                Ok(Answer::Go) => "go".into(),
                Ok(Answer::ListContexts) => "list contexts".into(),
                Ok(Answer::SetContexts) => "set contexts".into(),
                Ok(Answer::Become(style)) => format!("become {style:?}"),
                Ok(Answer::Refuse(code, _)) => format!("error {}", code & !rep::ERROR_BIT),
            };
            assert_eq!(answer, expected, "{mode:?} {option}");
        }
    }
}

#[test]
fn every_option_in_every_mode_with_and_without_data_leaves_the_stream_in_step() {
    let modes: [&[u32]; 3] = [&[], &[opt::STRUCTURED_REPLY], &[opt::EXTENDED_HEADERS]];
    for mode in modes {
        for number in
            (2..=12).chain([77, u32::MAX]).filter(|number| *number != opt::GO && *number != opt::ABORT)
        {
            for data in [&[][..], b"x", &[0; 300], &[0xff; 300], &facts("other", &[]), &queries("disk", &[])]
            {
                let mut input: Vec<_> = mode.iter().map(|number| option(*number, &[])).collect();
                input.push(option(number, data));
                input.push(option(opt::ABORT, &[]));
                let (output, step) = talk(3, &input);
                assert_eq!(step, Ok(Step::Aborted), "{mode:?} {number} {data:?}");
                let text = replies(&output);
                assert!(text.ends_with("; 2 ack"), "{mode:?} {number}: {text}");
                let finals = text.matches(" ack").count() + text.matches(" error ").count();
                assert_eq!(finals, mode.len() + 2, "one final reply each: {text}");
            }
        }
    }
}

#[test]
fn the_greeting_and_the_answer_to_the_old_option_are_bytes_of_the_specification() {
    let mut greeting = Vec::new();
    let _ = ServerHandshake::new(&mut greeting);
    assert_eq!(hex(&greeting), "4e42444d41474943 49484156454f5054 0003".replace(' ', ""));

    let (output, step) = talk(3, &[option(opt::EXPORT_NAME, b"disk")]);
    assert_eq!(hex(&output), "00000001000000000d6d", "no DF, no status payload: nothing was negotiated");
    let Ok(Step::Transmission(negotiated)) = step else { panic!("{step:?}") };
    assert_eq!((negotiated.export, negotiated.no_zeroes, negotiated.session.style), (7, true, Style::Simple));

    let (output, step) = talk(0, &[option(opt::EXPORT_NAME, b"")]);
    assert_eq!(output.len(), 10 + 124, "an unfixed client gets the zeroes");
    assert!(matches!(step, Ok(Step::Transmission(_))));
    assert!(talk(1, &[option(opt::EXPORT_NAME, b"")]).0.ends_with(&[0; 124]));
}

#[test]
fn a_list_has_names_and_descriptions() {
    let (output, _) = talk(3, &[option(opt::LIST, &[])]);
    let golden = "0003e889045565a9 00000003 00000002 0000000c 00000004 6469736b 74657874
        0003e889045565a9 00000003 00000002 00000009 00000005 6f74686572
        0003e889045565a9 00000003 00000001 00000000";
    assert_eq!(hex(&output), golden.replace(char::is_whitespace, ""));
}

#[test]
fn info_tells_length_flags_and_block_sizes() {
    let golden = "0003e889045565a9 00000006 00000003 00000006 0002 74657874
        0003e889045565a9 00000006 00000003 0000000e 0003 00000001 00001000 02000000
        0003e889045565a9 00000006 00000003 0000000c 0000 0000000100000000 0d6d
        0003e889045565a9 00000006 00000001 00000000";
    let (output, step) = talk(3, &[option(opt::INFO, &facts("disk", &[]))]);
    assert_eq!(hex(&output), golden.replace(char::is_whitespace, ""));
    assert_eq!(step, Ok(Step::More), "info does not enter");
    assert!(said(&[option(opt::INFO, &facts("disk", &[1]))]).starts_with("6 fact 00016469736b; "), "asked");
    assert!(said(&[option(opt::INFO, &facts("", &[]))]).starts_with("6 fact 00016469736b; "), "the default");
}

#[test]
fn an_unknown_export_is_refused_where_that_is_possible() {
    let text =
        said(&[option(opt::GO, &facts("nope", &[])), option(opt::SET_META_CONTEXT, &queries("nope", &[]))]);
    assert_eq!(text, "7 error 6: there is no export 'nope'; 10 error 3: structured replies come first");
    let error = HandshakeError::UnknownExport("nope".into());
    assert_eq!(talk(3, &[option(opt::EXPORT_NAME, b"nope")]).1, Err(error));
}

#[test]
fn contexts_are_listed_by_prefix_and_selected_by_name() {
    let ask = |number, text: &str| said(&[structured(), option(number, &queries("disk", &[text]))]);
    let all = "9 context 0 base:allocation; 9 context 0 qemu:allocation-depth; 9 context 0 qemu:dirty-bitmap:b0; 9 ack";
    assert_eq!(
        said(&[option(opt::LIST_META_CONTEXT, &queries("disk", &[]))]),
        all,
        "even before structured replies"
    );
    for (query, listed) in [
        ("base:", "9 context 0 base:allocation; "),
        ("qemu:", "9 context 0 qemu:allocation-depth; 9 context 0 qemu:dirty-bitmap:b0; "),
        ("qemu:dirty-bitmap:", "9 context 0 qemu:dirty-bitmap:b0; "),
        ("qemu:dirty-bitmap:b0", "9 context 0 qemu:dirty-bitmap:b0; "),
        ("base", ""),
        ("qemu:alloc", ""),
        ("x:y", ""),
        ("", ""),
    ] {
        assert_eq!(ask(opt::LIST_META_CONTEXT, query), format!("8 ack; {listed}9 ack"), "{query}");
        let full = query == "qemu:dirty-bitmap:b0";
        let selected = if full { "10 context 2 qemu:dirty-bitmap:b0; " } else { "" };
        assert_eq!(ask(opt::SET_META_CONTEXT, query), format!("8 ack; {selected}10 ack"), "{query}");
    }
}

fn contexts_after(input: &[Vec<u8>]) -> Vec<u32> {
    match talk(3, input).1 {
        Ok(Step::Transmission(negotiated)) => negotiated.session.contexts.iter().collect(),
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_selection_counts_for_its_export_until_the_next_one() {
    let select = |export, names: &[&str]| option(opt::SET_META_CONTEXT, &queries(export, names));
    let go = |export| option(opt::GO, &facts(export, &[]));
    let two = ["qemu:dirty-bitmap:b0", "base:allocation"];
    assert_eq!(contexts_after(&[structured(), select("disk", &two), go("disk")]), [0, 2]);
    assert_eq!(contexts_after(&[structured(), select("", &two), go("disk")]), [0, 2], "the default by name");
    assert_eq!(contexts_after(&[structured(), select("disk", &two), go("other")]), []);
    assert_eq!(contexts_after(&[structured(), select("disk", &two), select("disk", &[]), go("disk")]), []);
    let failed = select("nope", &two);
    assert_eq!(
        contexts_after(&[structured(), select("disk", &two), failed, go("disk")]),
        [],
        "even by failing"
    );
    let old = option(opt::EXPORT_NAME, b"disk");
    assert_eq!(contexts_after(&[structured(), select("disk", &two[1..]), old]), [0]);
    let extended = option(opt::EXTENDED_HEADERS, &[]);
    assert_eq!(contexts_after(&[structured(), select("disk", &two), extended, go("disk")]), [0, 2]);
}

#[test]
fn a_selection_does_not_survive_a_change_of_the_contexts() {
    let new = |bitmap: &str| {
        let export = ExportInfo::new(1, "d", 512).unwrap().with_context(bitmap).unwrap();
        Shelf(vec![Arc::new(export)])
    };
    let mut server = ServerHandshake::new(&mut Vec::new());
    let select = [vec![0, 0, 0, 3], structured()].concat();
    let go = option(opt::GO, &facts("d", &[]));
    let chosen = option(opt::SET_META_CONTEXT, &queries("d", &["x:b0"]));
    let mut feed = |shelf: &Shelf, input: &[u8]| server.receive(shelf, input, &mut Vec::new()).unwrap().1;
    feed(&new("x:b0"), &select);
    feed(&new("x:b0"), &chosen);
    let Step::Transmission(negotiated) = feed(&new("x:b1"), &go) else { panic!() };
    assert!(negotiated.session.contexts.is_empty(), "index 0 means another bitmap now");
}

#[test]
fn malformed_data_are_refused_and_the_next_option_is_answered() {
    let (empty, mismatch) = ("3: the option takes no data", "3: the option's lengths do not match");
    let mut trailing = queries("disk", &["base:allocation"]);
    trailing.push(0);
    let mut short = queries("disk", &["base:allocation"]);
    short.pop();
    let long = "n".repeat(limit::STRING_BYTES_MAX + 1);
    for (number, data, error) in [
        (opt::LIST, vec![0], empty),
        (opt::STRUCTURED_REPLY, vec![0], empty),
        (opt::EXTENDED_HEADERS, vec![0], empty),
        (opt::INFO, vec![], mismatch),
        (opt::INFO, name("disk"), mismatch),
        (opt::INFO, [facts("disk", &[3]), vec![0]].concat(), mismatch),
        (opt::GO, facts("disk", &[3])[..11].to_vec(), mismatch),
        (opt::GO, vec![0xff; 4], mismatch),
        (opt::INFO, facts(&long, &[]), "3: the export's name is too long"),
        (opt::INFO, facts("a\0", &[]), "3: the export's name is not UTF-8"),
        (opt::LIST_META_CONTEXT, trailing, mismatch),
        (opt::LIST_META_CONTEXT, short, mismatch),
    ] {
        let text = said(&[option(number, &data), option(opt::LIST, &[])]);
        assert!(text.starts_with(&format!("{number} error {error}; 3 export")), "{text}");
    }
    let not_utf8 = [vec![0, 0, 0, 1, 0xff], vec![0, 0]].concat();
    assert!(said(&[option(opt::INFO, &not_utf8)]).contains("not UTF-8"));
}

#[test]
fn garbage_ends_the_handshake_and_nothing_is_accepted_after_it() {
    let mut server = ServerHandshake::new(&mut Vec::new());
    let mut feed = |input: &[u8]| server.receive(&shelf(), input, &mut Vec::new());
    assert_eq!(feed(&[0, 0, 0, 7]), Err(HandshakeError::ClientFlags(7)));
    assert_eq!(feed(&[0, 0, 0, 3]), Err(HandshakeError::Over));
    assert_eq!(
        talk(3, &[b"GET / HTTP/1.1\r\n".to_vec()]).1,
        Err(HandshakeError::OptionMagic(0x4745_5420_2f20_4854))
    );
    assert_eq!(talk(2, &[option(opt::LIST, &[])]).1, Err(HandshakeError::NotFixed(3)));
    let extended = option(opt::EXTENDED_HEADERS, &[]);
    let old = option(opt::EXPORT_NAME, b"disk");
    assert_eq!(talk(3, &[extended, old]).1, Err(HandshakeError::ExportNameExtended));
    assert_eq!(talk(3, &[option(opt::EXPORT_NAME, b"\xff")]).1, Err(HandshakeError::BadName));
    assert_eq!(talk(3, &[option(opt::EXPORT_NAME, &[b'n'; 4097])]).1, Err(HandshakeError::BadName));
    assert!(Error::from(HandshakeError::Endless).report().ends_with("the handshake does not end"));
}

/// A server in the haggling phase.
fn haggling() -> ServerHandshake {
    let mut server = ServerHandshake::new(&mut Vec::new());
    server.receive(&shelf(), &[0, 0, 0, 3], &mut Vec::new()).unwrap();
    server
}

#[test]
fn a_long_option_is_skipped_without_being_kept_and_a_longer_one_is_cut() {
    let head = |number, len: u32| {
        let mut head = option(number, &[]);
        head[12..].copy_from_slice(&len.to_be_bytes());
        head
    };
    for (number, len) in [(77, limit::OPTION_SKIP_BYTES_MAX), (opt::GO, limit::OPTION_BYTES_MAX + 1)] {
        let (mut server, mut output) = (haggling(), Vec::new());
        assert_eq!(server.receive(&shelf(), &head(number, len), &mut output), Ok((16, Step::More)));
        let (piece, mut left) = ([0xaa; 60_000], len as usize);
        while left > 0 {
            assert_eq!(output, [], "no answer before the end");
            let now = piece.len().min(left);
            assert_eq!(server.receive(&shelf(), &piece[..now], &mut output), Ok((now, Step::More)));
            assert!(server.gather.capacity() <= 16);
            left -= now;
        }
        let refused =
            if number == 77 { "77 error 1: this" } else { "7 error 9: the option's data are too long" };
        assert!(replies(&output).starts_with(refused));
    }
    let len = limit::OPTION_SKIP_BYTES_MAX + 1;
    let error = HandshakeError::OptionTooLong { option: 77, len };
    assert_eq!(haggling().receive(&shelf(), &head(77, len), &mut Vec::new()), Err(error));
    // An honest long option is kept, and no more memory than arrived.
    let mut server = haggling();
    server.receive(&shelf(), &head(opt::GO, limit::OPTION_BYTES_MAX), &mut Vec::new()).unwrap();
    assert!(server.gather.capacity() <= 16, "nothing is allocated for a claim");
    server.receive(&shelf(), &[0; 40_000], &mut Vec::new()).unwrap();
    assert!(server.gather.capacity() <= 2 * limit::OPTION_BYTES_MAX as usize);
}

#[test]
fn a_handshake_that_does_not_end_is_ended() {
    let (mut server, list) = (haggling(), option(opt::LIST, &[]));
    let mut feed = |input: &[u8]| server.receive(&shelf(), input, &mut Vec::new());
    for _ in 0..limit::OPTIONS_MAX {
        assert_eq!(feed(&list), Ok((16, Step::More)));
    }
    assert_eq!(feed(&list), Err(HandshakeError::Endless));

    let (mut server, junk) = (haggling(), option(77, &vec![0; 1 << 20]));
    let ends = |_| server.receive(&shelf(), &junk, &mut Vec::new()) == Err(HandshakeError::Endless);
    assert_eq!((0..100).position(ends), Some(63), "64 MiB and no more");
}

#[test]
fn too_many_queries_or_exports_are_refused_not_cut() {
    let many = vec!["x:y"; limit::QUERIES_MAX as usize + 1];
    let text = said(&[option(opt::LIST_META_CONTEXT, &queries("disk", &many))]);
    assert_eq!(text, "9 error 9: too many queries");
    assert_eq!(said(&[option(opt::LIST_META_CONTEXT, &queries("disk", &many[1..]))]), "9 ack");

    let long = ExportInfo::new(0, "n".repeat(4000), 0).unwrap().with_description("d".repeat(4000)).unwrap();
    let long = Arc::new(long);
    let shelf = Shelf((0..200).map(|_| Arc::clone(&long)).collect());
    let mut output = Vec::new();
    haggling().receive(&shelf, &option(opt::LIST, &[]), &mut output).unwrap();
    assert_eq!(replies(&output), "3 error 9: the list of exports is too long");
    assert!(output.capacity() <= 4 * limit::LIST_BYTES_MAX);
}

#[test]
fn block_sizes_of_the_export_are_told_and_kept() {
    let block = BlockSizes { min_bytes: 512, preferred_bytes: 65536, max_bytes: 1 << 20 };
    let export = ExportInfo::new(0, "d", 1 << 30).unwrap().with_block(block).unwrap();
    let shelf = Shelf(vec![Arc::new(export)]);
    let mut output = Vec::new();
    let (_, step) = haggling().receive(&shelf, &option(opt::GO, &facts("d", &[3])), &mut output).unwrap();
    assert!(replies(&output).contains("fact 0003000002000001000000100000"));
    let Step::Transmission(negotiated) = step else { panic!("{step:?}") };
    assert_eq!(negotiated.session.block, block);
}
