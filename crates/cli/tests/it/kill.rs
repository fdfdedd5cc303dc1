//! The server killed under write load: images stay consistent, and what was flushed is there.

use crate::common::serve::{Serve, drystone};
use crate::common::{Scratch, run, words};
use crate::load::{BLOCK_BYTES, Load, check};

const BLOCKS: usize = 1200;
const ROUNDS: u64 = 4;

fn survive(create: &[&str], image: &str, seed: u64) {
    let scratch = Scratch::new("kill");
    let dir = scratch.path();
    for line in create {
        let ran = run(&drystone(), &words(line), dir);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
    let is_raw = create.last().is_some_and(|line| line.contains("-f raw"));
    let args = if is_raw { &[image, "--format", "raw"][..] } else { &[image][..] };
    let load = Load::new(BLOCKS);
    for round in 0..ROUNDS {
        let server = Serve::start(dir, args).unwrap();
        let socket = server.socket.clone();
        load.run(&socket, seed * 100 + round, || {
            load.progress(200 + 37 * round);
            server.kill();
        });
        if !is_raw {
            let ran = run(&drystone(), &words(&format!("img check {image}")), dir);
            assert!([0, 3].contains(&ran.status), "round {round}: {}{}", ran.stdout, ran.stderr);
        }
        let server = Serve::start(dir, args).unwrap();
        let disk = server.connect("").read_all().unwrap();
        load.adopt(&check(&disk, &load.after_crash(), &format!("{create:?}, round {round}")));
        mend(&server, &load);
        server.stop_cleanly();
    }
}

/// Writes blocks whose last write was cut off, so that all bytes are known again.
fn mend(server: &Serve, load: &Load) {
    let mut client = server.connect("");
    load.rewrite(&mut client);
    client.flush().unwrap();
}

fn len() -> usize {
    BLOCKS * BLOCK_BYTES
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
