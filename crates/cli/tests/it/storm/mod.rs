//! Random commands in random order against a daemon whose disks are written to all the time.
//!
//! ```text
//!   2 monitors, random commands ──┐                         ┌── clients that stall, hang up, or say nothing (`rude`)
//!                                 ▼                         ▼
//!   drystone daemon: 3 chains of qcow2 layers, 2 raw disks ◄── NBD, 4 writers per disk, who read back what they wrote
//!                                 ▲
//!                                 └── how much memory, how many descriptors and threads it has (`watch`)
//! ```
//! A command may be refused, but it is answered in time; no write that was acknowledged is ever lost; at the end every
//! layer in use is whole and holds what the writers know, and nothing is left behind. In `killed`, the daemon is killed in
//! the middle of it, again and again.
//!
//! `DRYSTONE_SOAK_SECS` and `DRYSTONE_SOAK_SEED` make it longer and different, and `DRYSTONE_SOAK_REPORT` names a file for
//! the report (`cargo xtask soak`). The seed decides the kind of every turn of every monitor and how it chooses among what
//! is there, but threads meet as they like: a failure need not come back at once.

mod commands;
mod disks;
mod killed;
mod rude;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use drystone_base::rng::Rng;
use serde_json::{Value, json};

use self::commands::{Author, KINDS};
use self::disks::Disk;
use self::watch::Samples;
use crate::common::daemon::{Daemon, Monitor};
use crate::common::serve::{PATIENCE, drystone};
use crate::common::{Scratch, run, words};
use crate::load::BLOCK_BYTES;

const BLOCKS: usize = 1200;
const LEN_BYTES: usize = BLOCKS * BLOCK_BYTES / 4096 * 4096 + 4096;
/// Disks that are chains of qcow2 layers; those after them are raw.
const CHAINS: usize = 3;
const DISKS: usize = 5;
const SECS_DEFAULT: u64 = 6;
const SEED_DEFAULT: u64 = 20;
/// How many commands a failure shows.
const SHOWN: usize = 200;

/// What all threads share.
struct Storm {
    dir: PathBuf,
    disks: [Disk; DISKS],
    /// Names that were used.
    names: AtomicU64,
    /// Successes and refusals per command, and the longest that one took in milliseconds.
    counts: Mutex<BTreeMap<String, [u64; 3]>>,
    last: Mutex<VecDeque<String>>,
    is_over: AtomicBool,
    is_told: AtomicBool,
    seed: u64,
    begin: Instant,
    /// The daemon's process.
    pid: AtomicU32,
    /// The daemon is going to be killed, and who waits for an answer need not get one.
    is_killed: AtomicBool,
    /// Whether it ever is.
    is_deadly: bool,
    /// Turns of clients that misbehave.
    rude: AtomicU64,
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: no number: {text}")))
}

/// Length of the run, and its seed.
fn settings() -> (Duration, u64) {
    let secs = setting("DRYSTONE_SOAK_SECS").unwrap_or(SECS_DEFAULT);
    (Duration::from_secs(secs), setting("DRYSTONE_SOAK_SEED").unwrap_or(SEED_DEFAULT))
}

fn tool(dir: &Path, line: &str) -> String {
    let ran = run(&drystone(), &words(line), dir);
    assert_eq!(ran.status, 0, "drystone {line}: {}{}", ran.stdout, ran.stderr);
    ran.stdout
}

impl Storm {
    fn new(dir: &Path, seed: u64, is_deadly: bool) -> Self {
        Self {
            dir: dir.to_owned(),
            disks: std::array::from_fn(|number| Disk::make(dir, number)),
            names: AtomicU64::new(1),
            counts: Mutex::default(),
            last: Mutex::default(),
            is_over: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            seed,
            begin: Instant::now(),
            pid: AtomicU32::new(0),
            is_killed: AtomicBool::new(false),
            is_deadly,
            rude: AtomicU64::new(0),
        }
    }

    /// The daemon, with all disks as they are now.
    fn start(&self) -> Daemon {
        let mut args =
            ["--object", "iothread,id=t0", "--object", "iothread,id=t1"].map(str::to_owned).to_vec();
        args.extend(["--nbd-server", "addr.type=unix,addr.path=nbd.sock"].map(str::to_owned));
        for (number, disk) in self.disks.iter().enumerate() {
            let top = disk.top.lock().unwrap().clone();
            args.extend([
                "--blockdev".to_owned(),
                disk.node(&self.dir, &top).to_string(),
                "--export".to_owned(),
            ]);
            args.push(commands::export(number, &top, Some(number % 2)).to_string());
        }
        let daemon = Daemon::start(&self.dir, &args.iter().map(String::as_str).collect::<Vec<_>>());
        self.pid.store(daemon.pid(), Ordering::SeqCst);
        daemon
    }

    /// A name that nothing had before.
    fn name(&self) -> u64 {
        self.names.fetch_add(1, Ordering::SeqCst)
    }

    /// Asks the daemon; it must answer, unless it is killed: then the caller's turn ends.
    fn call(&self, monitor: &mut Monitor, command: &Value) -> Result<Value, String> {
        let name = command["execute"].as_str().unwrap_or("(nonsense)").to_owned();
        let begin = Instant::now();
        let answer = monitor.call_raw(command.clone());
        let took = u64::try_from(begin.elapsed().as_millis()).unwrap();
        if !(name.contains("query-") && matches!(answer, Ok(Ok(_)))) {
            let at = self.begin.elapsed().as_millis();
            self.note(format!("{at} ms: {command} -> {answer:?} ({took} ms)"));
        }
        let answer = answer.unwrap_or_else(|text| {
            if self.is_killed.load(Ordering::SeqCst) {
                std::panic::resume_unwind(Box::new("killed"));
            }
            let waits = Daemon::explain(self.pid.load(Ordering::SeqCst), &self.dir.join("stderr"));
            panic!("{command}: {text}\n{waits}")
        });
        self.count(&name, answer.is_ok(), took);
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

    fn count(&self, name: &str, is_done: bool, took_ms: u64) {
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(name.to_owned()).or_default();
        count[usize::from(!is_done)] += 1;
        count[2] = count[2].max(took_ms);
    }

    /// What has to succeed and did not yet.
    fn missing(&self) -> Vec<&'static str> {
        let counts = self.counts.lock().unwrap();
        KINDS.iter().copied().filter(|kind| counts.get(*kind).is_none_or(|[done, ..]| *done == 0)).collect()
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst) && self.disks.iter().all(|disk| disk.load.is_well())
    }

    /// One monitor, until the time is over and everything has succeeded once.
    fn command(&self, monitor: Monitor, number: u64, until: Instant) {
        let mut author = Author::new(self, monitor, number);
        while self.goes_on() {
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

    /// What was done, for people.
    fn report(&self) -> String {
        let mut text = format!("Seed {}, {} s. ", self.seed, self.begin.elapsed().as_secs());
        text.push_str("The seed replays the turns of each monitor, not how threads meet.\n\n");
        let rude = self.rude.load(Ordering::SeqCst);
        writeln!(text, "{rude} clients that stalled, hung up, or said nothing.\n").unwrap();
        self.report_disks(&mut text);
        text.push_str("\n| command | done | refused | slowest ms |\n|---|---|---|---|\n");
        for (name, [done, refused, slowest]) in
            self.counts.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            writeln!(text, "| `{name}` | {done} | {refused} | {slowest} |").unwrap();
        }
        text
    }

    fn report_disks(&self, text: &mut String) {
        let headings = [
            "disk",
            "written",
            "zeroed",
            "trimmed",
            "read back",
            "flushes",
            "connections",
            "hung up",
            "slowest read ms",
            "write",
            "zero or trim",
            "flush",
        ];
        writeln!(text, "Blocks of {BLOCK_BYTES} bytes:\n\n| {} |", headings.join(" | ")).unwrap();
        writeln!(text, "|{}", "---|".repeat(headings.len())).unwrap();
        for (number, disk) in self.disks.iter().enumerate() {
            let (counts, slowest) = (disk.load.counts(), disk.load.slowest());
            let done = [
                &counts.written,
                &counts.zeroed,
                &counts.trimmed,
                &counts.read_back,
                &counts.flushes,
                &counts.connected,
                &counts.hung_up,
            ];
            let slow = [&slowest.read, &slowest.write, &slowest.zero, &slowest.flush];
            let cells: Vec<u64> = done
                .iter()
                .map(|count| count.load(Ordering::SeqCst))
                .chain(slow.iter().map(|us| us.load(Ordering::SeqCst) / 1000))
                .collect();
            let cells: Vec<String> = cells.iter().map(u64::to_string).collect();
            writeln!(text, "| {number} {} | {} |", disk.about(), cells.join(" | ")).unwrap();
        }
    }
}

/// Stops the others and tells the story, if a thread fails.
struct Alarm<'a>(&'a Storm);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.0.is_over.store(true, Ordering::SeqCst);
        if !self.0.is_told.swap(true, Ordering::SeqCst) {
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
fn under_load(storm: &Storm, round: u64, work: impl FnOnce()) {
    load_from(storm, (0, round), Box::new(work));
}

fn load_from<'a>(storm: &'a Storm, (number, round): (usize, u64), work: Box<dyn FnOnce() + 'a>) {
    let Some(disk) = storm.disks.get(number) else { return work() };
    let socket = storm.dir.join("nbd.sock");
    let seed = (storm.seed * 1009 + round) * DISKS as u64 + number as u64;
    let export = format!("d{number}");
    disk.load.run_on((&socket, &export), seed, || load_from(storm, (number + 1, round), work));
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

/// Prints a report, and writes it where it is wanted.
fn publish(name: &str, report: &str) {
    println!("{report}");
    if let Some(folder) = std::env::var_os("DRYSTONE_SOAK_REPORT") {
        let path = Path::new(&folder).join(format!("{name}.md"));
        std::fs::write(&path, report).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn random_commands_under_writes_lose_nothing_and_hang_nowhere() {
    let (length, seed) = settings();
    println!("seed {seed}, {} seconds", length.as_secs());
    let scratch = Scratch::in_memory("storm");
    let storm = Storm::new(scratch.path(), seed, false);
    let _alarm = Alarm(&storm);
    let mut daemon = storm.start();
    let monitors = [daemon.connect(false), daemon.connect(true)];
    let until = Instant::now() + length;
    let samples = thread::scope(|scope| {
        let watcher = scope.spawn(|| Samples::take(storm.pid.load(Ordering::SeqCst), || storm.goes_on()));
        scope.spawn(|| rude::be_rude(&storm));
        // Whatever happens, these two must end.
        let _over = Over(&storm);
        under_load(&storm, 0, || {
            thread::scope(|scope| {
                for (number, monitor) in (1..).zip(monitors) {
                    let storm = &storm;
                    scope.spawn(move || {
                        let _alarm = Alarm(storm);
                        storm.command(monitor, number, until);
                    });
                }
            });
        });
        storm.is_over.store(true, Ordering::SeqCst);
        watcher.join().unwrap()
    });
    let mut author = Author::new(&storm, daemon.connect(false), 0);
    author.look_at_all();
    finish(&storm, &mut daemon, author.monitor);
    storm.examine();
    publish("storm", &format!("{}\n{}", storm.report(), samples.table()));
    assert_eq!(samples.grown(), None, "it uses more and more");
}

/// The storm is over when this is dropped.
struct Over<'a>(&'a Storm);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}
