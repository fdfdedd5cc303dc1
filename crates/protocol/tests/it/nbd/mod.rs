//! The driver `nbd` against servers that behave, that go, and that lie.

mod peer;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use drystone_base::{GuestOffset, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{NewNode, Opening, Plan, Task};
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::lane::Lane;
use drystone_nbd::{BlockSizes, Command, NbdError};
use drystone_protocol::nbd::{NbdClient, NbdOptions};
use drystone_sys::Network;

use crate::host::{
    Folder, WRITER, attach, detach, len, on_both_engines, range, read, remove, status, write, zero,
};
use peer::{Act, Peer, export};

const MINUTE_NS: u64 = 60_000_000_000;

async fn open_node(task: &mut Task<'_>, options: NbdOptions) -> Result<Backend<ReadWrite>> {
    let mut lane = Lane::new(task.local_ref().clone());
    let (driver, facts) = NbdClient::open(&mut lane, &Network::os(), options).await?;
    let mut opening = Opening::new(task);
    let (name, driver) = (Some("disk".to_owned()), Box::new(driver));
    let new = NewNode { name, driver, facts, children: Vec::new(), owned: true, force_share: false };
    let node = opening.add(new)?;
    let mut plan = Plan::new();
    plan.insert(opening);
    task.apply(plan).await?;
    attach(task, node, WRITER).await
}

fn patient(socket: &Path) -> NbdOptions {
    NbdOptions { reconnect_delay_ns: MINUTE_NS, ..NbdOptions::unix(socket, "") }
}

async fn close(task: &mut Task<'_>, user: &Backend<ReadWrite>) {
    detach(task, user).await;
    let node = task.gs().find("disk").unwrap();
    remove(task, node).await;
}

/// The error of a read, which has to fail.
async fn read_error(task: &mut Task<'_>, from: &Backend<ReadWrite>, at: u64) -> drystone_base::Error {
    let buf = drystone_buf::Buf::zeroed(512);
    task.enter(from).await.read(GuestOffset::new(at), buf).await.0.unwrap_err()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + seed) % 255 + 1).unwrap()).collect()
}

#[test]
fn requests_keep_within_the_limits_of_the_server() {
    on_both_engines(async |task| {
        for (min, max) in [(1, 32 << 20), (512, 4096), (4096, 65536)] {
            let folder = Folder::new();
            let block = BlockSizes { min_bytes: min, preferred_bytes: 4096, max_bytes: max };
            let peer = Peer::start(&folder.path(""), export(1 << 20, block), |_, _| Act::Serve);
            let user = open_node(task, NbdOptions::unix(&peer.socket, "")).await.unwrap();
            assert_eq!(len(task, &user).await, 1 << 20);
            let mut wanted = vec![0; 1 << 20];
            for (at, count) in [(0, 1 << 20), (5, 100_000), (511, 2), (123_456, 65_537), ((1 << 20) - 1, 1)] {
                let bytes = pattern(count, at);
                wanted[at..at + count].copy_from_slice(&bytes);
                write(task, &user, at as u64, &bytes).await.unwrap();
            }
            assert!(*peer.disk.lock().unwrap() == wanted, "min {min}, max {max}");
            assert!(read(task, &user, 0, 1 << 20).await == wanted);
            assert!(read(task, &user, 77, 9999).await == wanted[77..77 + 9999]);
            zero(task, &user, range(8192, 200_000), true).await.unwrap();
            wanted[8192..208_192].fill(0);
            assert!(read(task, &user, 0, 1 << 20).await == wanted);
            let found = status(task, &user, range(8192, 1 << 19)).await;
            assert_eq!((found.len, found.zero, found.data), (200_000, true, false));
            for (command, at, len) in peer.seen.lock().unwrap().iter() {
                let is_transfer = matches!(command, Command::Read | Command::Write);
                assert!((at | len) % u64::from(min) == 0, "{command:?} {at} {len}");
                assert!(!is_transfer || *len <= u64::from(max), "{command:?} {at} {len}");
            }
            close(task, &user).await;
        }
    });
}

#[test]
fn an_export_that_ends_within_a_sector_is_zeroes_from_there() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let peer = Peer::start(&folder.path(""), export(1000, BlockSizes::DEFAULT), |_, _| Act::Serve);
        let user = open_node(task, NbdOptions::unix(&peer.socket, "")).await.unwrap();
        assert_eq!(len(task, &user).await, 1024);
        write(task, &user, 0, &pattern(1000, 0)).await.unwrap();
        let wanted = [pattern(1000, 0), vec![0; 24]].concat();
        assert_eq!(read(task, &user, 0, 1024).await, wanted);
        assert_eq!(read(task, &user, 1000, 24).await, [0; 24]);
        write(task, &user, 512, &wanted[512..]).await.unwrap();
        assert_eq!(write(task, &user, 999, b"xy").await.unwrap_err().kind(), Kind::NoSpace);
        zero(task, &user, range(900, 124), false).await.unwrap();
        assert!(status(task, &user, range(1000, 24)).await.zero);
        task.enter(&user).await.discard(range(1000, 24)).await.unwrap();
        close(task, &user).await;
    });
}

#[test]
fn a_request_survives_a_server_that_hangs_up() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let decide = |number, _: &_| if number % 3 == 2 { Act::Hang } else { Act::Serve };
        let peer = Peer::start(&folder.path(""), export(1 << 20, BlockSizes::DEFAULT), decide);
        let user = open_node(task, patient(&peer.socket)).await.unwrap();
        for turn in 0..6 {
            let bytes = pattern(10_000, turn);
            write(task, &user, turn as u64 * 10_000, &bytes).await.unwrap();
            assert_eq!(read(task, &user, turn as u64 * 10_000, 10_000).await, bytes);
            task.enter(&user).await.flush().await.unwrap();
            assert!(status(task, &user, range(turn as u64 * 10_000, 5)).await.data);
        }
        close(task, &user).await;
    });
}

#[test]
fn without_patience_a_request_fails_and_a_later_one_does_not() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let decide = |number, _: &_| if number == 0 { Act::Hang } else { Act::Serve };
        let peer = Peer::start(&folder.path(""), export(1 << 20, BlockSizes::DEFAULT), decide);
        let user = open_node(task, NbdOptions::unix(&peer.socket, "")).await.unwrap();
        let error = read_error(task, &user, 0).await;
        assert_eq!(error.kind(), Kind::Disconnected, "{}", error.report());
        assert!(error.report().contains("closed the connection"), "{}", error.report());
        while write(task, &user, 0, b"again").await.is_err() {
            task.sleep_until(task.local().now_ns() + 1_000_000).await;
        }
        assert_eq!(read(task, &user, 0, 5).await, b"again");
        close(task, &user).await;
    });
}

#[test]
fn what_the_server_says_reaches_the_user() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let decide = |number, request: &drystone_nbd::Request| match (number, request.command) {
            (0, _) => Act::Fail(NbdError::Io, "the third sector is gone"),
            (_, Command::Write) => Act::Fail(NbdError::NoSpace, "full\u{7}"),
            (_, Command::WriteZeroes) => Act::Fail(NbdError::NotSupported, ""),
            _ => Act::Serve,
        };
        let peer = Peer::start(&folder.path(""), export(1 << 20, BlockSizes::DEFAULT), decide);
        let user = open_node(task, patient(&peer.socket)).await.unwrap();
        let error = read_error(task, &user, 0).await;
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.report().contains("('the third sector is gone')"), "{}", error.report());
        let error = write(task, &user, 0, b"x").await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.report().contains("('full')"), "{}", error.report());
        let fast = ZeroFlags { fast_only: true, ..ZeroFlags::default() };
        let error = task.enter(&user).await.write_zeroes(range(0, 512), fast).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let durable = WriteFlags { fua: true, ..WriteFlags::default() };
        let buf = drystone_buf::Buf::zeroed(512);
        assert!(task.enter(&user).await.write(GuestOffset::new(0), buf, durable).await.0.is_err());
        close(task, &user).await;
    });
}

#[test]
fn a_server_that_breaks_the_protocol_fails_its_requests_and_nothing_else() {
    let chunk = |kind: u16, len: u32| {
        let magic = 0x6e8a_278c_u32.to_be_bytes();
        let rest = [
            &kind.to_be_bytes()[..],
            &1_u64.to_be_bytes(),
            &0_u64.to_be_bytes(),
            &u64::from(len).to_be_bytes(),
        ];
        [&magic[..], &[0, 1], &rest.concat(), &[0; 64]].concat()
    };
    let lies =
        vec![b"nonsense that is no reply at all".to_vec(), chunk(1, u32::MAX), chunk(0, 5), chunk(77, 0)];
    on_both_engines(async move |task| {
        for lie in lies.clone() {
            let folder = Folder::new();
            let decide = move |number, _: &_| if number == 0 { Act::Say(lie.clone()) } else { Act::Serve };
            let peer = Peer::start(&folder.path(""), export(1 << 20, BlockSizes::DEFAULT), decide);
            let user = open_node(task, patient(&peer.socket)).await.unwrap();
            let error = read_error(task, &user, 0).await;
            assert_eq!(error.kind(), Kind::Disconnected, "{}", error.report());
            assert!(error.report().contains("broke the protocol"), "{}", error.report());
            assert_eq!(read(task, &user, 512, 5).await, [0; 5], "a new connection does");
            close(task, &user).await;
        }
    });
}

#[test]
fn whoever_speaks_something_else_is_not_entered() {
    on_both_engines(async |task| {
        let endless = [b"NBDMAGICIHAVEOPT\0\x03".to_vec(), vec![0xff; 1 << 20]].concat();
        let greetings: [(&[u8], &str); 5] = [
            (b"", "closed the connection"),
            (b"SSH-2.0-OpenSSH_9.6 and so on", "does not speak NBD"),
            (b"NBDMAGIC", "in the middle"),
            (b"NBDMAGICIHAVEOPT\0\x03", "closed the connection"),
            (&endless, "something else than a reply"),
        ];
        for (greeting, wanted) in greetings {
            let folder = Folder::new();
            let socket = folder.path("liar");
            let listener = UnixListener::bind(&socket).unwrap();
            let greeting = greeting.to_vec();
            let liar = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // Whoever does not believe it is gone before it is told.
                let _ = stream.write_all(&greeting);
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let error = open_node(task, NbdOptions::unix(&socket, "")).await.unwrap_err();
            let report = error.report();
            assert!(
                report.contains(wanted) || report.contains("closed the connection"),
                "{wanted}: {report}"
            );
            liar.join().unwrap();
        }
    });
}

#[test]
fn opening_waits_for_a_server_as_long_as_it_was_told() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let socket = folder.path("peer.sock");
        let error = open_node(task, NbdOptions::unix(&socket, "")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{}", error.report());
        let brief = NbdOptions { open_timeout_ns: 1_000_000, ..NbdOptions::unix(&socket, "") };
        assert_eq!(open_node(task, brief).await.unwrap_err().kind(), Kind::NotFound);
        let place = folder.path("");
        let late = thread::spawn(move || {
            Peer::start(&place, export(1 << 20, BlockSizes::DEFAULT), |_, _| Act::Serve)
        });
        let options = NbdOptions { open_timeout_ns: MINUTE_NS, ..NbdOptions::unix(&socket, "") };
        let user = open_node(task, options).await.unwrap();
        late.join().unwrap();
        close(task, &user).await;
        let options = NbdOptions::unix(&socket, "nobody");
        let error = open_node(task, options).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{}", error.report());
        let options = NbdOptions { context: Some("none".into()), ..NbdOptions::unix(&socket, "") };
        let error = open_node(task, options).await.unwrap_err();
        assert_eq!(error.option(), Some("x-dirty-bitmap"), "{}", error.report());
    });
}

#[test]
fn an_export_that_comes_back_different_is_not_the_same() {
    on_both_engines(async |task| {
        let folder = Folder::new();
        let decide = |_, _: &_| Act::Hang;
        let peer = Peer::start(&folder.path(""), export(1 << 20, BlockSizes::DEFAULT), decide);
        let brief = NbdOptions { reconnect_delay_ns: 100_000_000, ..NbdOptions::unix(&peer.socket, "") };
        let user = open_node(task, brief).await.unwrap();
        std::fs::remove_file(&peer.socket).unwrap();
        let other = Peer::start(&folder.path(""), export(2 << 20, BlockSizes::DEFAULT), |_, _| Act::Serve);
        let error = read_error(task, &user, 0).await;
        assert!(error.report().contains("the NBD export has changed its length"), "{}", error.report());
        assert!(other.seen.lock().unwrap().is_empty());
        close(task, &user).await;
    });
}
