//! `drystone serve`: what clients see, what it refuses, how it ends.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::common::nbd::Client;
use crate::common::serve::{Ended, Serve, drystone};
use crate::common::{Scratch, run};

const MIB: usize = 1 << 20;

/// Runs `drystone` with these words; its standard output. It must succeed.
fn tool(dir: &Path, line: &str) -> String {
    let ran = run(&drystone(), &crate::common::words(line), dir);
    assert_eq!(ran.status, 0, "drystone {line}: {}", ran.stderr);
    ran.stdout
}

fn refused(dir: &Path, args: &[&str]) -> Ended {
    match Serve::start(dir, args) {
        Ok(server) => panic!("{args:?} are served at {:?}", server.uris),
        Err(ended) => {
            assert_eq!(ended.status, 1, "{}", ended.stderr);
            assert!(ended.stderr.starts_with("drystone: "), "{}", ended.stderr);
            ended
        }
    }
}

#[test]
fn what_is_written_and_flushed_is_there_the_next_time() {
    for create in [
        "img create -f qcow2 disk 8M",
        "img create -f raw disk 8M",
        "img create -f qcow2 -o compat=v2,cluster_size=512 disk 8M",
    ] {
        let scratch = Scratch::new("serve");
        let dir = scratch.path();
        tool(dir, create);
        let format = if create.contains("raw") { "raw" } else { "qcow2" };
        let args = ["disk", "--format", format];
        let server = Serve::start(dir, &args).unwrap();
        let mut client = server.connect("");
        assert_eq!(client.len, 8 << 20);
        client.write(3, b"hello").unwrap();
        client.write_through(5 << 20, &vec![7; MIB]).unwrap();
        client.trim(6 << 20, MIB).unwrap();
        client.flush().unwrap();
        server.stop_cleanly();
        assert!(client.read(0, 1).is_err(), "the connection has ended");

        let server = Serve::start(dir, &args).unwrap();
        let mut client = server.connect("disk");
        assert_eq!(client.read(0, 10).unwrap(), b"\0\0\0hello\0\0");
        assert_eq!(client.read(5 << 20, MIB).unwrap(), vec![7; MIB], "{create}");
        server.stop_cleanly();
    }
}

#[test]
fn what_was_written_is_there_without_a_flush_if_the_server_ends_cleanly() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 8M");
    for signal in ["INT", "TERM", "HUP"] {
        let server = Serve::start(dir, &["disk"]).unwrap();
        let mut client = server.connect("");
        client.write(MIB as u64, signal.as_bytes()).unwrap();
        server.signal(signal);
        let ended = server.wait();
        assert_eq!(ended.status, 0, "{signal}: {}", ended.stderr);
        let server = Serve::start(dir, &["disk"]).unwrap();
        assert_eq!(server.connect("").read(MIB as u64, signal.len()).unwrap(), signal.as_bytes());
        server.stop_cleanly();
        tool(dir, "img check disk");
    }
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 8M");
    let server = Serve::start(dir, &["disk"]).unwrap();
    // Both wait for it when it goes on.
    for signal in ["STOP", "TERM", "INT", "CONT"] {
        server.signal(signal);
    }
    let ended = server.wait();
    assert!([130, 143].contains(&ended.status), "{}: {}", ended.status, ended.stderr);
    assert!(ended.stderr.contains("at once"), "{}", ended.stderr);
}

#[test]
fn a_chain_shows_the_layers_below_and_writes_to_the_top_only() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f raw base 4M");
    File::options().write(true).open(dir.join("base")).unwrap().write_all_at(&vec![1; MIB], 0).unwrap();
    let base = fs::read(dir.join("base")).unwrap();
    tool(dir, "img create -q -f qcow2 -b base -F raw middle");
    tool(dir, "img create -q -f qcow2 -b middle -F qcow2 top 5M");
    let server = Serve::start(dir, &["top"]).unwrap();
    let mut client = server.connect("");
    assert_eq!(client.len, 5 << 20);
    client.write(1000, &[2; 1000]).unwrap();
    let mut expected = base.clone();
    expected.resize(5 << 20, 0);
    expected[1000..2000].fill(2);
    assert!(client.read_all().unwrap() == expected, "bytes differ");
    let graph = tool(dir, "graph --control nbd.sock.ctl");
    assert!(graph.starts_with("NBD export 'top'  (wants consistent-read, write;"), "{graph}");
    assert_eq!(graph.matches("backing (cow): ").count(), 2, "{graph}");
    server.stop_cleanly();
    assert!(fs::read(dir.join("base")).unwrap() == base, "the base was written to");
    assert!(tool(dir, "img check middle").contains("No errors"));
}

#[test]
fn what_only_looks_raw_is_read_only_and_says_why() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    fs::write(dir.join("disk"), vec![5; MIB]).unwrap();
    let server = Serve::start(dir, &["disk"]).unwrap();
    let mut client = server.connect("");
    assert_eq!(client.flags & 2, 2, "the export says that it is read-only");
    assert_eq!(client.read(0, 512).unwrap(), [5; 512]);
    let error = client.write(0, &[0; 512]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let ended = server.stop();
    assert_eq!(ended.status, 0);
    assert!(ended.stderr.contains("looks like raw; give format=raw"), "{}", ended.stderr);
}

#[test]
fn an_overlay_keeps_the_image_as_it_is_and_goes_at_the_end() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    fs::write(dir.join("disk"), vec![5; MIB]).unwrap();
    let mut permissions = fs::metadata(dir.join("disk")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(dir.join("disk"), permissions).unwrap();
    fs::create_dir(dir.join("tmp")).unwrap();
    let mut command = Command::new(drystone());
    command.env("TMPDIR", dir.join("tmp"));
    let server = Serve::start_under(command, dir, &["disk", "--overlay", "--format", "raw"]).unwrap();
    let mut client = server.connect("");
    client.write(0, &[6; 1000]).unwrap();
    assert_eq!(client.read(0, 1001).unwrap(), [vec![6; 1000], vec![5]].concat());
    assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 1);
    let ran = run(&drystone(), &crate::common::words("snapshot nbd.sock.ctl new"), dir);
    assert!(ran.status == 1 && ran.stderr.contains("temporary overlay"), "{}", ran.stderr);
    server.stop_cleanly();
    assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0, "nothing is left behind");
    assert!(fs::read(dir.join("disk")).unwrap() == vec![5; MIB]);
}

#[test]
fn an_overlay_with_a_name_stays_and_can_be_served_again() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 4M");
    let before = fs::read(dir.join("disk")).unwrap();
    let server = Serve::start(dir, &["disk", "--overlay=over"]).unwrap();
    server.connect("").write(MIB as u64, b"kept").unwrap();
    server.stop_cleanly();
    assert!(fs::read(dir.join("disk")).unwrap() == before);
    let error = refused(dir, &["disk", "--overlay=over"]).stderr;
    assert!(error.contains("there is a file of that name"), "{error}");
    let server = Serve::start(dir, &["over"]).unwrap();
    assert_eq!(server.connect("").read(MIB as u64, 4).unwrap(), b"kept");
    server.stop_cleanly();
    assert!(tool(dir, "img info over").contains("backing file: disk\n"), "named by its name alone");
}

#[test]
fn several_images_have_an_export_each_and_the_first_is_the_default() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    fs::create_dir(dir.join("sub")).unwrap();
    for (image, size) in [("a", "1M"), ("sub/a", "2M"), ("c", "3M")] {
        tool(dir, &format!("img create -q -f qcow2 {image} {size}"));
    }
    let server = Serve::start(dir, &["a", "sub/a", "c", "--export-name", "first", "--threads", "2"]).unwrap();
    let uris: Vec<String> = (1..3).map(|_| server.next_line().unwrap()).collect();
    let names = ["first", "a", "c"];
    assert!(server.uris[0].starts_with("nbd+unix:///first?socket="), "{:?}", server.uris);
    assert!(uris[0].starts_with("nbd+unix:///a?") && uris[1].starts_with("nbd+unix:///c?"), "{uris:?}");
    for (name, mib) in names.into_iter().zip(1..) {
        assert_eq!(server.connect(name).len, mib << 20, "{name}");
    }
    assert_eq!(server.connect("").len, 1 << 20);
    assert!(Client::connect(&server.socket, "nothing").is_err());
    let ran = run(&drystone(), &crate::common::words("snapshot nbd.sock.ctl new"), dir);
    assert!(ran.stderr.contains("say which with 'export'"), "{}", ran.stderr);
    tool(dir, "snapshot nbd.sock.ctl new --export c");
    server.connect("c").write(0, b"x").unwrap();
    server.stop_cleanly();
    assert!(tool(dir, "img info new").contains("backing file: c\n"));
}

#[test]
fn tcp_clients_are_served_at_the_port_that_is_printed() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 1M");
    let server = Serve::start(dir, &["disk", "--control", "ctl", "--listen", "127.0.0.1:0"]).unwrap();
    let port = server.uris[0].strip_prefix("nbd://127.0.0.1:").unwrap().trim_end_matches('/');
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    let mut greeting = [0; 8];
    std::io::Read::read_exact(&mut stream, &mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGIC");
    assert!(tool(dir, "graph --control ctl").contains("qcow2, 1 MiB"));
    server.stop_cleanly();
}

#[test]
fn bitmaps_are_kept_up_to_date() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    crate::golden::stored_image("bitmaps", &dir.join("disk"));
    let before = fs::read(dir.join("disk")).unwrap();
    let listed = tool(dir, "img info disk");
    let server = Serve::start(dir, &["disk"]).unwrap();
    server.connect("").read_all().unwrap();
    server.stop_cleanly();
    assert!(fs::read(dir.join("disk")).unwrap() == before, "looking changes nothing");
    let server = Serve::start(dir, &["disk"]).unwrap();
    server.connect("").write(0, b"x").unwrap();
    assert!(tool(dir, "img info -U disk").contains("in-use"));
    server.stop_cleanly();
    let bitmaps =
        |text: &str| text[text.find("bitmaps:").unwrap()..text.find("refcount bits").unwrap()].to_owned();
    assert_eq!(bitmaps(&tool(dir, "img info disk")), bitmaps(&listed));
    tool(dir, "img check -q disk");
}

#[test]
fn what_cannot_be_served_is_refused_with_its_name() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    let error = refused(dir, &["nothere"]).stderr;
    assert!(error.contains("'nothere'") && error.contains("No such file"), "{error}");
    for name in ["aes", "luks"] {
        crate::golden::stored_image(name, &dir.join(name));
        let error = refused(dir, &[name]).stderr;
        assert!(error.contains(name) && error.contains("not supported"), "{error}");
    }
    tool(dir, "img create -q -f qcow2 -u -b gone -F raw lost 1M");
    let error = refused(dir, &["lost"]).stderr;
    assert!(error.contains("'lost': cannot open its backing file: 'gone'"), "{error}");
    tool(dir, "img create -q -f qcow2 -u -b two -F qcow2 one 1M");
    tool(dir, "img create -q -f qcow2 -u -b one -F qcow2 two 1M");
    assert!(refused(dir, &["one"]).stderr.contains("loop"));
    assert!(refused(dir, &["one", "--format", "vmdk"]).stderr.contains("vmdk"));
    let error = refused(dir, &["one", "--listen", "nowhere"]).stderr;
    assert!(error.contains("nowhere") || error.contains("loop"), "{error}");
}

#[test]
fn an_image_in_use_names_who_has_it() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 1M");
    let server = Serve::start(dir, &["disk"]).unwrap();
    fs::create_dir(dir.join("other")).unwrap();
    let error = refused(&dir.join("other"), &["../disk"]).stderr;
    assert!(error.contains(&format!("process {}", server.pid())), "{error}");
    let error = refused(dir, &["other"]).stderr;
    assert!(error.contains("other"), "{error}");
    server.stop_cleanly();
    Serve::start(dir, &["disk"]).unwrap().stop_cleanly();
}

#[test]
fn a_socket_in_use_is_left_alone() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 a 1M");
    tool(dir, "img create -q -f qcow2 b 1M");
    let server = Serve::start(dir, &["a"]).unwrap();
    let error = refused(dir, &["b"]).stderr;
    assert!(error.contains("nbd.sock"), "{error}");
    assert_eq!(server.connect("").len, 1 << 20, "the first one goes on");
    server.stop_cleanly();
    assert!(!dir.join("nbd.sock").exists() && !dir.join("nbd.sock.ctl").exists(), "sockets are removed");
}

#[test]
fn backing_files_can_be_kept_in_their_place() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    fs::create_dir(dir.join("images")).unwrap();
    tool(dir, "img create -q -f qcow2 images/base 1M");
    tool(dir, "img create -q -f qcow2 outside 1M");
    tool(dir, "img create -q -f qcow2 -b base -F qcow2 images/good");
    tool(dir, "img create -q -f qcow2 -b ../outside -F qcow2 images/bad");
    std::os::unix::fs::symlink("../outside", dir.join("images/link")).unwrap();
    tool(dir, "img create -q -f qcow2 -b link -F qcow2 images/sly");
    Serve::start(dir, &["images/good", "--backing-below", "images"]).unwrap().stop_cleanly();
    for image in ["images/bad", "images/sly"] {
        assert!(refused(dir, &[image, "--backing-below", "images"]).stderr.contains("not below"));
    }
    assert!(refused(dir, &["images/good", "--no-backing"]).stderr.contains("may not name other files"));
    Serve::start(dir, &["outside", "--no-backing"]).unwrap().stop_cleanly();
}

#[test]
fn mistakes_on_the_command_line_end_with_two() {
    let scratch = Scratch::new("serve");
    for line in [
        "",
        "serve",
        "serve a --threads 0",
        "serve a --socket b --listen c",
        "bogus",
        "snapshot",
        "graph",
        "serve a --discard b",
    ] {
        let ran = run(&drystone(), &crate::common::words(line), scratch.path());
        assert_eq!(ran.status, 2, "{line}: {}", ran.stderr);
        assert!(!ran.stderr.is_empty(), "{line}");
    }
    for line in [
        "--help",
        "serve --help",
        "snapshot --help",
        "graph --help",
        "img --help",
        "img info --help",
        "--version",
    ] {
        let ran = run(&drystone(), &crate::common::words(line), scratch.path());
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{line}");
        assert!(!ran.stdout.is_empty());
    }
}

#[test]
fn a_hang_up_that_is_to_be_ignored_is() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 1M");
    let mut nohup = Command::new("nohup");
    nohup.arg(drystone());
    let server = Serve::start_under(nohup, dir, &["disk"]).unwrap();
    server.signal("HUP");
    server.connect("").write(0, b"still here").unwrap();
    server.stop_cleanly();
}

#[test]
fn it_goes_on_when_nobody_reads_what_it_prints() {
    let scratch = Scratch::new("serve");
    let dir = scratch.path();
    tool(dir, "img create -q -f qcow2 disk 1M");
    let mut command = Command::new("sh");
    // Standard error is closed before the server writes to it.
    command.args(["-c", "exec 2>&-; exec \"$0\" \"$@\""]).arg(drystone());
    let server = Serve::start_under(command, dir, &["disk"]).unwrap();
    server.connect("").write(0, b"unseen").unwrap();
    tool(dir, "snapshot nbd.sock.ctl new");
    server.stop_cleanly();
    tool(dir, "img check new");
}
