//! Random commands in random order against a daemon whose disks are written to all the time.
//!
//! ```text
//!   2 monitors, random commands ──┐
//!                                 ▼
//!   drystone daemon: 3 disks, each a chain of layers ◄── NBD, 4 writers per disk, who read back what they wrote
//! ```
//! A command may be refused, but it is answered in time; no write that was acknowledged is ever lost; at the end every
//! layer in use is whole and holds what the writers know, and nothing is left behind.
//!
//! `DRYSTONE_SOAK_SECS` and `DRYSTONE_SOAK_SEED` make it longer and different (`cargo xtask soak`). The seed decides what
//! each monitor asks for, but threads meet as they like: a failure need not come back at once.

mod commands;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use drystone_base::rng::Rng;
use serde_json::{Value, json};

use self::commands::{Author, KINDS};
use crate::common::daemon::{Daemon, Monitor};
use crate::common::serve::{PATIENCE, Serve, drystone};
use crate::common::{Scratch, run, words};
use crate::load::{BLOCK_BYTES, Load, check};

const BLOCKS: usize = 1200;
const LEN_BYTES: usize = BLOCKS * BLOCK_BYTES / 4096 * 4096 + 4096;
const DISKS: usize = 3;
const SECS_DEFAULT: u64 = 6;
const SEED_DEFAULT: u64 = 20;
/// How many commands a failure shows.
const SHOWN: usize = 200;

/// A disk, as the writers and the monitors see it.
struct Disk {
    load: Load,
    /// Shared by whoever puts a layer on top; alone is who relies on which one that is.
    gate: RwLock<()>,
    /// The node of the newest layer.
    top: Mutex<String>,
}

/// What all threads share.
struct Storm {
    dir: PathBuf,
    disks: [Disk; DISKS],
    /// Names that were used.
    names: AtomicU64,
    /// Successes and refusals per command.
    counts: Mutex<BTreeMap<String, [u64; 2]>>,
    last: Mutex<VecDeque<String>>,
    is_over: AtomicBool,
    seed: u64,
    begin: Instant,
    /// The daemon's process.
    pid: AtomicU32,
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: no number: {text}")))
}

fn tool(dir: &Path, line: &str) -> String {
    let ran = run(&drystone(), &words(line), dir);
    assert_eq!(ran.status, 0, "drystone {line}: {}{}", ran.stdout, ran.stderr);
    ran.stdout
}

impl Storm {
    /// Three images with data below, and one layer above each.
    fn new(dir: &Path, seed: u64) -> Self {
        let disk = |number: usize| {
            let load = Load::new(BLOCKS);
            let option = if number == 1 { "" } else { "-o cluster_size=4k " };
            tool(dir, &format!("img create -q -f qcow2 {option}d{number}-base {LEN_BYTES}"));
            let server = Serve::start(dir, &[&format!("d{number}-base")]).unwrap();
            load.fill(&mut server.connect(""));
            server.stop_cleanly();
            let name = |layer: &str| dir.join(format!("d{number}-{layer}")).to_str().unwrap().to_owned();
            tool(dir, &format!("img create -q -f qcow2 {option}-b {} -F qcow2 d{number}-0", name("base")));
            Disk { load, gate: RwLock::default(), top: Mutex::new(format!("d{number}-0")) }
        };
        Self {
            dir: dir.to_owned(),
            disks: std::array::from_fn(disk),
            names: AtomicU64::new(1),
            counts: Mutex::default(),
            last: Mutex::default(),
            is_over: AtomicBool::new(false),
            seed,
            begin: Instant::now(),
            pid: AtomicU32::new(0),
        }
    }

    fn start(&self) -> Daemon {
        let mut args = vec!["--object".to_owned(), "iothread,id=t0".to_owned()];
        args.extend(
            ["--object", "iothread,id=t1", "--nbd-server", "addr.type=unix,addr.path=nbd.sock"]
                .map(str::to_owned),
        );
        for number in 0..DISKS {
            let file = |layer: &str| {
                let path = self.dir.join(format!("d{number}-{layer}"));
                let direct = number == 2;
                json!({"driver": "file", "node-name": format!("d{number}-{layer}-file"), "filename": path, "cache": {"direct": direct}})
            };
            let node = json!({
                "driver": "qcow2", "node-name": format!("d{number}-0"), "file": file("0"),
                "backing": {"driver": "qcow2", "node-name": format!("d{number}-base"), "read-only": true, "file": file("base")}
            });
            args.extend(["--blockdev".to_owned(), node.to_string(), "--export".to_owned()]);
            args.push(commands::export(number, &format!("d{number}-0"), Some(number % 2)).to_string());
        }
        let daemon = Daemon::start(&self.dir, &args.iter().map(String::as_str).collect::<Vec<_>>());
        self.pid.store(daemon.pid(), Ordering::SeqCst);
        daemon
    }

    /// A name that nothing had before.
    fn name(&self) -> u64 {
        self.names.fetch_add(1, Ordering::SeqCst)
    }

    /// Asks the daemon; it must answer.
    fn call(&self, monitor: &mut Monitor, command: &Value) -> Result<Value, String> {
        let name = command["execute"].as_str().unwrap_or("(nonsense)").to_owned();
        let begin = Instant::now();
        let answer = monitor.call_raw(command.clone());
        if !(name.contains("query-") && matches!(answer, Ok(Ok(_)))) {
            let (at, took) = (self.begin.elapsed().as_millis(), begin.elapsed().as_millis());
            self.note(format!("{at} ms: {command} -> {answer:?} ({took} ms)"));
        }
        let answer = answer.unwrap_or_else(|text| {
            let waits = Daemon::explain(self.pid.load(Ordering::SeqCst), &self.dir.join("stderr"));
            panic!("{command}: {text}\n{waits}")
        });
        self.count(&name, answer.is_ok());
        answer
    }

    /// Keeps it for the report of a failure.
    fn note(&self, what: String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(what);
        if last.len() > SHOWN {
            last.pop_front();
        }
    }

    fn count(&self, name: &str, is_done: bool) {
        let mut counts = self.counts.lock().unwrap();
        counts.entry(name.to_owned()).or_default()[usize::from(!is_done)] += 1;
    }

    /// What has to succeed and did not yet.
    fn missing(&self) -> Vec<&'static str> {
        let counts = self.counts.lock().unwrap();
        KINDS.iter().copied().filter(|kind| counts.get(*kind).is_none_or(|[done, _]| *done == 0)).collect()
    }

    /// One monitor, until the time is over and everything has succeeded once.
    fn command(&self, monitor: Monitor, number: u64, until: Instant) {
        let mut author = Author { storm: self, monitor, rng: Rng::new(self.seed * 7 + number) };
        while !self.is_over.load(Ordering::SeqCst) && self.disks.iter().all(|disk| disk.load.is_well()) {
            author.turn();
            if Instant::now() > until {
                let missing = self.missing();
                if missing.is_empty() {
                    return;
                }
                assert!(Instant::now() < until + PATIENCE, "these never succeed: {missing:?}");
                author.catch_up(&missing);
            }
        }
    }

    /// The counts, for people.
    fn report(&self) -> String {
        let mut text = format!("seed {}\n", self.seed);
        for (number, disk) in self.disks.iter().enumerate() {
            let [written, read_back, connected] = disk.load.counts();
            writeln!(
                text,
                "disk {number}: {written} blocks written, {read_back} read back, {connected} connections"
            )
            .unwrap();
        }
        for (name, [done, refused]) in self.counts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(text, "{name:28} {done:7} done {refused:7} refused").unwrap();
        }
        text
    }
}

/// Stops the others and tells the story, if a thread fails.
struct Alarm<'a>(&'a Storm);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() && !self.0.is_over.swap(true, Ordering::SeqCst) {
            let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            let last: Vec<&str> = last.iter().map(String::as_str).collect();
            let stderr = std::fs::read_to_string(self.0.dir.join("stderr")).unwrap_or_default();
            eprintln!(
                "{}the last commands:\n{}\nthe daemon's errors:\n{stderr}",
                self.0.report(),
                last.join("\n")
            );
        }
    }
}

/// Runs `work` while all disks are written to.
fn under_load<T>(storm: &Storm, work: impl FnOnce() -> T) -> T {
    let [first, second, third] = &storm.disks;
    let socket = storm.dir.join("nbd.sock");
    first.load.run_on((&socket, "d0"), storm.seed * 3, || {
        second.load.run_on((&socket, "d1"), storm.seed * 3 + 1, || {
            third.load.run_on((&socket, "d2"), storm.seed * 3 + 2, work)
        })
    })
}

/// Ends all jobs and asks the daemon to end.
fn finish(storm: &Storm, daemon: &mut Daemon, mut monitor: Monitor) {
    let begin = Instant::now();
    loop {
        let jobs = storm.call(&mut monitor, &json!({"execute": "query-jobs"})).unwrap();
        let Some(jobs) = jobs.as_array().filter(|jobs| !jobs.is_empty()) else { break };
        for job in jobs {
            let verb = match job["status"].as_str().unwrap() {
                "pending" => "job-finalize",
                "concluded" => "job-dismiss",
                _ => "job-cancel",
            };
            let _ = storm.call(&mut monitor, &json!({"execute": verb, "arguments": {"id": job["id"]}}));
        }
        assert!(begin.elapsed() < PATIENCE, "jobs do not end: {jobs:?}");
    }
    storm.call(&mut monitor, &json!({"execute": "quit"})).unwrap();
    let status = daemon.wait();
    assert!(status.success(), "{status}: {}", daemon.stderr());
    assert_eq!(daemon.stderr(), "");
}

/// Every layer of every disk is whole, and the disk holds what the writers know.
fn examine(storm: &Storm) {
    let dir = &storm.dir;
    for (number, disk) in storm.disks.iter().enumerate() {
        let top = disk.top.lock().unwrap().clone();
        let chain = tool(dir, &format!("img info --backing-chain --output json {top}"));
        let chain: Value = serde_json::from_str(&chain).unwrap();
        for layer in chain.as_array().unwrap() {
            let file = layer["filename"].as_str().unwrap();
            assert!(tool(dir, &format!("img check {file}")).contains("No errors"), "{file}");
        }
        let server = Serve::start(dir, &[&top, "--read-only"]).unwrap();
        let bytes = server.connect("").read_all().unwrap();
        server.stop_cleanly();
        check(&bytes, &disk.load.all_known(), &format!("disk {number}"));
        assert!(
            bytes[BLOCKS * BLOCK_BYTES..].iter().all(|byte| *byte == 0),
            "nobody wrote behind the blocks"
        );
    }
    let is_ours = |name: &String| !name.starts_with('d') && name != "stderr";
    let left: BTreeSet<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(is_ours)
        .collect();
    assert!(left.is_empty(), "the daemon leaves {left:?}");
}

#[test]
fn random_commands_under_writes_lose_nothing_and_hang_nowhere() {
    let seed = setting("DRYSTONE_SOAK_SEED", SEED_DEFAULT);
    let length = Duration::from_secs(setting("DRYSTONE_SOAK_SECS", SECS_DEFAULT));
    println!("seed {seed}, {} seconds", length.as_secs());
    let scratch = Scratch::new("storm");
    let storm = Storm::new(scratch.path(), seed);
    let _alarm = Alarm(&storm);
    let mut daemon = storm.start();
    let monitors = [daemon.connect(false), daemon.connect(true)];
    let until = Instant::now() + length;
    under_load(&storm, || {
        thread::scope(|scope| {
            for (number, monitor) in monitors.into_iter().enumerate() {
                let storm = &storm;
                scope.spawn(move || {
                    let _alarm = Alarm(storm);
                    storm.command(monitor, number as u64, until);
                });
            }
        });
    });
    let mut author = Author { storm: &storm, monitor: daemon.connect(false), rng: Rng::new(seed) };
    author.look_at_all();
    finish(&storm, &mut daemon, author.monitor);
    examine(&storm);
    println!("{}", storm.report());
}
