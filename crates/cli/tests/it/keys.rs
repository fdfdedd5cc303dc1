//! Keys pressed at the terminal of a running `serve`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::common::serve::{PATIENCE, Serve, drystone};
use crate::common::{Scratch, run, words};

/// Both ends of a new terminal. It is not ours: a process that leads a session without one would get it by opening it,
/// so that the server could not have it, and we were hung up with it.
fn terminal() -> (File, File) {
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let name = ptsname(&keyboard, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    (File::from(keyboard), File::from(terminal))
}

/// The graph of the server in `dir`. One that is stopped does not answer, and is an error.
fn graph(dir: &Path) -> String {
    let mut args = vec![PATIENCE.as_secs().to_string(), drystone().into_os_string().into_string().unwrap()];
    args.extend(words("graph --control nbd.sock.ctl"));
    let ran = run(Path::new("timeout"), &args, dir);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    ran.stdout
}

fn wait_for(name: &str, dir: &Path) {
    let start = Instant::now();
    while !graph(dir).contains(name) {
        assert!(start.elapsed() < PATIENCE, "there is no {name}");
    }
}

/// A shell's job, which nobody else ends when the shell was killed.
struct Job(String);

impl Drop for Job {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new("kill").args(["-KILL", &self.0]).status();
        }
    }
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
    wait_for("disk.1.qcow2", dir);
    assert!(!modes().intersects(LocalModes::ICANON | LocalModes::ECHO), "keys come one by one");
    keyboard.write_all(b"s").unwrap();
    wait_for("disk.2.qcow2", dir);
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
    let script = r#""$0" "$@"; jobs -p; bg; echo sent away; until [ -e go ]; do :; done
        read line; echo "line $line"; fg"#;
    command.args(["--wait", "--ctty", "sh", "-mc", script]).arg(drystone());
    let stdin = Stdio::from(terminal.try_clone().unwrap());
    let server = Serve::start_at(stdin, command, dir, &["disk.qcow2"]).unwrap();
    keyboard.write_all(b"s").unwrap();
    wait_for("disk.1.qcow2", dir);
    keyboard.write_all(b"\x1a").unwrap();
    let _job = Job(server.next_line().unwrap());
    while server.next_line().unwrap() != "sent away" {}
    keyboard.write_all(b"squid\n").unwrap();
    for _ in 0..20 {
        assert!(!graph(dir).contains("disk.2.qcow2"), "that was not for the server");
    }
    server.connect("").write(0, b"in the background").unwrap();
    std::fs::write(dir.join("go"), b"").unwrap();
    assert_eq!(server.next_line().unwrap(), "line squid");
    keyboard.write_all(b"s").unwrap();
    wait_for("disk.2.qcow2", dir);
    keyboard.write_all(b"q").unwrap();
    let ended = server.wait();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
}
