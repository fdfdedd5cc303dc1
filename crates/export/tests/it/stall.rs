//! Clients that stall: they block nobody, no drain included.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drystone_core::control::Task;
use drystone_export::nbd::{Limits, ServerOptions};
use drystone_nbd::{Command, CommandFlags};

use crate::client::Client;
use crate::daemon::{Daemon, Setup, on_both_engines};

const LEN: u64 = 4 << 20;

fn drain(daemon: &Daemon) {
    daemon.call(async |task: &mut Task<'_>| {
        let node = task.gs().find("disk").unwrap();
        drop(task.drain(&[node]).await);
    });
}

#[test]
fn a_client_that_sends_half_a_request_keeps_no_drain_waiting() {
    on_both_engines(|setup| {
        let (daemon, ram) = Daemon::with_disk(setup, LEN);
        for half in [3, 27, 28, 29, 28 + 50_000, 28 + (1 << 20) - 1] {
            let mut client = Client::enter(&daemon.address(), "disk");
            let (first, mut bytes) = client.encode(Command::Read, 0, 512, CommandFlags::NONE);
            let (second, mut write) = client.encode(Command::Write, 0, 1 << 20, CommandFlags::NONE);
            write.extend(vec![9; 1 << 20]);
            bytes.extend_from_slice(&write[..half]);
            client.stream.write_all(&bytes).unwrap();
            // The server has the half, too, when it has answered what came before.
            client.reply(first);
            drain(&daemon);
            assert_eq!(ram.bytes(0, 1), [0], "nothing of the half was written");
            let mut other = Client::enter(&daemon.address(), "disk");
            other.read(0, 512).unwrap();
            client.stream.write_all(&write[half..]).unwrap();
            assert_eq!(client.reply(second).result, Some(Ok(())));
            other.write(0, &[0]).unwrap();
        }
    });
}

#[test]
fn a_client_that_takes_no_replies_keeps_no_drain_waiting() {
    on_both_engines(|setup| {
        let (daemon, ram) = Daemon::with_disk(setup, LEN);
        let mut stalled = Client::enter(&daemon.address(), "disk");
        let cookies = stalled.send_reads(400, 1 << 20);
        let mut other = Client::enter(&daemon.address(), "disk");
        drain(&daemon);
        other.write(0, b"x").unwrap();
        drain(&daemon);
        assert!(ram.ops() < 200, "the server has read what it cannot send: {}", ram.ops());
        let replies = stalled.replies(cookies.len());
        assert!(replies.iter().all(|reply| reply.data.len() == 1 << 20));
    });
}

#[test]
fn a_client_that_only_sends_is_stopped_by_the_bound_on_requests() {
    let limits = Limits { requests: 8, bytes: 1 << 20 };
    let options = ServerOptions { limits, ..ServerOptions::default() };
    let (daemon, ram) = Daemon::with_disk(Setup { options, ..Setup::default() }, LEN);
    ram.hold();
    let mut client = Client::enter(&daemon.address(), "disk");
    client.send_reads(100, 4096);
    while ram.held() < 8 {
        std::thread::yield_now();
    }
    // Another client's request is held after anything more of the first would have been.
    let mut other = Client::enter(&daemon.address(), "disk");
    other.send(Command::Read, 0, 1);
    while ram.held() < 9 {
        std::thread::yield_now();
    }
    assert_eq!(ram.held(), 9);
    ram.release();
    assert_eq!(client.replies(100).len(), 100);
    other.replies(1);
}

#[test]
fn requests_that_exceed_the_bound_on_bytes_run_one_by_one() {
    let limits = Limits { requests: 8, bytes: 1 << 20 };
    let options = ServerOptions { limits, ..ServerOptions::default() };
    let (daemon, _ram) = Daemon::with_disk(Setup { options, ..Setup::default() }, LEN);
    let mut client = Client::enter(&daemon.address(), "disk");
    let data = vec![3; 2 << 20];
    client.write(0, &data).unwrap();
    for _ in 0..4 {
        client.send(Command::Read, 0, 2 << 20);
    }
    assert!(client.replies(4).iter().all(|reply| reply.data == data));
}

#[test]
fn a_client_that_counts_its_requests_sees_none_between_the_begin_and_the_end_of_a_drain() {
    on_both_engines(|setup| {
        let (daemon, ram) = Daemon::with_disk(setup, LEN);
        let is_over = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..3_u64)
            .map(|number| {
                let (address, is_over) = (daemon.address(), Arc::clone(&is_over));
                std::thread::spawn(move || {
                    let mut client = Client::enter(&address, "disk");
                    let mut count = 0_u64;
                    while !is_over.load(Ordering::Relaxed) {
                        let cookies: Vec<u64> = (0..16)
                            .map(|slot| client.send_write((number * 16 + slot) * 512, &[1; 512]))
                            .collect();
                        count += client.replies(cookies.len()).len() as u64;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..50 {
            let (watched, before) = (ram.clone(), ram.ops());
            let inside = daemon.call(async move |task: &mut Task<'_>| {
                let node = task.gs().find("disk").unwrap();
                let quiet = task.drain(&[node]).await;
                let begin = watched.ops();
                let until_ns = task.local().now_ns() + 2_000_000;
                task.sleep_until(until_ns).await;
                let end = watched.ops();
                drop(quiet);
                end - begin
            });
            assert_eq!(inside, 0);
            // Everybody goes on afterwards.
            while ram.ops() < before + 3 {
                std::thread::yield_now();
            }
        }
        is_over.store(true, Ordering::Relaxed);
        let counted: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert_eq!(counted, ram.ops(), "each reply is one request");
    });
}

#[test]
fn a_drain_waits_for_the_disk_and_not_for_queued_requests() {
    let (daemon, ram) = Daemon::with_disk(Setup::default(), LEN);
    let mut client = Client::enter(&daemon.address(), "disk");
    ram.hold();
    let inside = client.send(Command::Read, 0, 512);
    while ram.held() < 1 {
        std::thread::yield_now();
    }
    let (sender, drained) = std::sync::mpsc::channel();
    let watched = ram.clone();
    daemon.control().spawn(async move |task: &mut Task<'_>| {
        let node = task.gs().find("disk").unwrap();
        let quiet = task.drain(&[node]).await;
        sender.send(watched.ops()).unwrap();
        drop(quiet);
    });
    daemon.call(async |task: &mut Task<'_>| {
        // The drain has begun when the gate is closed.
        while !task.gs().with(|graph| graph.roots().iter().any(|root| root.closed)) {
            let until_ns = task.local().now_ns() + 1_000_000;
            task.sleep_until(until_ns).await;
        }
    });
    let queued: Vec<u64> = (0..20).map(|_| client.send(Command::Read, 512, 512)).collect();
    assert!(drained.try_recv().is_err(), "a request is inside");
    ram.release();
    assert_eq!(drained.recv().unwrap(), 1, "the one that was inside has ended");
    let cookies: Vec<u64> = client.replies(21).iter().map(|reply| reply.cookie).collect();
    assert_eq!(cookies.first(), Some(&inside));
    assert_eq!(cookies.len(), 1 + queued.len());
}
