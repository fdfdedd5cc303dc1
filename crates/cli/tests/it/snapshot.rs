//! Live snapshots: what was acknowledged before is in the old layer, what is issued afterwards is in the new one.

use std::path::Path;
use std::process::Command;

use crate::common::serve::{Serve, drystone};
use crate::common::{Scratch, run, words};
use crate::load::{BLOCK_BYTES, Load, Span, check};

const BLOCKS: usize = 1200;

fn tool(dir: &Path, line: &str) -> String {
    let ran = run(&drystone(), &words(line), dir);
    assert_eq!(ran.status, 0, "drystone {line}: {}", ran.stderr);
    ran.stdout
}

/// Between which versions a layer is frozen.
fn spans(first: &[u64], last: &[u64]) -> Vec<Span> {
    first.iter().zip(last).map(|(&first, &last)| Span::between(first, last)).collect()
}

fn read_disk(dir: &Path, image: &str) -> Vec<u8> {
    let server = Serve::start(dir, &[image, "--read-only"]).unwrap();
    let disk = server.connect("").read_all().unwrap();
    server.stop_cleanly();
    disk
}

fn snapshots_under_writes(create: &str, format: &str, seed: u64) {
    let scratch = Scratch::new("snapshot");
    let dir = scratch.path();
    tool(dir, &format!("{create} disk {}", BLOCKS * BLOCK_BYTES));
    let server = Serve::start(dir, &["disk", "--format", format, "--threads", "3"]).unwrap();
    let load = Load::new(BLOCKS);
    let frozen = load.run(&server.socket, seed, || {
        let mut frozen = Vec::new();
        for new in ["one", "two", "three", "four"] {
            load.progress(300);
            let before = load.acknowledged();
            tool(dir, &format!("snapshot nbd.sock.ctl {new}"));
            frozen.push(spans(&before, &load.issued()));
        }
        load.progress(300);
        frozen
    });
    let last = load.acknowledged();
    check(&server.connect("").read_all().unwrap(), &spans(&last, &last), "the running disk");
    server.stop_cleanly();
    for (layer, spans) in ["disk", "one", "two", "three"].iter().zip(&frozen) {
        if *layer != "disk" || format == "qcow2" {
            assert!(tool(dir, &format!("img check {layer}")).contains("No errors"));
        }
        let versions = check(&read_disk(dir, layer), spans, layer);
        assert!(versions.iter().any(|version| *version > 0), "something was written before the snapshot");
    }
    check(&read_disk(dir, "four"), &spans(&last, &last), "the chain, opened again");
    assert!(tool(dir, "img info four").contains("backing file: three\nbacking file format: qcow2\n"));
}

#[test]
fn snapshots_of_qcow2_under_writes_lose_and_leak_nothing() {
    snapshots_under_writes("img create -q -f qcow2 -o cluster_size=4k", "qcow2", 1);
    snapshots_under_writes("img create -q -f qcow2", "qcow2", 2);
}

#[test]
fn snapshots_of_raw_under_writes_lose_and_leak_nothing() {
    snapshots_under_writes("img create -q -f raw", "raw", 3);
}

#[test]
fn the_old_layer_can_be_used_by_others_at_once() {
    let scratch = Scratch::new("snapshot");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 1M");
    let server = Serve::start(dir, &["disk"]).unwrap();
    server.connect("").write(0, b"before").unwrap();
    assert_eq!(run(&drystone(), &words("img info disk"), dir).status, 1, "somebody writes to it");
    assert!(tool(dir, "snapshot nbd.sock.ctl new").ends_with("/new\n"));
    server.connect("").write(0, b"behind").unwrap();
    tool(dir, "img info disk");
    tool(dir, "img check disk");
    assert!(read_from_other(dir).starts_with(b"before"));
    server.stop_cleanly();
}

/// A second server beside the first, on its old layer.
fn read_from_other(dir: &Path) -> Vec<u8> {
    std::fs::create_dir(dir.join("other")).unwrap();
    let other = Serve::start(&dir.join("other"), &["../disk", "--read-only"]).unwrap();
    let disk = other.connect("").read_all().unwrap();
    other.stop_cleanly();
    disk
}

#[test]
fn a_snapshot_that_fails_leaves_everything_as_it_was() {
    let scratch = Scratch::new("snapshot");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 1M");
    std::fs::write(dir.join("there"), b"precious").unwrap();
    std::os::unix::fs::symlink("new", dir.join("link")).unwrap();
    let server = Serve::start(dir, &["disk"]).unwrap();
    let graph = tool(dir, "graph --control nbd.sock.ctl");
    for (line, text) in [
        ("snapshot nbd.sock.ctl there", "there is a file of that name"),
        ("snapshot nbd.sock.ctl disk", "there is a file of that name"),
        ("snapshot nbd.sock.ctl nowhere/new", "nowhere"),
        ("snapshot nbd.sock.ctl link", "there is a file of that name"),
        ("snapshot nbd.sock.ctl .", "there is a file of that name"),
        ("snapshot nbd.sock.ctl new/", "new/'"),
        ("snapshot nbd.sock.ctl new --format raw", "raw"),
        ("snapshot nothing.ctl new", "nothing.ctl"),
    ] {
        let ran = run(&drystone(), &words(line), dir);
        assert_eq!(ran.status, 1, "{line}");
        assert!(ran.stderr.contains(text), "{line}: {}", ran.stderr);
    }
    assert_eq!(tool(dir, "graph --control nbd.sock.ctl"), graph);
    assert_eq!(std::fs::read(dir.join("there")).unwrap(), b"precious");
    assert!(!dir.join("new").exists());
    server.connect("").write(0, b"still here").unwrap();
    server.stop_cleanly();
    assert!(read_disk(dir, "disk").starts_with(b"still here"));
}

#[test]
fn a_disk_that_a_name_cannot_stand_for_gets_no_overlay() {
    let scratch = Scratch::new("snapshot");
    let dir = scratch.path();
    std::fs::write(dir.join("disk"), vec![1; 1 << 20]).unwrap();
    let window = r#"json:{"driver": "raw", "offset": 4096, "file": {"driver": "file", "filename": "disk"}}"#;
    let server = Serve::start(dir, &[window]).unwrap();
    let ran = run(&drystone(), &words("snapshot nbd.sock.ctl new"), dir);
    assert!(ran.status == 1 && ran.stderr.contains("cannot name it"), "{}", ran.stderr);
    assert!(!dir.join("new").exists());
    server.stop_cleanly();
    let server = Serve::start(dir, &[r#"json:{"driver": "file", "filename": "disk"}"#]).unwrap();
    server.connect("").write(0, b"below").unwrap();
    tool(dir, "snapshot nbd.sock.ctl new");
    server.connect("").write(0, b"above").unwrap();
    server.stop_cleanly();
    assert!(tool(dir, "img info new").contains("backing file: disk\nbacking file format: raw\n"));
    assert!(read_disk(dir, "new").starts_with(b"above"));
}

#[test]
fn without_a_free_descriptor_there_is_no_snapshot_and_no_new_file() {
    let scratch = Scratch::new("snapshot");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 1M");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 32 && exec \"$0\" \"$@\""]).arg(drystone());
    let server = Serve::start_under(command, dir, &["disk", "--threads", "1"]).unwrap();
    let mut client = server.connect("");
    let failed = (0..40).find(|number| {
        // By the socket of NBD clients, which is as good.
        let ran = run(&drystone(), &words(&format!("snapshot nbd.sock new{number}")), dir);
        client.write(0, &[number + 1; 512]).unwrap();
        ran.status != 0
    });
    let failed = failed.expect("each snapshot takes a descriptor");
    assert!(!dir.join(format!("new{failed}")).exists(), "what was half made is gone");
    assert_eq!(client.read(0, 512).unwrap(), [failed + 1; 512]);
    drop(client);
    server.stop_cleanly();
    let top = format!("new{}", failed - 1);
    assert!(read_disk(dir, &top).starts_with(&[failed + 1; 512]));
    assert!(tool(dir, &format!("img check {top}")).contains("No errors"));
}
