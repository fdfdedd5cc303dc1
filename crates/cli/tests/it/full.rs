//! File systems that fill up under the daemon, and get space again.
//!
//! ```text
//!   scratch/small ── mounted in a namespace of its own ──┬── images
//!         ▲                                              └── filler: the space that comes back
//!         └── daemon, tools: inside of the namespace; sockets and clients: outside
//! ```
//! A client is told (`ENOSPC`) and keeps its connection; what could not be written has not happened, or in its own range
//! only; reads go on; with space again, so do writes. A job that is told to stop waits for a user. A snapshot that does
//! not fit leaves all as it was.
//!
//! Mounting takes a user namespace (`unshare` of util-linux) or root. Where there is neither, this is not run: a failure on
//! CI, a note elsewhere.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::common::Scratch;
use crate::common::daemon::{Daemon, Monitor};
use crate::common::nbd::Client;
use crate::common::serve::{PATIENCE, Serve, drystone};
use crate::load::{BLOCK_BYTES, Load, check};

const BLOCKS: usize = 4000;
const LEN_BYTES: usize = (BLOCKS * BLOCK_BYTES).next_multiple_of(4096);
/// Failures that show that a file system is full.
const FULL: u64 = 20;

/// A kind of file system, with what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tmpfs,
    /// On a loop device, which takes root.
    Ext4,
}

/// A file system that is nearly full of a filler, in a namespace that is there as long as this is.
#[derive(Debug)]
struct Small {
    holder: Child,
    has_users: bool,
    scratch: Scratch,
}

impl Small {
    /// One of `len_mib`, of which the filler takes `filler_mib`. None if this machine does not let us.
    fn mount(kind: Kind, len_mib: u32, filler_mib: u32) -> Option<Self> {
        let scratch = Scratch::new("full");
        std::fs::create_dir(scratch.path().join("small")).unwrap();
        let mount = match kind {
            Kind::Tmpfs => format!("mount -t tmpfs -o size={len_mib}m tmpfs small"),
            Kind::Ext4 => format!(
                "truncate -s {len_mib}M device && mkfs.ext4 -q -O ^has_journal device && mount -o loop device small"
            ),
        };
        let script =
            format!("{mount} && fallocate -l {filler_mib}M small/filler && echo mounted && exec cat");
        for flags in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
            let has_users = flags.len() > 1;
            let holder = Command::new("unshare")
                .args(flags)
                .args(["sh", "-c", &script])
                .current_dir(scratch.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let Ok(mut holder) = holder else { continue };
            let mut line = String::new();
            BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
            if line == "mounted\n" {
                return Some(Self { holder, has_users, scratch });
            }
            holder.wait().unwrap();
        }
        let text = format!(
            "not run: {kind:?} cannot be mounted; it takes `unshare` (util-linux) and user namespaces, or root"
        );
        assert!(std::env::var_os("CI").is_none() || kind == Kind::Ext4, "{text}");
        eprintln!("{text}");
        None
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join("small").join(name)
    }

    /// A program inside.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount"]);
        if self.has_users {
            command.args(["--user", "--preserve-credentials"]);
        }
        // A folder that was opened outside does not show what is mounted inside.
        command.args(["--", "sh", "-c", r#"cd "$0" && exec "$@""#]).arg(self.dir()).arg(program);
        command
    }

    /// Runs a shell's line inside; its output, or its complaint.
    fn shell(&self, line: &str) -> Result<String, String> {
        let output = self.command("sh").args(["-c", line]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    fn drystone(&self, line: &str) -> Result<String, String> {
        self.shell(&format!("'{}' {line}", drystone().display()))
    }

    /// Gives the filler's space to others.
    fn relieve(&self) {
        self.shell("rm small/filler").unwrap();
    }

    fn daemon(&self, nodes: &[Value]) -> Daemon {
        let mut args = vec!["--nbd-server".to_owned(), "addr.type=unix,addr.path=nbd.sock".to_owned()];
        for node in nodes {
            let name = &node["node-name"];
            let export =
                json!({"type": "nbd", "id": name, "node-name": name, "name": name, "writable": true});
            args.extend([
                "--blockdev".to_owned(),
                node.to_string(),
                "--export".to_owned(),
                export.to_string(),
            ]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Daemon::start_under(self.command(drystone()), self.dir(), &args)
    }

    fn socket(&self) -> PathBuf {
        self.dir().join("nbd.sock")
    }

    fn serve(&self, image: &str) -> Serve {
        Serve::start_under(self.command(drystone()), self.dir(), &[image, "--read-only"]).unwrap()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Whoever holds the namespace reads until then.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

fn node(format: &str, name: &str, file: &Path, backing: Option<Value>) -> Value {
    let file =
        json!({"driver": "file", "filename": file, "discard": "unmap", "node-name": format!("{name}-file")});
    let mut node = json!({"driver": format, "node-name": name, "file": file, "discard": "unmap"});
    if let Some(backing) = backing {
        node["backing"] = backing;
    }
    node
}

fn ask(monitor: &mut Monitor, name: &str, arguments: Value) -> Result<Value, String> {
    monitor.call(name, arguments).unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not happen");
        thread::yield_now();
    }
}

fn quit(daemon: &mut Daemon, monitor: &mut Monitor) {
    ask(monitor, "quit", json!({})).unwrap();
    let status = daemon.wait();
    assert!(status.success(), "{status}: {}", daemon.stderr());
}

fn fills_up_and_goes_on(kind: Kind) {
    let Some(small) = Small::mount(kind, 60, 48) else { return };
    let (base, len) = (small.dir().join("base"), LEN_BYTES);
    let loads = [(); 3].map(|()| Load::new(BLOCKS));
    small.drystone(&format!("img create -q -f qcow2 -o cluster_size=4k small/small {len}")).unwrap();
    small.drystone(&format!("img create -q -f raw small/raw {len}")).unwrap();
    small.drystone(&format!("img create -q -f raw base {len}")).unwrap();
    small.drystone(&format!("img create -q -f qcow2 -b '{}' -F raw small/over", base.display())).unwrap();
    let below = json!({"driver": "raw", "file": {"driver": "file", "filename": base}});
    let mut daemon = small.daemon(&[
        node("qcow2", "small", &small.path("small"), None),
        node("raw", "raw", &small.path("raw"), None),
        node("qcow2", "over", &small.path("over"), Some(below)),
    ]);
    let mut monitor = daemon.connect(false);
    let socket = small.socket();
    let [first, second, third] = &loads;
    first.run_on((&socket, "small"), 1, || {
        second.run_on((&socket, "raw"), 2, || {
            third.run_on((&socket, "over"), 3, || {
                let is_full = |load: &Load| load.full() >= FULL;
                until("a full disk", || loads.iter().all(|load| !load.is_well() || is_full(load)));
                let read = loads.each_ref().map(Load::read_back_so_far);
                until("a read", || {
                    loads
                        .iter()
                        .zip(read)
                        .all(|(load, read)| !load.is_well() || load.read_back_so_far() > read + FULL)
                });
                ask(&mut monitor, "query-named-block-nodes", json!({})).unwrap();
                let connections = loads.each_ref().map(Load::connections);
                small.relieve();
                for load in &loads {
                    load.progress(300);
                }
                // Only who hangs up has to come again.
                for (load, before) in loads.iter().zip(connections) {
                    let (came, left) = load.connections();
                    assert!(came <= before.0 + (left - before.1) + 4, "connections were lost");
                }
            });
        });
    });
    for load in &loads {
        let full = load.full();
        assert!(full >= FULL, "it was full {full} times");
    }
    quit(&mut daemon, &mut monitor);
    for (name, format, load) in [("small", "qcow2", first), ("raw", "raw", second), ("over", "qcow2", third)]
    {
        let image = format!("small/{name}");
        if format == "qcow2" {
            let checked = small.drystone(&format!("img check {image}"));
            assert!(checked.as_ref().is_ok_and(|text| text.contains("No errors")), "{image}: {checked:?}");
        }
        let server = Serve::start_under(
            small.command(drystone()),
            small.dir(),
            &[&image, "--read-only", "--format", format],
        )
        .unwrap();
        let bytes = server.connect("").read_all().unwrap();
        server.stop_cleanly();
        check(&bytes, &load.all_known(), &format!("{kind:?}, {name}"));
    }
}

#[test]
fn a_full_tmpfs_is_told_to_clients_and_goes_on_with_more_space() {
    fills_up_and_goes_on(Kind::Tmpfs);
}

#[test]
fn a_full_ext4_is_told_to_clients_and_goes_on_with_more_space() {
    fills_up_and_goes_on(Kind::Ext4);
}

/// What every byte of the base is.
fn pattern() -> Vec<u8> {
    (1..=251).cycle().flat_map(|byte| [byte; 512]).take(LEN_BYTES).collect()
}

fn stream_waits_for_space(on_error: &str) {
    let Some(small) = Small::mount(Kind::Tmpfs, 40, 35) else { return };
    let base = small.dir().join("base");
    std::fs::write(&base, pattern()).unwrap();
    small.drystone(&format!("img create -q -f qcow2 -b '{}' -F raw small/over", base.display())).unwrap();
    let below = json!({"driver": "raw", "node-name": "base", "file": {"driver": "file", "filename": base}});
    let mut daemon = small.daemon(&[node("qcow2", "over", &small.path("over"), Some(below))]);
    let mut monitor = daemon.connect(false);
    let arguments = json!({"job-id": "j", "device": "over", "on-error": on_error, "auto-dismiss": false});
    ask(&mut monitor, "block-stream", arguments).unwrap();
    let mut job = Value::Null;
    until("a pause", || {
        job = ask(&mut monitor, "query-block-jobs", json!({})).unwrap()[0].clone();
        job["status"] == "paused"
    });
    assert_eq!(job["io-status"], "nospace", "{job}");
    // Guests go on meanwhile.
    let mut client = Client::connect(&small.socket(), "over").unwrap();
    assert_eq!(client.read(LEN_BYTES as u64 - 512, 512).unwrap(), pattern()[LEN_BYTES - 512..]);
    small.relieve();
    ask(&mut monitor, "job-resume", json!({"id": "j"})).unwrap();
    until("the end of the job", || {
        job = ask(&mut monitor, "query-jobs", json!({})).unwrap()[0].clone();
        job["status"] == "concluded"
    });
    assert_eq!(job.get("error"), None, "{job}");
    drop(client);
    quit(&mut daemon, &mut monitor);
    assert!(small.drystone("img check small/over").unwrap().contains("No errors"));
    assert!(!small.drystone("img info small/over").unwrap().contains("backing file"));
    let server = small.serve("small/over");
    assert!(server.connect("").read_all().unwrap() == pattern(), "the copy differs");
    server.stop_cleanly();
}

#[test]
fn a_stream_waits_for_space_if_it_shall_stop() {
    stream_waits_for_space("stop");
}

#[test]
fn a_stream_waits_for_space_if_it_shall_stop_for_want_of_that() {
    stream_waits_for_space("enospc");
}

#[test]
fn a_snapshot_that_does_not_fit_leaves_all_as_it_was() {
    let Some(small) = Small::mount(Kind::Tmpfs, 8, 1) else { return };
    small.drystone("img create -q -f qcow2 small/disk 4M").unwrap();
    let mut daemon = small.daemon(&[node("qcow2", "disk", &small.path("disk"), None)]);
    let mut monitor = daemon.connect(false);
    let mut client = Client::connect(&small.socket(), "disk").unwrap();
    client.write(0, b"before").unwrap();
    client.flush().unwrap();
    // All that is left, to the last byte.
    small.shell("cat /dev/zero > small/rest").unwrap_err();
    let graph = |monitor: &mut Monitor| ask(monitor, "query-named-block-nodes", json!({})).unwrap();
    let (nodes, files) = (graph(&mut monitor), small.shell("ls small").unwrap());
    let sync = json!({"node-name": "disk", "snapshot-node-name": "new", "snapshot-file": small.path("new"), "format": "qcow2"});
    let action = json!({"type": "blockdev-snapshot-sync", "data": sync});
    for (name, arguments) in
        [("blockdev-snapshot-sync", sync.clone()), ("transaction", json!({"actions": [action]}))]
    {
        let error = ask(&mut monitor, name, arguments).unwrap_err();
        assert!(error.contains("space"), "{error}");
        assert_eq!(graph(&mut monitor), nodes);
        assert_eq!(small.shell("ls small").unwrap(), files);
    }
    assert_eq!(client.read(0, 6).unwrap(), b"before");
    client.write(0, b"beyond").unwrap();
    small.relieve();
    ask(&mut monitor, "blockdev-snapshot-sync", sync).unwrap();
    client.write(2, b"behind").unwrap();
    drop(client);
    quit(&mut daemon, &mut monitor);
    let server = small.serve("small/new");
    assert_eq!(server.connect("").read(0, 8).unwrap(), b"bebehind");
    server.stop_cleanly();
    let mut left = String::new();
    for image in ["disk", "new"] {
        left += &small.drystone(&format!("img check small/{image}")).unwrap();
    }
    assert_eq!(left.matches("No errors").count(), 2, "{left}");
}
