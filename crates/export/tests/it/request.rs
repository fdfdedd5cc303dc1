//! What requests do, in every style.

use drystone_base::Kind;
use drystone_export::nbd::ExportOptions;
use drystone_nbd::{Command, CommandFlags, NbdError, TransmissionFlags};

use crate::client::{Client, EXTENDED, How, SIMPLE, STRUCTURED};
use crate::daemon::{Daemon, Setup, on_both_engines, writable};
use crate::disk::GRAIN;

const LEN: u64 = 1 << 20;
const NONE: CommandFlags = CommandFlags::NONE;

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn bytes_come_back_in_every_style() {
    on_both_engines(|setup| {
        let (daemon, ram) = Daemon::with_disk(setup, LEN);
        for (at, how) in [(0, SIMPLE), (70_000, STRUCTURED), (200_001, EXTENDED)] {
            let mut client = Client::enter_as(&daemon.address(), "disk", how).unwrap();
            let data = pattern(50_000);
            client.write(at, &data).unwrap();
            assert_eq!(client.read(at, 50_000).unwrap(), data);
            assert_eq!(ram.bytes(usize::try_from(at).unwrap(), 50_000), data);
        }
    });
}

#[test]
fn the_longest_payload_is_written_and_read() {
    let len = 32 << 20;
    let (daemon, ram) = Daemon::with_disk(Setup::default(), len + 1);
    let mut client = Client::enter(&daemon.address(), "disk");
    let data = pattern(usize::try_from(len).unwrap());
    client.write(1, &data).unwrap();
    assert!(ram.bytes(1, data.len()) == data);
    assert!(client.read(1, len).unwrap() == data);
    let too_long = client.ask(Command::Read, 0, len + 1, NONE);
    assert_eq!(too_long.result, Some(Err(NbdError::Invalid)));
}

#[test]
fn requests_are_pipelined_and_their_replies_sent_together() {
    on_both_engines(|setup| {
        let (daemon, _ram) = Daemon::with_disk(setup, LEN);
        let mut client = Client::enter(&daemon.address(), "disk");
        for round in 0..20_u8 {
            let mut all = Vec::new();
            for slot in 0..100_u64 {
                let (_, bytes) = client.encode(Command::Write, slot * 700, 700, NONE);
                all.extend(bytes);
                all.extend(vec![round ^ u8::try_from(slot).unwrap(); 700]);
            }
            client.stream.write_all(&all).unwrap();
            assert!(client.replies(100).iter().all(|reply| reply.result == Some(Ok(()))));
            let cookies: Vec<u64> =
                (0..100).map(|slot| client.send(Command::Read, slot * 700, 700)).collect();
            for reply in client.replies(100) {
                let slot = cookies.iter().position(|cookie| *cookie == reply.cookie).unwrap();
                assert_eq!(reply.data, vec![round ^ u8::try_from(slot).unwrap(); 700]);
            }
        }
    });
}

#[test]
fn requests_of_nothing_succeed() {
    let (daemon, _ram) = Daemon::with_disk(Setup::default(), LEN);
    let mut client = Client::enter(&daemon.address(), "disk");
    for command in [Command::Read, Command::Write, Command::Trim, Command::WriteZeroes, Command::Cache] {
        assert_eq!(client.ask(command, 5, 0, NONE).result, Some(Ok(())), "{command:?}");
    }
    assert_eq!(client.ask(Command::BlockStatus, 5, 0, NONE).result, Some(Err(NbdError::Invalid)));
}

#[test]
fn what_cannot_be_is_refused_and_the_connection_goes_on() {
    let (daemon, _ram) = Daemon::with_disk(Setup::default(), LEN);
    for how in [SIMPLE, STRUCTURED, EXTENDED] {
        let mut client = Client::enter_as(&daemon.address(), "disk", how).unwrap();
        let mut asked = |command, at, len, flags| client.ask(command, at, len, flags).result.unwrap();
        assert_eq!(asked(Command::Read, LEN - 1, 2, NONE), Err(NbdError::Invalid));
        assert_eq!(asked(Command::Trim, u64::MAX, 1, NONE), Err(NbdError::Invalid));
        assert_eq!(asked(Command::WriteZeroes, LEN, 1, NONE), Err(NbdError::NoSpace));
        assert_eq!(asked(Command::Read, 0, 1, CommandFlags::REQ_ONE), Err(NbdError::Invalid));
        assert_eq!(client.write(LEN - 1, b"ab"), Err(NbdError::NoSpace));
        client.write(LEN - 1, b"a").unwrap();
        assert_eq!(client.read(LEN - 1, 1).unwrap(), b"a");
    }
}

#[test]
fn a_read_only_export_refuses_what_writes() {
    let (daemon, ram) = Daemon::with_disk(Setup::default(), LEN);
    daemon.export(ExportOptions { name: "ro".into(), writable: false, ..writable("disk") }).unwrap();
    let mut client = Client::enter(&daemon.address(), "ro");
    assert!(client.transmission.session().flags.has(TransmissionFlags::READ_ONLY));
    assert_eq!(client.write(0, b"x"), Err(NbdError::NotPermitted));
    for command in [Command::Trim, Command::WriteZeroes] {
        assert_eq!(client.ask(command, 0, 512, NONE).result, Some(Err(NbdError::NotPermitted)));
    }
    assert_eq!((client.read(0, 4).unwrap(), ram.bytes(0, 4)), (vec![0; 4], vec![0; 4]));
    assert_eq!(client.ask(Command::Flush, 0, 0, NONE).result, Some(Ok(())));
}

#[test]
fn errors_of_the_disk_reach_the_client_as_the_protocol_names_them() {
    let (daemon, ram) = Daemon::with_disk(Setup::default(), LEN);
    let mut client = Client::enter(&daemon.address(), "disk");
    for (kind, error) in
        [(Kind::NoSpace, NbdError::NoSpace), (Kind::Io, NbdError::Io), (Kind::TimedOut, NbdError::Io)]
    {
        ram.fail(Some(kind));
        assert_eq!(client.write(0, b"x"), Err(error));
        assert_eq!(client.read(0, 1), Err(error));
        assert_eq!(client.ask(Command::WriteZeroes, 0, 512, NONE).result, Some(Err(error)));
    }
    ram.fail(None);
    client.write(0, b"x").unwrap();
}

#[test]
fn fua_and_writethrough_flush_and_nothing_else_does() {
    let (daemon, ram) = Daemon::with_disk(Setup::default(), LEN);
    daemon.export(ExportOptions { name: "wt".into(), writethrough: true, ..writable("disk") }).unwrap();
    let mut client = Client::enter(&daemon.address(), "disk");
    let mut flushes = ram.flushes();
    let mut flushed = || {
        let before = std::mem::replace(&mut flushes, ram.flushes());
        flushes - before
    };
    client.write(0, b"x").unwrap();
    client.ask(Command::Trim, 0, 512, NONE);
    client.ask(Command::WriteZeroes, 0, 512, NONE);
    assert_eq!(flushed(), 0);
    for command in [Command::Trim, Command::WriteZeroes] {
        assert_eq!(client.ask(command, 0, 512, CommandFlags::FUA).result, Some(Ok(())));
        assert_eq!(flushed(), 1, "{command:?}");
    }
    let (cookie, mut bytes) = client.encode(Command::Write, 0, 1, CommandFlags::FUA);
    bytes.push(b'y');
    client.stream.write_all(&bytes).unwrap();
    client.reply(cookie);
    assert_eq!(flushed(), 1);
    client.write(0, b"z").unwrap();
    assert_eq!(client.ask(Command::Flush, 0, 0, NONE).result, Some(Ok(())));
    assert_eq!(flushed(), 1);
    let mut through = Client::enter(&daemon.address(), "wt");
    through.write(0, b"x").unwrap();
    assert_eq!(flushed(), 1);
    through.ask(Command::Trim, 0, 512, NONE);
    assert_eq!(flushed(), 1);
}

#[test]
fn a_flush_on_one_connection_covers_the_writes_of_another() {
    let (daemon, ram) = Daemon::with_disk(Setup::default(), LEN);
    let mut one = Client::enter(&daemon.address(), "disk");
    let mut other = Client::enter(&daemon.address(), "disk");
    assert!(one.transmission.session().flags.has(TransmissionFlags::CAN_MULTI_CONN));
    other.ask(Command::Flush, 0, 0, NONE);
    let before = ram.flushes();
    one.write(0, b"x").unwrap();
    other.ask(Command::Flush, 0, 0, NONE);
    assert_eq!(ram.flushes(), before + 1);
}

#[test]
fn zeroes_are_written_as_the_flags_say() {
    let (daemon, ram) = Daemon::with_disk(Setup::default(), LEN);
    let mut client = Client::enter(&daemon.address(), "disk");
    client.write(0, &[7; 4 * 4096]).unwrap();
    let zeroes = |client: &mut Client, flags| client.ask(Command::WriteZeroes, 4096, 4096, flags);
    let fast = CommandFlags::FAST_ZERO.with(CommandFlags::NO_HOLE);
    assert_eq!(zeroes(&mut client, fast).result, Some(Err(NbdError::NotSupported)));
    assert_eq!(ram.bytes(4096, 4096), [7; 4096]);
    assert_eq!(zeroes(&mut client, CommandFlags::NO_HOLE).result, Some(Ok(())));
    assert_eq!(ram.bytes(4096, 4096), [0; 4096]);
    let whole = [(0, 0, 4 * 4096, 0), (0, 4 * 4096, LEN - 4 * 4096, 3)];
    assert_eq!(client.ask(Command::BlockStatus, 0, LEN, NONE).extents, whole, "NO_HOLE keeps the space");
    zeroes(&mut client, NONE);
    let holed = client.ask(Command::BlockStatus, 0, 4 * 4096, NONE).extents;
    assert_eq!(holed, [(0, 0, 4096, 0), (0, 4096, 4096, 3), (0, 8192, 8192, 0)]);
}

#[test]
fn long_trims_and_zeroes_are_done_step_by_step() {
    let len = 200 << 20;
    let (daemon, ram) = Daemon::with_disk(Setup::default(), len);
    let mut client = Client::enter_as(&daemon.address(), "disk", EXTENDED).unwrap();
    client.write(len - 1, b"x").unwrap();
    let before = ram.ops();
    assert_eq!(client.ask(Command::WriteZeroes, 0, len, CommandFlags::FUA).result, Some(Ok(())));
    assert_eq!(ram.ops() - before, 4 + 1, "four steps and a flush");
    assert_eq!(client.read(len - 1, 1).unwrap(), [0]);
    assert_eq!(client.ask(Command::Trim, 0, len, NONE).result, Some(Ok(())));
}

#[test]
fn reading_ahead_reads_and_answers_nothing() {
    let len = 3 << 20;
    let (daemon, ram) = Daemon::with_disk(Setup::default(), len);
    let mut client = Client::enter(&daemon.address(), "disk");
    let before = ram.ops();
    let reply = client.ask(Command::Cache, 1, len - 1, NONE);
    assert_eq!((reply.result, reply.data.len()), (Some(Ok(())), 0));
    assert_eq!(ram.ops() - before, 3);
}

#[test]
fn status_tells_data_from_holes_and_stops_where_it_is_told() {
    let (daemon, _ram) = Daemon::with_disk(Setup::default(), LEN);
    daemon.export(ExportOptions { name: "deep".into(), allocation_depth: true, ..writable("disk") }).unwrap();
    for how in [STRUCTURED, EXTENDED] {
        let mut client = Client::enter_as(&daemon.address(), "deep", how).unwrap();
        client.write(2 * GRAIN, &[1; 8192]).unwrap();
        let both = [
            (0, 0, 8192, 3),
            (0, 8192, 8192, 0),
            (0, 16384, LEN - 16384, 3),
            (1, 0, 8192, 0),
            (1, 8192, 8192, 1),
            (1, 16384, LEN - 16384, 0),
        ];
        assert_eq!(client.ask(Command::BlockStatus, 0, LEN, NONE).extents, both);
        let one = client.ask(Command::BlockStatus, GRAIN, LEN - GRAIN, CommandFlags::REQ_ONE);
        assert_eq!(one.extents, [(0, GRAIN, GRAIN, 3), (1, GRAIN, GRAIN, 0)]);
    }
}

#[test]
fn a_status_with_more_extents_than_fit_ends_early() {
    let grains = 20_000;
    let (daemon, _ram) = Daemon::with_disk(Setup::default(), grains * GRAIN);
    let mut client = Client::enter(&daemon.address(), "disk");
    for grain in (0..grains).step_by(2) {
        client.send_write(grain * GRAIN, b"x");
        client.replies(1);
    }
    let extents = client.ask(Command::BlockStatus, 0, grains * GRAIN, NONE).extents;
    assert_eq!(extents.len(), 8192);
    let next = 8192 * GRAIN;
    let rest = client.ask(Command::BlockStatus, next, grains * GRAIN - next, NONE).extents;
    assert_eq!(rest.first(), Some(&(0, next, GRAIN, 0)));
}

#[test]
fn a_handshake_that_comes_byte_by_byte_leads_to_the_same_export() {
    let (daemon, _ram) = Daemon::with_disk(Setup::default(), LEN);
    let how = How { byte_by_byte: true, ..EXTENDED };
    let mut client = Client::enter_as(&daemon.address(), "disk", how).unwrap();
    let (cookie, mut bytes) = client.encode(Command::Write, 0, 300, NONE);
    bytes.extend(pattern(300));
    for byte in bytes {
        client.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.reply(cookie).result, Some(Ok(())));
    assert_eq!(client.read(0, 300).unwrap(), pattern(300));
}
