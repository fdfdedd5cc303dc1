//! Getting in, or not.

use drystone_export::nbd::{ExportOptions, ServerOptions};

use crate::client::{Client, SIMPLE, connect, is_cut};
use crate::daemon::{Daemon, Setup, on_both_engines, writable};

#[test]
fn garbage_closes_its_own_connection_and_nothing_else() {
    on_both_engines(|setup| {
        let (daemon, _ram) = Daemon::with_disk(setup, 1 << 20);
        let mut good = Client::enter(&daemon.address(), "disk");
        for garbage in [&[0_u8; 4096][..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[0xff; 40]] {
            let mut stream = connect(&daemon.address());
            stream.write_all(garbage).unwrap();
            assert!(is_cut(&mut *stream));
            let mut bad = Client::enter(&daemon.address(), "disk");
            bad.stream.write_all(garbage).unwrap();
            assert!(is_cut(&mut *bad.stream));
            good.write(0, b"still here").unwrap();
        }
    });
}

#[test]
fn a_client_that_never_gets_to_the_point_is_cut_off() {
    on_both_engines(|setup| {
        let options = ServerOptions { handshake_ns: 50_000_000, ..ServerOptions::default() };
        let (daemon, _ram) = Daemon::with_disk(Setup { options, ..setup }, 1 << 20);
        let mut inside = Client::enter(&daemon.address(), "disk");
        let mut silent = connect(&daemon.address());
        let mut slow = connect(&daemon.address());
        slow.write_all(&[0, 0, 0, 1, b'I']).unwrap();
        assert!(is_cut(&mut *silent) && is_cut(&mut *slow));
        // The limit is for handshakes: whoever is inside may be idle.
        inside.write(0, b"x").unwrap();
    });
}

#[test]
fn a_client_that_asks_and_never_listens_is_cut_off() {
    let options = ServerOptions { handshake_ns: 200_000_000, ..ServerOptions::default() };
    let daemon = Daemon::start(Setup { options, ..Setup::default() });
    daemon.add_disk("disk", 1 << 20);
    let description = "d".repeat(4000);
    for number in 0..100 {
        let (name, description) = (format!("export-{number}"), description.clone());
        daemon.export(ExportOptions { name, description, ..writable("disk") }).unwrap();
    }
    let mut stream = connect(&daemon.address());
    let list = [&0x4948_4156_454f_5054_u64.to_be_bytes()[..], &[0, 0, 0, 3], &[0; 4]].concat();
    stream.write_all(&[0, 0, 0, 1]).unwrap();
    let mut asked = 0;
    while asked < 1_000_000 && stream.write_all(&list).is_ok() {
        asked += 1;
    }
    assert!(asked < 1_000_000, "the server neither stops reading nor hangs up");
}

#[test]
fn the_empty_name_asks_for_the_default_export() {
    let daemon = Daemon::start(Setup::default());
    daemon.add_disk("one", 1 << 20);
    daemon.add_disk("two", 2 << 20);
    daemon.export(writable("one")).unwrap();
    assert!(Client::enter_as(&daemon.address(), "", SIMPLE).is_none(), "there is no default yet");
    daemon.export(ExportOptions { is_default: true, ..writable("two") }).unwrap();
    let client = Client::enter(&daemon.address(), "");
    assert_eq!(client.transmission.session().len_bytes, 2 << 20);
}

#[test]
fn an_export_has_no_more_connections_than_it_says() {
    let daemon = Daemon::start(Setup::default());
    daemon.add_disk("disk", 1 << 20);
    daemon.export(ExportOptions { connections_max: 2, ..writable("disk") }).unwrap();
    let first = Client::enter(&daemon.address(), "disk");
    let _second = Client::enter(&daemon.address(), "disk");
    assert!(Client::enter_as(&daemon.address(), "disk", SIMPLE).is_none());
    drop(first);
    // The server notices that the first has gone a moment later.
    while Client::enter_as(&daemon.address(), "disk", SIMPLE).is_none() {}
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let options = ServerOptions { connections_max: 2, ..ServerOptions::default() };
    let (daemon, _ram) = Daemon::with_disk(Setup { options, ..Setup::default() }, 1 << 20);
    let first = Client::enter(&daemon.address(), "disk");
    let second = Client::enter(&daemon.address(), "disk");
    let address = daemon.address();
    let third = std::thread::spawn(move || Client::enter(&address, "disk").read(0, 1));
    let mut second = second;
    second.write(0, b"x").unwrap();
    assert_eq!(daemon.server().connections(), (2, 2));
    drop(first);
    assert_eq!(third.join().unwrap().unwrap(), b"x");
}

#[test]
fn a_disk_keeps_the_length_that_clients_were_told_while_it_is_on_offer() {
    use drystone_core::control::{Plan, RootSpec, Task};
    use drystone_core::graph::permission::{Grant, Perm};

    let (daemon, _ram) = Daemon::with_disk(Setup::default(), 1 << 20);
    let error = daemon.call(async |task: &mut Task<'_>| {
        let node = task.gs().find("disk").unwrap();
        let perm = Perm::CONSISTENT_READ.with(Perm::WRITE).with(Perm::RESIZE);
        let spec =
            RootSpec { name: "resizer".into(), grant: Grant { perm, shared: Perm::ALL }, stays: false };
        let mut plan = Plan::new();
        plan.attach_root::<drystone_core::backend::ReadWrite>(task.gs(), node, spec);
        task.apply(plan).await.unwrap_err()
    });
    assert_eq!(error.kind(), drystone_base::Kind::InUse);
    assert!(error.report().contains("NBD export 'disk'"), "{}", error.report());
    assert_eq!(Client::enter(&daemon.address(), "disk").transmission.session().len_bytes, 1 << 20);
}

#[test]
fn clients_that_come_later_are_told_the_length_of_what_was_put_on_the_disk_meanwhile() {
    use drystone_core::control::{Plan, Task};

    let (daemon, _ram) = Daemon::with_disk(Setup::default(), 1 << 20);
    let mut early = Client::enter(&daemon.address(), "disk");
    let _longer = daemon.add_disk("longer", 2 << 20);
    daemon.call(async |task: &mut Task<'_>| {
        // As a snapshot does with an overlay that is longer than the image below it.
        let (disk, longer) = (task.gs().find("disk").unwrap(), task.gs().find("longer").unwrap());
        let mut plan = Plan::new();
        plan.replace(disk, longer);
        task.apply(plan).await.unwrap();
    });
    let mut late = Client::enter(&daemon.address(), "disk");
    assert_eq!(late.transmission.session().len_bytes, 2 << 20);
    late.write((2 << 20) - 1, b"x").unwrap();
    assert_eq!(early.read(0, 1).unwrap(), b"\0", "who was there before goes on as it was");
}
