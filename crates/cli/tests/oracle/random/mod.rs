//! Random sequences of commands, by both tools: they end alike, print alike, and the disks show the same bytes, whichever
//! tool reads them.
//!
//! ```text
//!   seed ─► author: commands ─► folder "there": the C tools ─┐
//!                           └─► folder "here": ours          ├─► status, words, and after each step every file that changed:
//!                                                            ┘   both read both, and find both sound
//! ```
//! A difference is shown with as few commands as still make it. `DRYSTONE_SEQUENCES` says how many sequences each test plays,
//! `DRYSTONE_SEQUENCES_FROM` from which seed on (`cargo xtask soak --sequences N`). Where we differ on purpose, or the C
//! tools crash, a sequence ends (`known`). Not here: what only we can tell, without the other tool (`stories`, `chains`).

mod author;
mod known;
mod shown;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use self::author::{Command, format, sequence};
use self::shown::shown;
use crate::common::{Ran, Scratch, our_tool, run};

/// How long a command may take; some of the C tools' never end.
const PATIENCE: &str = "30";
/// The status of a command that took longer.
const TIMED_OUT: i32 = 124;
/// How many differences are shown before the rest is left.
const ENOUGH: usize = 4;

/// In what respect the tools differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Respect {
    Status,
    Printed,
    Exists,
    Shows,
    Sound,
}

#[derive(Debug)]
struct Difference {
    respect: Respect,
    /// Index of the command.
    step: usize,
    about: String,
}

/// Length, node and times of a file.
type Stamp = (u64, u64, i64, i64);

struct Bench {
    scratch: Scratch,
    bin: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let scratch = Scratch::in_memory("sequences");
        let bin = our_tool(&scratch, "qemu-img").parent().unwrap().to_owned();
        our_tool(&scratch, "qemu-io");
        Self { scratch, bin }
    }

    fn dir(&self, is_ours: bool) -> PathBuf {
        self.scratch.path().join(if is_ours { "here" } else { "there" })
    }

    fn run_in(&self, is_ours: bool, words: &[String], dir: &Path) -> Ran {
        let tool = if is_ours { self.bin.join(&words[0]).display().to_string() } else { words[0].clone() };
        let limit = ["-s".to_owned(), "KILL".to_owned(), PATIENCE.to_owned(), tool];
        let ran = run(Path::new("timeout"), &[&limit, &words[1..]].concat(), dir);
        // Killed by the one who watches the time.
        if ran.status == 137 { Ran { status: TIMED_OUT, ..ran } } else { ran }
    }

    fn ask(&self, is_ours: bool, line: &[&str], dir: &Path) -> Ran {
        let line: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        self.run_in(is_ours, &line, dir)
    }

    /// Plays commands in new folders, up to the first difference.
    fn play(&self, commands: &[Command]) -> Option<Difference> {
        for dir in [true, false].map(|is_ours| self.dir(is_ours)) {
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir(&dir).unwrap();
        }
        let mut stamps = [BTreeMap::new(), BTreeMap::new()];
        for (step, command) in commands.iter().enumerate() {
            let [there, here] =
                [false, true].map(|is_ours| self.run_in(is_ours, &command.0, &self.dir(is_ours)));
            let difference = |respect, about| Some(Difference { respect, step, about });
            assert!(here.status != TIMED_OUT, "took longer than {PATIENCE} s: {}", listed(commands));
            if known::ends(command, &there, &here) {
                return None;
            }
            if here.status != there.status {
                let about = format!("status {} there, {} here", there.status, here.status);
                return difference(
                    Respect::Status,
                    format!("{about}\nthere: {}\nhere: {}", there.stderr, here.stderr),
                );
            }
            let printed = [&there, &here].map(|ran| shown(&ran.stdout));
            if !known::prints_otherwise(command, commands) && printed[0] != printed[1] {
                return difference(Respect::Printed, apart(&printed[0], &printed[1]));
            }
            let [changed_there, changed_here] = [(0, false), (1, true)]
                .map(|(index, is_ours)| changed(&mut stamps[index], &self.dir(is_ours)));
            let changed =
                changed_there.iter().chain(changed_here.iter().filter(|name| !changed_there.contains(name)));
            for name in changed {
                if let Some((respect, about)) = self.look(name) {
                    if known::ends_after(command, &there, &about) {
                        return None;
                    }
                    return difference(respect, about);
                }
            }
        }
        // What lies on others changed with them.
        let step = commands.len().saturating_sub(1);
        let found = stamps[0].keys().find_map(|name: &String| self.look(name));
        found.map(|(respect, about)| Difference { respect, step, about })
    }

    /// Both tools look at both images of a name.
    fn look(&self, name: &str) -> Option<(Respect, String)> {
        let exist = [false, true].map(|is_ours| self.dir(is_ours).join(name).exists());
        if exist[0] != exist[1] {
            return Some((Respect::Exists, format!("{name} exists: {} there, {} here", exist[0], exist[1])));
        }
        // Bytes of a data file have their places.
        if !exist[0] || name.ends_with(".data") {
            return None;
        }
        let format = format(name);
        // Data files are looked for from the folder that a tool is in, so an image is read in its own.
        let out = self.scratch.path().join("out");
        let read = |is_ours: bool, side: usize| {
            let _ = std::fs::remove_file(&out);
            let line = ["qemu-img", "convert", "-U", "-f", format, "-O", "raw", name, "../out"];
            let ran = self.ask(is_ours, &line, &self.dir(side == 1));
            let bytes = if ran.status == 0 { std::fs::read(&out).unwrap() } else { ran.stderr.into_bytes() };
            (ran.status, bytes)
        };
        // Who reads, and whose: theirs their own, theirs ours, ours theirs.
        let shows = [read(false, 0), read(false, 1), read(true, 0)];
        let is_same =
            |other: &(i32, Vec<u8>)| other.0 == shows[0].0 && (other.0 != 0 || other.1 == shows[0].1);
        if let Some(at) = shows.iter().position(|other| !is_same(other)) {
            let who = ["", "read by theirs, written by ours", "read by ours, written by theirs"][at];
            return Some((Respect::Shows, format!("{name}, {who}: {}", in_what(&shows[0], &shows[at]))));
        }
        if format == "raw" {
            return None;
        }
        let check = |is_ours, side: usize| {
            self.ask(is_ours, &["qemu-img", "check", "-U", "-f", format, name], &self.dir(side == 1))
        };
        let found = check(false, 1);
        // What they leave behind in theirs, we may have avoided.
        if found.status != 0 && found.status != check(false, 0).status {
            let about = format!("{name}: not sound: {} {}{}", found.status, found.stdout, found.stderr);
            return Some((Respect::Sound, about));
        }
        let own = check(true, 1);
        (own.status != found.status).then(|| {
            (
                Respect::Sound,
                format!(
                    "{name}: judged {} by theirs, {} by ours: {}{}",
                    found.status, own.status, own.stdout, own.stderr
                ),
            )
        })
    }

    /// As few of the commands as still make such a difference at their end.
    fn shortened(&self, commands: &[Command], found: Difference) -> (Vec<Command>, Difference) {
        let mut best = (commands[..=found.step].to_vec(), found);
        let try_it = |commands: Vec<Command>, best: &mut (Vec<Command>, Difference)| {
            let name = best.0.last().map(|last| last.name().to_owned());
            let is_it =
                |found: &Difference| found.respect == best.1.respect && found.step + 1 == commands.len();
            match self.play(&commands).filter(is_it) {
                Some(found) if commands.last().map(|last| last.name().to_owned()) == name => {
                    *best = (commands, found)
                }
                _ => {}
            }
        };
        let mut at = best.0.len() - 1;
        while at > 0 {
            at -= 1;
            let mut fewer = best.0.clone();
            fewer.remove(at);
            try_it(fewer, &mut best);
        }
        for at in (0..best.0.len()).rev() {
            for shorter in best.0[at].shorter().into_iter().rev() {
                let mut fewer = best.0.clone();
                fewer[at] = shorter;
                try_it(fewer, &mut best);
            }
        }
        best
    }
}

/// Names of the files in a folder that are new, changed or gone since the last look.
fn changed(stamps: &mut BTreeMap<String, Stamp>, dir: &Path) -> Vec<String> {
    let stamp = |entry: std::fs::DirEntry| {
        let about = entry.metadata().unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, (about.len(), about.ino(), about.mtime(), about.mtime_nsec()))
    };
    let now: BTreeMap<String, Stamp> =
        std::fs::read_dir(dir).unwrap().map(|entry| stamp(entry.unwrap())).collect();
    let before = std::mem::replace(stamps, now);
    let names = stamps.keys().chain(before.keys().filter(|name| !stamps.contains_key(*name)));
    names.filter(|name| stamps.get(*name) != before.get(*name)).cloned().collect()
}

/// How what was read differs: status and bytes, or what went wrong.
fn in_what((status, bytes): &(i32, Vec<u8>), (other_status, other): &(i32, Vec<u8>)) -> String {
    if *status != 0 || *other_status != 0 {
        let text = |status: i32, bytes: &[u8]| {
            if status == 0 { "read".into() } else { String::from_utf8_lossy(bytes).into_owned() }
        };
        return format!("{} / {}", text(*status, bytes), text(*other_status, other));
    }
    let at = bytes.iter().zip(other).position(|(one, two)| one != two);
    let byte = |bytes: &[u8]| at.and_then(|at| bytes.get(at).copied());
    format!(
        "{} and {} bytes, first apart at {at:?}: {:?} / {:?}",
        bytes.len(),
        other.len(),
        byte(bytes),
        byte(other)
    )
}

/// The lines that differ.
fn apart(there: &str, here: &str) -> String {
    let (there, here): (Vec<&str>, Vec<&str>) = (there.lines().collect(), here.lines().collect());
    let same = there.iter().zip(&here).take_while(|(one, two)| one == two).count();
    let some = |lines: &[&str]| {
        lines.iter().skip(same).take(6).map(|line| format!("    {line}\n")).collect::<String>()
    };
    format!("from line {}: there:\n{}  here:\n{}", same + 1, some(&there), some(&here))
}

/// Commands as a shell would take them.
fn listed(commands: &[Command]) -> String {
    let quoted = |word: &String| {
        if word.is_empty() || word.contains([' ', '"', '{']) { format!("'{word}'") } else { word.clone() }
    };
    let line = |command: &Command| command.0.iter().map(quoted).collect::<Vec<_>>().join(" ");
    commands.iter().map(|command| format!("    {}\n", line(command))).collect()
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}: no number: {text}")))
}

/// Plays sequences; every second one, from the first or the second on.
fn sequences(first: u64) {
    let (count, from) = (setting("DRYSTONE_SEQUENCES", 5), setting("DRYSTONE_SEQUENCES_FROM", 0));
    let bench = Bench::new();
    let mut report = String::new();
    let mut shown = 0;
    for seed in (0..count).map(|index| from + 2 * index + first) {
        let commands = sequence(seed);
        if let Some(found) = bench.play(&commands) {
            let (commands, Difference { respect, about, .. }) = bench.shortened(&commands, found);
            let text = format!("seed {seed}: {respect:?}: {about}\n{}", listed(&commands));
            eprintln!("{text}");
            writeln!(report, "{text}").unwrap();
            shown += 1;
            if shown == ENOUGH {
                break;
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn oracle_random_sequences_end_alike() {
    sequences(0);
}

#[test]
fn oracle_other_random_sequences_end_alike() {
    sequences(1);
}
