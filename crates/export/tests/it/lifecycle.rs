//! Exports and connections that come and go.

use drystone_base::Kind;
use drystone_core::control::Task;
use drystone_export::nbd::{ExportOptions, Removal};
use drystone_nbd::{Command, CommandFlags, NbdError};

use crate::client::{Client, SIMPLE, connect, is_cut};
use crate::daemon::{Daemon, Setup, on_both_engines, writable};
use crate::disk::Ram;

const LEN: u64 = 1 << 20;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_hundred_exports_live_side_by_side() {
    let daemon = Daemon::start(Setup::default());
    for number in 0..100_u8 {
        let name = format!("disk-{number}");
        daemon.add_disk(&name, LEN + u64::from(number));
        daemon.export(writable(&name)).unwrap();
    }
    for number in (0..100_u8).rev() {
        let mut client = Client::enter(&daemon.address(), &format!("disk-{number}"));
        assert_eq!(client.transmission.session().len_bytes, LEN + u64::from(number));
        client.write(0, &[number]).unwrap();
    }
    for number in 0..100_u8 {
        let mut client = Client::enter(&daemon.address(), &format!("disk-{number}"));
        assert_eq!(client.read(0, 1).unwrap(), [number]);
    }
    assert_eq!(daemon.server().exports().len(), 100);
}

#[test]
fn reconnecting_leaves_nothing_behind() {
    on_both_engines(|setup| {
        let (daemon, _ram) = Daemon::with_disk(setup, LEN);
        let mut files = 0;
        for round in 0..300 {
            let mut client = Client::enter(&daemon.address(), "disk");
            client.write(0, b"x").unwrap();
            match round % 3 {
                0 => drop(client.send(Command::Disconnect, 0, 0)),
                1 => drop(client.send(Command::Read, 0, 4096)),
                _ => {}
            }
            drop(client);
            if round == 50 {
                files = open_files();
            }
        }
        while daemon.server().connections().0 > 0 {
            std::thread::yield_now();
        }
        // Other tests of this process open and close files meanwhile.
        assert!(open_files() < files + 150, "{files} open files became {}", open_files());
        assert_eq!(daemon.server().connections().1, 300);
    });
}

#[test]
fn many_connections_work_at_once() {
    on_both_engines(|setup| {
        let (daemon, _ram) = Daemon::with_disk(setup, LEN);
        let mut clients: Vec<Client> = (0..80).map(|_| Client::enter(&daemon.address(), "disk")).collect();
        for (number, client) in (0_u64..).zip(&mut clients) {
            client.write(number * 512, &[u8::try_from(number).unwrap(); 512]).unwrap();
        }
        for (number, client) in (0_u64..).zip(clients.iter_mut().rev()) {
            assert_eq!(client.read(number * 512, 512).unwrap(), [u8::try_from(number).unwrap(); 512]);
        }
        assert_eq!(daemon.server().exports()[0].1.connections, 80);
    });
}

#[test]
fn requests_in_flight_end_although_their_client_has_gone() {
    on_both_engines(|setup| {
        let (daemon, ram) = Daemon::with_disk(setup, LEN);
        let mut client = Client::enter(&daemon.address(), "disk");
        ram.hold();
        for slot in 0..20 {
            client.send_write(slot * 512, &[5; 512]);
        }
        while ram.held() < 20 {
            std::thread::yield_now();
        }
        drop(client);
        ram.release();
        while daemon.server().connections().0 > 0 {
            std::thread::yield_now();
        }
        assert_eq!(ram.bytes(0, 20 * 512), [5; 20 * 512]);
    });
}

#[test]
fn a_goodbye_waits_for_what_runs() {
    let (daemon, ram) = Daemon::with_disk(Setup::default(), LEN);
    let mut client = Client::enter(&daemon.address(), "disk");
    ram.hold();
    let read = client.send(Command::Read, 0, 512);
    client.send(Command::Disconnect, 0, 0);
    while ram.held() < 1 {
        std::thread::yield_now();
    }
    ram.release();
    assert_eq!(client.reply(read).result, Some(Ok(())));
    assert!(is_cut(&mut *client.stream));
}

#[test]
fn a_removed_export_is_gone_when_the_removal_returns() {
    on_both_engines(|setup| {
        let (daemon, ram) = Daemon::with_disk(setup, LEN);
        let mut client = Client::enter(&daemon.address(), "disk");
        client.write(0, b"x").unwrap();
        let refused = daemon.unexport("disk", Removal::Safe).unwrap_err();
        assert_eq!(refused.kind(), Kind::InUse);
        client.write(1, b"y").unwrap();
        let before = ram.flushes();
        daemon.unexport("disk", Removal::Hard).unwrap();
        assert_eq!(ram.flushes(), before + 1, "the disk was flushed");
        assert!(is_cut(&mut *client.stream));
        assert!(Client::enter_as(&daemon.address(), "disk", SIMPLE).is_none());
        assert!(daemon.call(async |task: &mut Task<'_>| task.gs().with(|graph| graph.roots().is_empty())));
        assert_eq!(daemon.unexport("disk", Removal::Hard).unwrap_err().kind(), Kind::NotFound);
        daemon.export(writable("disk")).unwrap();
        assert_eq!(Client::enter(&daemon.address(), "disk").read(0, 2).unwrap(), b"xy");
    });
}

#[test]
fn a_removal_answers_what_runs_and_waits_for_it() {
    let (daemon, ram) = Daemon::with_disk(Setup::default(), LEN);
    let mut client = Client::enter(&daemon.address(), "disk");
    ram.hold();
    let running = client.send_write(0, b"x");
    while ram.held() < 1 {
        std::thread::yield_now();
    }
    let (server, (sender, removed)) = (daemon.server().clone(), std::sync::mpsc::channel());
    daemon.control().spawn(async move |task: &mut Task<'_>| {
        sender.send(server.remove_export(task, "disk", Removal::Hard).await).unwrap();
    });
    // The export is off the offer at once.
    while Client::enter_as(&daemon.address(), "disk", SIMPLE).is_some() {}
    assert!(removed.try_recv().is_err(), "a request is running");
    ram.release();
    removed.recv().unwrap().unwrap();
    assert_eq!(client.reply(running).result, Some(Ok(())));
    assert!(is_cut(&mut *client.stream));
    assert_eq!(ram.bytes(0, 1), b"x");
}

#[test]
fn a_removal_does_not_wait_for_a_client_that_stalls() {
    on_both_engines(|setup| {
        let (daemon, _ram) = Daemon::with_disk(setup, LEN);
        let mut deaf = Client::enter(&daemon.address(), "disk");
        deaf.send_reads(100, LEN);
        let mut half = Client::enter(&daemon.address(), "disk");
        let (_, bytes) = half.encode(Command::Write, 0, LEN, CommandFlags::NONE);
        half.stream.write_all(&bytes).unwrap();
        daemon.unexport("disk", Removal::Hard).unwrap();
        assert!(is_cut(&mut *half.stream));
    });
}

#[test]
fn a_removal_during_a_drain_refuses_what_waits_at_the_gate() {
    let (daemon, _ram) = Daemon::with_disk(Setup::default(), LEN);
    let mut client = Client::enter(&daemon.address(), "disk");
    client.write(0, b"x").unwrap();
    let (server, (sender, closed)) = (daemon.server().clone(), std::sync::mpsc::channel());
    let (cut, is_cut_off) = std::sync::mpsc::channel::<()>();
    let held = std::thread::spawn({
        let control = daemon.control().clone();
        move || {
            crate::daemon::wait(control.call(async move |task: &mut Task<'_>| {
                let node = task.gs().find("disk").unwrap();
                let quiet = task.drain(&[node]).await;
                sender.send(()).unwrap();
                // The drain lasts until the client was cut off.
                while is_cut_off.try_recv().is_err() {
                    let until_ns = task.local().now_ns() + 1_000_000;
                    task.sleep_until(until_ns).await;
                }
                drop(quiet);
            }))
        }
    });
    closed.recv().unwrap();
    let queued = client.send(Command::Read, 0, 1);
    let removing = std::thread::spawn({
        let control = daemon.control().clone();
        move || {
            crate::daemon::wait(control.call(async move |task: &mut Task<'_>| {
                server.remove_export(task, "disk", Removal::Hard).await
            }))
        }
    });
    // Cut off while the drain lasts: without an answer if the removal came before the request was read.
    match client.try_reply(queued) {
        Some(reply) => assert_eq!(reply.result, Some(Err(NbdError::Shutdown))),
        None => eprintln!("the removal was faster than the request"),
    }
    cut.send(()).unwrap();
    held.join().unwrap().unwrap();
    removing.join().unwrap().unwrap().unwrap();
}

#[test]
fn a_stopped_server_leaves_neither_connections_nor_a_socket() {
    on_both_engines(|setup| {
        let (mut daemon, ram) = Daemon::with_disk(setup, LEN);
        let (mut idle, mut silent) = (Client::enter(&daemon.address(), "disk"), connect(&daemon.address()));
        idle.write(0, b"x").unwrap();
        let path = daemon.socket();
        let flushes = ram.flushes();
        daemon.stop().unwrap();
        assert!(is_cut(&mut *idle.stream) && is_cut(&mut *silent));
        assert_eq!(ram.flushes(), flushes + 1);
        assert!(!path.exists());
        assert!(daemon.call(async |task: &mut Task<'_>| task.gs().with(|graph| graph.roots().is_empty())));
    });
}

#[test]
fn a_stop_with_all_places_taken_does_not_wait_for_one() {
    let options = drystone_export::nbd::ServerOptions { connections_max: 1, ..Default::default() };
    let (mut daemon, _ram) = Daemon::with_disk(Setup { options, ..Setup::default() }, LEN);
    let mut inside = Client::enter(&daemon.address(), "disk");
    let mut waiting = connect(&daemon.address());
    daemon.stop().unwrap();
    assert!(is_cut(&mut *inside.stream) && is_cut(&mut *waiting));
}

#[test]
fn users_that_exclude_each_other_are_both_named() {
    use drystone_core::control::{Plan, RootSpec};
    use drystone_core::graph::permission::Grant;

    let daemon = Daemon::start(Setup::default());
    daemon.add_disk("disk", LEN);
    daemon.call(async |task: &mut Task<'_>| {
        let node = task.gs().find("disk").unwrap();
        let mut plan = Plan::new();
        let spec = RootSpec { name: "backup job".into(), grant: Grant::READER, stays: false };
        let _backend = plan.attach_root::<drystone_core::backend::ReadOnly>(task.gs(), node, spec);
        task.apply(plan).await.unwrap();
    });
    let text = daemon.export(writable("disk")).unwrap_err().report();
    assert!(text.contains("NBD export 'disk'") && text.contains("backup job"), "{text}");
    daemon.export(ExportOptions { writable: false, ..writable("disk") }).unwrap();
}

#[test]
fn names_are_unique_and_nodes_have_to_exist() {
    let (daemon, _ram) = Daemon::with_disk(Setup::default(), LEN);
    assert_eq!(daemon.export(writable("disk")).unwrap_err().kind(), Kind::AlreadyExists);
    assert_eq!(daemon.export(writable("nothing")).unwrap_err().kind(), Kind::NotFound);
    let long = ExportOptions { name: "n".repeat(5000), ..writable("disk") };
    assert_eq!(daemon.export(long).unwrap_err().kind(), Kind::InvalidInput);
    assert_eq!(daemon.call(async |task: &mut Task<'_>| task.gs().with(|graph| graph.roots().len())), 1);
}

#[test]
fn connections_are_spread_over_the_threads() {
    // Seen from outside only by all of them working while one thread's disk stands still: see `stall`.
    let (daemon, _ram) = Daemon::with_disk(Setup { threads: 4, is_tcp: true, ..Setup::default() }, LEN);
    let mut clients: Vec<Client> = (0..8).map(|_| Client::enter(&daemon.address(), "disk")).collect();
    for client in &mut clients {
        client.write(0, b"x").unwrap();
    }
}

#[test]
fn an_export_is_served_on_the_threads_that_it_names() {
    on_both_engines(|setup| {
        let daemon = Daemon::start(Setup { threads: 4, ..setup });
        let (one, two) = (daemon.add_disk("one", LEN), daemon.add_disk("two", LEN));
        let on = |disk, threads: &[usize]| {
            let threads = threads.iter().map(|index| daemon.threads()[*index].clone()).collect();
            daemon.export(ExportOptions { threads, ..writable(disk) }).unwrap();
        };
        on("one", &[3]);
        on("two", &[1, 2]);
        let mut clients = Vec::new();
        for disk in ["one", "two", "one", "two", "one", "two"] {
            let mut client = Client::enter(&daemon.address(), disk);
            client.write(0, disk.as_bytes()).unwrap();
            assert_eq!(client.read(0, 3).unwrap(), disk.as_bytes());
            clients.push(client);
        }
        let indexes = |ram: &Ram| ram.threads().iter().map(|shard| shard.index()).collect::<Vec<_>>();
        assert_eq!((indexes(&one), indexes(&two)), (vec![3], vec![1, 2]));
    });
}

#[test]
fn a_server_that_has_stopped_offers_nothing_more() {
    let mut daemon = Daemon::start(Setup::default());
    daemon.add_disk("disk", LEN);
    let server = std::sync::Arc::clone(daemon.server());
    daemon.stop().unwrap();
    let error = daemon.call(async move |task: &mut Task<'_>| server.add_export(task, writable("disk")).await);
    assert_eq!(error.unwrap_err().kind(), Kind::Cancelled);
}
