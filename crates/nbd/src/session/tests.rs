//! Each row of the table in the module's documentation.

use super::*;

fn session(style: Style, flags: TransmissionFlags) -> Session {
    let mut contexts = ContextSet::EMPTY;
    contexts.insert(0);
    contexts.insert(2);
    Session { style, flags, len_bytes: 1 << 40, block: BlockSizes::DEFAULT, contexts }
}

fn all() -> TransmissionFlags {
    TransmissionFlags::from_wire(u16::MAX).without(TransmissionFlags::READ_ONLY)
}

fn header(command: Command, offset_bytes: u64, len_bytes: u64) -> RequestHeader {
    let flags = CommandFlags::NONE;
    RequestHeader { cookie: 7, offset_bytes, len_bytes, command: command as u16, flags }
}

fn flagged(command: Command, flags: CommandFlags) -> RequestHeader {
    RequestHeader { flags, ..header(command, 0, 4096) }
}

/// The number and the payload that a header gets, 0 for none.
fn verdict(session: Session, header: RequestHeader) -> (u32, u32) {
    let admitted = session.admit(&header).unwrap();
    (admitted.request.err().map_or(0, |refusal| refusal.error.to_wire()), admitted.payload_bytes)
}

#[test]
fn each_command_takes_its_own_flags_and_no_others() {
    use CommandFlags as F;
    let session = session(Style::Structured, all().without(TransmissionFlags::BLOCK_STATUS_PAYLOAD));
    for (command, own) in [
        (Command::Read, F::DF),
        (Command::Write, F::NONE),
        (Command::Flush, F::NONE),
        (Command::Trim, F::NONE),
        (Command::Cache, F::NONE),
        (Command::WriteZeroes, F::NO_HOLE.with(F::FAST_ZERO)),
        (Command::BlockStatus, F::REQ_ONE),
    ] {
        for bit in 0..16 {
            let flag = F::from_wire(1 << bit);
            let expected = if own.with(F::FUA).has(flag) { 0 } else { 22 };
            assert_eq!(verdict(session, flagged(command, flag)).0, expected, "{command:?} {flag:?}");
        }
    }
}

#[test]
fn what_was_not_offered_is_refused() {
    let nothing =
        Session { contexts: ContextSet::EMPTY, ..session(Style::Simple, TransmissionFlags::HAS_FLAGS) };
    let refused = [Command::Flush, Command::Trim, Command::Cache, Command::WriteZeroes, Command::BlockStatus];
    for command in refused {
        assert_eq!(verdict(nothing, header(command, 0, 4096)).0, 22, "{command:?}");
    }
    for flag in [CommandFlags::FUA, CommandFlags::DF] {
        assert_eq!(verdict(nothing, flagged(Command::Read, flag)).0, 22);
    }
    let zeroes = session(Style::Simple, TransmissionFlags::SEND_WRITE_ZEROES);
    assert_eq!(verdict(zeroes, flagged(Command::WriteZeroes, CommandFlags::NO_HOLE)).0, 0);
    assert_eq!(verdict(zeroes, flagged(Command::WriteZeroes, CommandFlags::FAST_ZERO)).0, 22);
    let unknown = RequestHeader { command: 8, ..header(Command::Read, 0, 0) };
    assert_eq!(verdict(zeroes, unknown), (22, 0), "RESIZE is not understood");
}

#[test]
fn a_read_only_export_forbids_each_writing_command_and_consumes_its_data() {
    let read_only = session(Style::Simple, TransmissionFlags::READ_ONLY);
    for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
        let payload = if command == Command::Write { 4096 } else { 0 };
        assert_eq!(verdict(read_only, header(command, 0, 4096)), (1, payload), "{command:?}");
    }
    assert_eq!(verdict(read_only, header(Command::Read, 0, 4096)), (0, 0));
}

#[test]
fn the_end_of_the_export_is_exact_and_overflow_is_past_it() {
    let session = session(Style::Extended, all());
    let end = session.len_bytes;
    let past = [
        (Command::Read, 22),
        (Command::Trim, 22),
        (Command::Cache, 22),
        (Command::WriteZeroes, 28),
        (Command::BlockStatus, 22),
    ];
    for (command, error) in past {
        assert_eq!(verdict(session, header(command, end - 512, 512)).0, 0, "{command:?}");
        for (offset, len) in [(end - 512, 513), (end, 1), (u64::MAX, 512), (512, u64::MAX), (end + 1, 0)] {
            assert_eq!(verdict(session, header(command, offset, len)).0, error, "{command:?} {offset} {len}");
        }
    }
    let write = RequestHeader { flags: CommandFlags::PAYLOAD_LEN, ..header(Command::Write, end, 512) };
    assert_eq!(verdict(session, write), (28, 512));
}

#[test]
fn nothing_at_all_is_run_except_where_something_has_to_be_reported() {
    let session = session(Style::Structured, all());
    for command in [Command::Read, Command::Write, Command::Trim, Command::Cache, Command::WriteZeroes] {
        assert_eq!(verdict(session, header(command, 0, 0)), (0, 0), "{command:?}");
    }
    assert_eq!(verdict(session, header(Command::BlockStatus, 0, 0)).0, 22);
    assert_eq!(verdict(session, header(Command::Flush, 5, 5)).0, 0);
}

#[test]
fn requests_are_multiples_of_the_minimum_block() {
    let block = BlockSizes { min_bytes: 512, ..BlockSizes::DEFAULT };
    let session = Session { block, ..session(Style::Structured, all()) };
    assert_eq!(verdict(session, header(Command::Read, 512, 1024)).0, 0);
    assert_eq!(verdict(session, header(Command::Read, 1, 512)).0, 22);
    assert_eq!(verdict(session, header(Command::Write, 0, 100)), (22, 100));
}

#[test]
fn a_payload_above_the_maximum_is_consumed_and_one_above_both_closes() {
    let block = BlockSizes { max_bytes: 1 << 20, ..BlockSizes::DEFAULT };
    let small = Session { block, ..session(Style::Simple, all()) };
    assert_eq!(verdict(small, header(Command::Write, 0, 1 << 20)), (0, 1 << 20));
    assert_eq!(verdict(small, header(Command::Write, 0, (1 << 20) + 1)), (22, (1 << 20) + 1));
    assert_eq!(verdict(small, header(Command::Read, 0, (1 << 20) + 1)), (22, 0));
    assert_eq!(verdict(small, header(Command::Trim, 0, 1 << 30)), (0, 0));
    let len = (32 << 20) + 1;
    assert_eq!(small.admit(&header(Command::Write, 0, len)), Err(RequestError::PayloadTooLong(len)));
    let large = Session { block: BlockSizes { max_bytes: u32::MAX, ..block }, ..small };
    assert_eq!(verdict(large, header(Command::Write, 0, len)).0, 0);
}

#[test]
fn extended_headers_say_which_length_they_mean() {
    let session = session(Style::Extended, all());
    let payload =
        |command, len| RequestHeader { len_bytes: len, ..flagged(command, CommandFlags::PAYLOAD_LEN) };
    assert_eq!(verdict(session, payload(Command::Write, 512)), (0, 512));
    assert_eq!(verdict(session, header(Command::Write, 0, 512)), (0, 512), "as the C tools' client says it");
    assert_eq!(verdict(session, payload(Command::Read, 16)), (22, 16), "consumed, then refused");
    let unknown = RequestHeader { command: 99, ..payload(Command::Read, 16) };
    assert_eq!(verdict(session, unknown), (22, 16));
    assert_eq!(verdict(session, header(Command::Trim, 0, 1 << 40)), (0, 0), "an effect length has 64 bits");
    let attack = payload(Command::Read, u64::MAX);
    assert_eq!(session.admit(&attack), Err(RequestError::PayloadTooLong(u64::MAX)));
}

#[test]
fn a_status_payload_names_selected_contexts_once() {
    let session = session(Style::Extended, all());
    let ask = |len: u64, ids: &[u32]| {
        let mut bytes = len.to_be_bytes().to_vec();
        ids.iter().for_each(|id| bytes.extend(id.to_be_bytes()));
        let flags = CommandFlags::PAYLOAD_LEN;
        let header = RequestHeader { len_bytes: bytes.len() as u64, ..flagged(Command::BlockStatus, flags) };
        let admitted = session.admit(&header).unwrap();
        assert_eq!(admitted.payload_bytes as usize, bytes.len());
        admitted.request.and_then(|request| session.status_request(&request, &bytes))
    };
    let (request, contexts) = ask(1 << 33, &[2]).unwrap();
    assert_eq!((request.len_bytes, contexts.iter().collect::<Vec<_>>()), (1 << 33, vec![2]));
    for (len, ids) in
        [(512, &[][..]), (512, &[1]), (512, &[2, 2]), (512, &[0, u32::MAX]), (0, &[0]), (1 << 41, &[0])]
    {
        assert_eq!(ask(len, ids).unwrap_err().error, NbdError::Invalid, "{len} {ids:?}");
    }
    let whole = session.admit(&header(Command::BlockStatus, 0, 512)).unwrap().request.unwrap();
    assert_eq!(session.status_request(&whole, &[]), Ok((whole, session.contexts)));
    let short = Request { flags: CommandFlags::PAYLOAD_LEN, ..whole };
    for len in [0, 7, 9, 11] {
        assert!(session.status_request(&short, &[0; 12][..len]).is_err(), "len {len}");
    }
    let many: Vec<u32> = (0..65).collect();
    assert_eq!(ask(512, &many).unwrap_err().text, "a payload of an impossible length");
}

#[test]
fn goodbye_is_never_refused() {
    let odd = RequestHeader { flags: CommandFlags::from_wire(0x40), ..header(Command::Disconnect, 9, 9) };
    assert_eq!(verdict(session(Style::Simple, TransmissionFlags::NONE), odd).0, 0);
}

#[test]
fn a_session_is_small_enough_to_copy() {
    assert!(size_of::<Session>() <= 40);
    assert!(size_of::<Admitted>() <= 48);
}
