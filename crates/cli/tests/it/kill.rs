//! The server killed under write load: images stay consistent, and what was flushed is there.

use std::path::Path;
use std::thread;

use crate::common::serve::{Serve, drystone};
use crate::common::{Ran, Scratch, run, words};
use crate::load::{BLOCK_BYTES, Load, Safe};

const BLOCKS: usize = 600;
const ROUNDS: u64 = 3;
/// Moments of a snapshot at which the server is killed.
const MOMENTS: u64 = 8;

fn tool(dir: &Path, line: &str) -> Ran {
    run(&drystone(), &words(line), dir)
}

fn len() -> usize {
    BLOCKS * BLOCK_BYTES
}

fn survive(create: &[&str], image: &str, seed: u64) {
    let scratch = Scratch::new("kill");
    let dir = scratch.path();
    for line in create {
        let ran = tool(dir, line);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
    let is_raw = create.last().is_some_and(|line| line.contains("-f raw"));
    let args = if is_raw { &[image, "--format", "raw"][..] } else { &[image][..] };
    let load = Load::new(BLOCKS);
    for round in 0..ROUNDS {
        let server = Serve::start(dir, args).unwrap();
        let socket = server.socket.clone();
        load.run(&socket, seed * 100 + round, || {
            load.progress(150 + 37 * round);
            server.kill();
        });
        if !is_raw {
            assert_consistent(dir, image);
        }
        let server = Serve::start(dir, args).unwrap();
        let safe = if is_raw { Safe::Acknowledged } else { Safe::Flushed };
        load.recover(&mut server.connect(""), safe, &format!("{create:?}, round {round}"));
        server.stop_cleanly();
    }
}

/// Space may be wasted, nothing else.
fn assert_consistent(dir: &Path, image: &str) {
    let ran = tool(dir, &format!("img check {image}"));
    assert!([0, 3].contains(&ran.status), "{image}: {}{}", ran.stdout, ran.stderr);
}

#[test]
fn kill_small_clusters() {
    survive(&[&format!("img create -q -f qcow2 -o cluster_size=4k disk {}", len())], "disk", 1);
}

#[test]
fn kill_usual_clusters() {
    survive(&[&format!("img create -q -f qcow2 disk {}", len())], "disk", 2);
}

#[test]
fn kill_narrow_refcounts_and_version_2() {
    let create = format!("img create -q -f qcow2 -o cluster_size=512,refcount_bits=1 disk {}", len());
    survive(&[&create], "disk", 3);
    let create = format!("img create -q -f qcow2 -o cluster_size=1k,compat=v2 disk {}", len());
    survive(&[&create], "disk", 4);
}

#[test]
fn kill_an_overlay() {
    let base = format!("img create -q -f raw base {}", len());
    survive(&[&base, "img create -q -f qcow2 -b base -F raw disk"], "disk", 5);
}

#[test]
fn kill_raw() {
    survive(&[&format!("img create -q -f raw disk {}", len())], "disk", 6);
}

/// Asks for a snapshot and kills the server after so many more writes, or when it has answered. Whether it has, and how
/// many blocks were written meanwhile.
fn kill_at(server: Serve, load: &Load, new: &str, writes: Option<u64>) -> (bool, u64) {
    let dir = server.dir.clone();
    let command = words(&format!("snapshot nbd.sock.ctl {new}"));
    let before = load.written();
    let asked = thread::spawn(move || run(&drystone(), &command, &dir));
    let ran = match writes {
        Some(writes) => {
            load.progress(writes);
            server.kill();
            asked.join().unwrap()
        }
        None => {
            let ran = asked.join().unwrap();
            server.kill();
            ran
        }
    };
    (ran.status == 0, load.written() - before)
}

#[test]
fn kill_during_a_snapshot() {
    let scratch = Scratch::new("kill");
    let dir = scratch.path();
    let create = format!("img create -q -f qcow2 -o cluster_size=4k layer {}", len());
    assert_eq!(tool(dir, &create).status, 0);
    let load = Load::new(BLOCKS);
    let mut top = "layer".to_owned();
    // The first one is left to its end, which tells where its moments are.
    let mut writes_whole = None;
    for moment in 0..=MOMENTS {
        let server = Serve::start(dir, &[&top]).unwrap();
        let (socket, new) = (server.socket.clone(), format!("layer{moment}"));
        let (is_answered, written) = load.run(&socket, 900 + moment, || {
            load.progress(100);
            kill_at(server, &load, &new, writes_whole.map(|whole: u64| whole * (moment - 1) / (MOMENTS - 2)))
        });
        assert!(is_answered || writes_whole.is_some(), "nobody disturbed it");
        writes_whole.get_or_insert(written);
        // A file that is whole is the newest layer, whether writes went there already or not.
        let is_whole = [0, 3].contains(&tool(dir, &format!("img check {new}")).status);
        assert!(is_whole || !is_answered, "{new} was answered, so it is there");
        assert_consistent(dir, &top);
        if is_whole {
            top = new;
        }
        let server = Serve::start(dir, &[&top]).unwrap();
        load.recover(&mut server.connect(""), Safe::Flushed, &format!("moment {moment}, {top}"));
        server.stop_cleanly();
    }
}
