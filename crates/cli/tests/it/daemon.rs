//! `drystone daemon` as a process: standard input and output, the background, signals, starts that fail.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::common::Scratch;
use crate::common::serve::{PATIENCE, drystone};

const HELLO: &str = r#"{"execute": "qmp_capabilities"}"#;

fn daemon(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(drystone());
    command.arg("daemon").args(args).current_dir(dir).stdin(Stdio::null());
    command
}

/// Exit status, standard output and error.
fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = daemon(dir, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn image(dir: &Path) {
    std::fs::write(dir.join("a.raw"), vec![0; 1 << 20]).unwrap();
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A client at a socket, which has negotiated.
fn connect(path: &Path) -> (UnixStream, BufReader<UnixStream>) {
    let mut input = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
        }
    };
    let mut output = BufReader::new(input.try_clone().unwrap());
    writeln!(input, "{HELLO}").unwrap();
    assert!(line(&mut output).contains("QMP"));
    assert!(line(&mut output).contains("return"));
    (input, output)
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line
}

fn signal(process: u32, name: &str) {
    assert!(Command::new("kill").arg(name).arg(process.to_string()).status().unwrap().success());
}

#[test]
fn help_and_version_are_printed_whatever_else_is_said() {
    let scratch = Scratch::new("daemon");
    let (status, stdout, stderr) = run(scratch.path(), &["--blockdev", "nonsense", "--help"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("Usage: drystone daemon [options]\n"), "{stdout}");
    let (status, stdout, _) = run(scratch.path(), &["-V"]);
    assert_eq!(status, 0);
    assert!(stdout.starts_with("drystone daemon version 10.0.2 (drystone "), "{stdout}");
    let (status, stdout, _) = run(scratch.path(), &["--object", "iothread,help"]);
    assert_eq!((status, stdout.lines().count()), (0, 7));
}

#[test]
fn called_by_the_name_of_the_c_daemon_it_is_that() {
    let scratch = Scratch::new("daemon");
    let name = scratch.path().join("qemu-storage-daemon");
    std::os::unix::fs::symlink(drystone(), &name).unwrap();
    let output = Command::new(&name).arg("--frob").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "qemu-storage-daemon: unrecognized option '--frob'\n"
    );
}

#[test]
fn commands_come_from_standard_input_and_go_to_standard_output() {
    let scratch = Scratch::new("daemon");
    let args = ["--chardev", "stdio,id=m", "--monitor", "m"];
    let mut child =
        daemon(scratch.path(), &args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    write!(input, "{HELLO}{{'execute': 'query-block', 'id': 1}}{{'execute': 'quit'}}").unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[1..], [r#"{"return": {}}"#, r#"{"return": [], "id": 1}"#, r#"{"return": {}}"#]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(input);
}

#[test]
fn a_start_that_fails_says_which_option_it_was_and_leaves_nothing() {
    let scratch = Scratch::new("daemon");
    image(scratch.path());
    let good = [
        "--blockdev",
        "driver=file,node-name=f,filename=a.raw",
        "--nbd-server",
        "addr.type=unix,addr.path=nbd.sock",
        "--export",
        "type=nbd,id=e,node-name=f",
        "--chardev",
        "socket,id=c,path=qmp.sock,server=on,wait=off",
        "--monitor",
        "c",
    ];
    for bad in [
        ["--blockdev", "driver=file,node-name=g,filename=none"],
        ["--blockdev", "driver=raw,node-name=f,file=f"],
        ["--export", "type=nbd,id=e,node-name=f"],
        ["--object", "iothread,id=1"],
        ["--monitor", "c"],
        ["--chardev", "socket,id=d,path=none/s,server=on,wait=off"],
        ["--pidfile", "none/pid"],
    ] {
        for args in [
            [&good[..], &bad[..], &["--pidfile", "pid"]].concat(),
            [&["--daemonize"], &good[..], &bad[..]].concat(),
        ] {
            let args: Vec<&str> = if bad[0] == "--pidfile" { [&good[..], &bad[..]].concat() } else { args };
            let (status, stdout, stderr) = run(scratch.path(), &args);
            assert_eq!((status, stdout.as_str()), (1, ""), "{bad:?}");
            assert!(stderr.starts_with("drystone daemon: "), "{stderr}");
            assert!(
                bad[0] == "--pidfile" || stderr.contains(&format!("{} {}: ", bad[0], bad[1])),
                "{stderr}"
            );
            assert_eq!(files(scratch.path()), ["a.raw"], "{bad:?}");
        }
    }
}

#[test]
fn in_the_background_it_is_found_by_its_number() {
    let scratch = Scratch::new("daemon");
    image(scratch.path());
    let args = [
        "--daemonize",
        "--pidfile",
        "pid",
        "--blockdev",
        "driver=file,node-name=f,filename=a.raw",
        "--chardev",
        "socket,id=c,path=qmp.sock,server=on,wait=off",
        "--monitor",
        "c,pretty=off",
    ];
    let (status, ..) = run(scratch.path(), &args);
    assert_eq!(status, 0);
    let pid = std::fs::read_to_string(scratch.path().join("pid")).unwrap();
    let process: u32 = pid.strip_suffix('\n').unwrap().parse().unwrap();
    let folder = std::fs::read_link(format!("/proc/{process}/cwd")).unwrap();
    assert_eq!(folder, Path::new("/"));
    // A second one with the same file of a number does not start.
    let (status, _, stderr) = run(scratch.path(), &["--pidfile", "pid"]);
    assert_eq!(status, 1, "{stderr}");
    let (_input, mut output) = connect(&scratch.path().join("qmp.sock"));
    signal(process, "-TERM");
    assert_eq!(line(&mut output), "", "the connection ends");
    let until = Instant::now() + PATIENCE;
    while files(scratch.path()) != ["a.raw"] {
        assert!(Instant::now() < until, "it leaves {:?}", files(scratch.path()));
        std::thread::yield_now();
    }
}

fn started(dir: &Path, args: &[&str]) -> Child {
    daemon(dir, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn every_signal_to_end_ends_it_well() {
    for name in ["-INT", "-TERM", "-HUP"] {
        let scratch = Scratch::new("daemon");
        let args = ["--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "c"];
        let mut child = started(scratch.path(), &args);
        drop(connect(&scratch.path().join("qmp.sock")));
        signal(child.id(), name);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{name}");
        assert!(files(scratch.path()).is_empty());
    }
}

#[test]
fn a_start_that_waits_for_a_client_goes_on_with_it_or_ends_by_a_signal() {
    let scratch = Scratch::new("daemon");
    let args = ["--chardev", "socket,id=c,path=qmp.sock,server=on", "--monitor", "c", "--pidfile", "pid"];
    let mut child = started(scratch.path(), &args);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    assert!(line(&mut stderr).contains("waiting for a connection"));
    assert_eq!(files(scratch.path()), ["qmp.sock"]);
    let (mut input, mut output) = connect(&scratch.path().join("qmp.sock"));
    writeln!(input, "{{'execute': 'quit'}}").unwrap();
    assert!(line(&mut output).contains("return"));
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let mut child = started(scratch.path(), &args);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    assert!(line(&mut stderr).contains("waiting for a connection"));
    signal(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(files(scratch.path()).is_empty());
}

#[test]
fn a_monitor_can_come_to_its_client() {
    let scratch = Scratch::new("daemon");
    let path = scratch.path().join("client.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let args = ["--chardev", "socket,id=c,path=client.sock,reconnect-ms=10", "--monitor", "c"];
    let mut child = started(scratch.path(), &args);
    for _ in 0..3 {
        let (stream, _) = listener.accept().unwrap();
        assert!(line(&mut BufReader::new(stream)).contains("QMP"));
    }
    let (mut stream, _) = listener.accept().unwrap();
    writeln!(stream, "{HELLO}{{'execute': 'quit'}}").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn who_finds_it_stuck_is_told_what_waits() {
    let scratch = Scratch::new("daemon");
    let args = ["--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "c"];
    let mut child = started(scratch.path(), &args);
    let begin = Instant::now();
    while UnixStream::connect(scratch.path().join("qmp.sock")).is_err() {
        assert!(begin.elapsed() < PATIENCE);
    }
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    for _ in 0..2 {
        signal(child.id(), "-USR1");
        assert!(line(&mut stderr).contains("these wait:"), "it goes on after that");
        // Whoever asks is one of those who wait: for the answer.
        assert!(line(&mut stderr).contains("the control thread"));
        assert_eq!(line(&mut stderr), "\n");
    }
    signal(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
