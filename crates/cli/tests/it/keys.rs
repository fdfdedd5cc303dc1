//! Keys pressed at the terminal of a running `serve`.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::common::serve::{Serve, drystone};
use crate::common::{Scratch, run, words};

/// Both ends of a new terminal.
fn terminal() -> (File, File) {
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let name = ptsname(&keyboard, Vec::new()).unwrap();
    let path = std::ffi::OsStr::from_bytes(name.as_bytes());
    let terminal = File::options().read(true).write(true).open(path).unwrap();
    (File::from(keyboard), terminal)
}

#[test]
fn s_takes_a_snapshot_and_q_ends() {
    let scratch = Scratch::new("keys");
    let dir = scratch.path();
    assert_eq!(run(&drystone(), &words("img create -q -f qcow2 disk.qcow2 1M"), dir).status, 0);
    let (mut keyboard, terminal) = terminal();
    let modes = || tcgetattr(&terminal).unwrap().local_modes;
    let before = modes();
    // A session of its own, in the foreground of the terminal.
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(drystone());
    let stdin = Stdio::from(terminal.try_clone().unwrap());
    let server = Serve::start_at(stdin, command, dir, &["disk.qcow2"]).unwrap();
    keyboard.write_all(b"?xs").unwrap();
    let graph = || run(&drystone(), &words("graph --control nbd.sock.ctl"), dir).stdout;
    while !graph().contains("disk.1.qcow2") {
        std::thread::yield_now();
    }
    assert!(!modes().intersects(LocalModes::ICANON | LocalModes::ECHO), "keys come one by one");
    keyboard.write_all(b"s").unwrap();
    while !graph().contains("disk.2.qcow2") {
        std::thread::yield_now();
    }
    server.connect("").write(0, b"to the newest").unwrap();
    keyboard.write_all(b"q").unwrap();
    let ended = server.wait();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("s takes a snapshot"), "{}", ended.stderr);
    assert_eq!(modes(), before, "the terminal is as it was");
    let info = run(&drystone(), &words("img info -b disk.2.qcow2"), dir).stdout;
    assert!(info.contains("backing file: disk.1.qcow2") && info.contains("image: disk.qcow2"), "{info}");
}

#[test]
fn in_the_background_it_serves_on_and_leaves_the_keys_to_others() {
    let scratch = Scratch::new("keys");
    let dir = scratch.path();
    assert_eq!(run(&drystone(), &words("img create -q -f qcow2 disk.qcow2 1M"), dir).status, 0);
    let (mut keyboard, terminal) = terminal();
    // A shell with jobs: it goes on when its first one is stopped, reads a line, and brings the job back.
    let mut command = Command::new("setsid");
    let script =
        r#""$0" "$@"; bg; echo sent away; while [ ! -e go ]; do :; done; read line; echo "line $line"; fg"#;
    command.args(["--wait", "--ctty", "sh", "-mc", script]).arg(drystone());
    let stdin = Stdio::from(terminal.try_clone().unwrap());
    let server = Serve::start_at(stdin, command, dir, &["disk.qcow2"]).unwrap();
    let graph = || run(&drystone(), &words("graph --control nbd.sock.ctl"), dir).stdout;
    let wait_for = |name: &str| {
        while !graph().contains(name) {
            std::thread::yield_now();
        }
    };
    keyboard.write_all(b"s").unwrap();
    wait_for("disk.1.qcow2");
    keyboard.write_all(b"\x1a").unwrap();
    while server.next_line().unwrap() != "sent away" {}
    keyboard.write_all(b"squid\n").unwrap();
    for _ in 0..20 {
        assert!(!graph().contains("disk.2.qcow2"), "that was not for the server");
    }
    server.connect("").write(0, b"in the background").unwrap();
    std::fs::write(dir.join("go"), b"").unwrap();
    assert_eq!(server.next_line().unwrap(), "line squid");
    keyboard.write_all(b"s").unwrap();
    wait_for("disk.2.qcow2");
    keyboard.write_all(b"q").unwrap();
    let ended = server.wait();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
}
