//! Commands whose standard output and exit status were recorded from release 10.0 of the C tools: see
//! `tests/golden/README.md`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::forked::Forked;
use crate::common::{Ran, Scratch, normalised, our_tool, parse_od, run, run_with_input, words};

/// Set when the installed C tool is to be recorded instead; to `ours`, when we are where we may differ.
const RECORD: &str = "DRYSTONE_RECORD";

/// Above a case whose output may differ, with the reason behind it.
pub(crate) const MAY_DIFFER: &str = "# may differ:";

/// The lowest status of a program that a signal has ended, which says nothing.
const SIGNALLED: i32 = 128;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// One line of a file of cases, or a command with what it printed.
enum Step {
    /// Comments and empty lines.
    Text(String),
    Prepare(String),
    Case {
        command: String,
        theirs: Expected,
        ours: Option<Expected>,
    },
}

/// What is printed, and the exit status.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    stdout: String,
    status: i32,
}

impl Expected {
    fn parse<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Self {
        let mut stdout = String::new();
        for line in lines {
            let ending = line.trim_end().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            if let Some(status) = ending.and_then(|number| number.parse().ok()) {
                return Self { stdout, status };
            }
            stdout.push_str(line);
        }
        panic!("no exit status behind:\n{stdout}");
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}[{}]", self.stdout, self.status)
    }
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        if let Some(command) = line.strip_prefix("$ ") {
            let theirs = Expected::parse(&mut lines);
            let ours = lines.next_if(|line| line.starts_with("ours")).map(|_| Expected::parse(&mut lines));
            steps.push(Step::Case { command: command.trim_end().into(), theirs, ours });
        } else if let Some(preparation) = line.strip_prefix("> ") {
            steps.push(Step::Prepare(preparation.trim_end().into()));
        } else {
            steps.push(Step::Text(line.into()));
        }
    }
    steps
}

/// Unpacks an image that the C tools made, of this crate or of `format`.
pub(crate) fn stored_image(name: &str, to: &Path) {
    let own = golden().join(format!("images/{name}.image"));
    let formats =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../format/tests/it/golden/{name}.image"));
    let text = std::fs::read_to_string(own).or_else(|_| std::fs::read_to_string(formats)).unwrap();
    std::fs::write(to, parse_od(&text)).unwrap();
}

/// The tools under test.
struct Programs<'s> {
    /// Where ours are, or nothing when the installed ones are recorded.
    ours: Option<&'s Scratch>,
}

impl Programs<'_> {
    fn named(&self, name: &str) -> PathBuf {
        assert!(name.starts_with("qemu-"), "'{name}' is none of the tools");
        self.ours.map_or_else(|| name.into(), |scratch| our_tool(scratch, name))
    }

    /// Runs a command line; what stands behind `<` is what it can read, with `\n` for the end of a line.
    fn run(&self, command: &str, dir: &Path) -> Ran {
        let args = in_dir(words(command), dir);
        let (args, input) = match args.iter().position(|word| word == "<") {
            Some(at) => (&args[..at], args[at + 1].replace("\\n", "\n")),
            None => (&args[..], String::new()),
        };
        run_with_input(&self.named(&args[0]), &args[1..], dir, &input)
    }
}

/// Words in which `DIR` stands for the folder.
fn in_dir(words: Vec<String>, dir: &Path) -> Vec<String> {
    words.into_iter().map(|word| word.replace("DIR", &dir.display().to_string())).collect()
}

/// Starts `qemu-nbd` in the background, and comes back when clients can connect.
fn serve(programs: &Programs<'_>, socket: &str, args: &[&str], dir: &Path) {
    match Forked::start(&programs.named("qemu-nbd"), dir, socket, args) {
        Ok(server) => server.stay(),
        Err(ran) => panic!("the server at {socket} does not start: {args:?}: {}", ran.stderr),
    }
}

/// Bytes without a pattern, none of them zero; the same for the same offset.
fn noise(offset: u64, len: usize) -> Vec<u8> {
    let mut state = offset | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0] | 1
    };
    (0..len).map(|_| next()).collect()
}

/// What is in a file: its length and a sum (FNV-1a of 64 bits) over all bytes.
fn digest(path: &Path) -> Ran {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return Ran { stdout: String::new(), stderr: error.to_string(), status: 1 },
    };
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    let stdout = format!("{} bytes, {sum:016x}\n", bytes.len());
    Ran { stdout, stderr: String::new(), status: 0 }
}

/// Does what a line behind `> ` says.
fn prepare(line: &str, programs: &Programs<'_>, dir: &Path) {
    let words = words(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["image", file, name] => stored_image(name, &dir.join(file)),
        ["sparse", file, len] => File::create(dir.join(file)).unwrap().set_len(len.parse().unwrap()).unwrap(),
        ["poke", file, offset, hex] => {
            let offset = offset.parse().unwrap();
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let file = File::options().write(true).open(dir.join(file)).unwrap();
            file.write_all_at(&bytes, offset).unwrap();
        }
        ["fill", file, offset, len, byte] => {
            let bytes = vec![u8::from_str_radix(byte, 16).unwrap(); len.parse().unwrap()];
            let file = File::options().write(true).open(dir.join(file)).unwrap();
            file.write_all_at(&bytes, offset.parse().unwrap()).unwrap();
        }
        ["noise", file, offset, len] => {
            let (offset, len): (u64, usize) = (offset.parse().unwrap(), len.parse().unwrap());
            let file = File::options().write(true).open(dir.join(file)).unwrap();
            file.write_all_at(&noise(offset, len), offset).unwrap();
        }
        ["cut", file, len] => {
            let file = File::options().write(true).open(dir.join(file)).unwrap();
            file.set_len(len.parse().unwrap()).unwrap();
        }
        ["mkdir", folder] => std::fs::create_dir(dir.join(folder)).unwrap(),
        ["remove", file] => std::fs::remove_file(dir.join(file)).unwrap(),
        ["rename", from, to] => std::fs::rename(dir.join(from), dir.join(to)).unwrap(),
        ["serve", socket, ref args @ ..] => serve(programs, socket, args, dir),
        ["stop", socket] => Forked::at(dir, socket).stop(),
        ["text", file, text] => std::fs::write(dir.join(file), text.replace("\\n", "\n")).unwrap(),
        ["qemu-img" | "qemu-io", ..] => {
            let ran = programs.run(line, dir);
            assert_eq!(ran.status, 0, "{line}: {}", ran.stderr);
        }
        _ => panic!("no such preparation: {line}"),
    }
}

/// Runs the cases of one file; the differences, and the file as it would be recorded.
fn replay(name: &str, steps: Vec<Step>, programs: &Programs<'_>, dir: &Path) -> (String, String) {
    let (mut differences, mut recorded) = (String::new(), String::new());
    let records_ours = std::env::var_os(RECORD).is_some_and(|what| what == "ours");
    let mut may_differ = false;
    for step in steps {
        let may_differ = std::mem::replace(
            &mut may_differ,
            matches!(&step, Step::Text(line) if line.starts_with(MAY_DIFFER)),
        );
        match step {
            Step::Text(line) => recorded.push_str(&line),
            Step::Prepare(line) => {
                prepare(&line, programs, dir);
                writeln!(recorded, "> {line}").unwrap();
            }
            Step::Case { command, theirs, ours } => {
                let ran = match command.strip_prefix("digest ") {
                    Some(file) => digest(&dir.join(file)),
                    None => programs.run(&command, dir),
                };
                let here = Expected { stdout: normalised(&ran.stdout), status: ran.status };
                if records_ours && may_differ {
                    write!(recorded, "$ {command}\n{theirs}").unwrap();
                    if here != theirs {
                        write!(recorded, "ours\n{here}").unwrap();
                    }
                    continue;
                }
                let expected = ours.as_ref().unwrap_or(&theirs);
                if here != *expected {
                    let about = format!("{name}: $ {command}\n--- recorded\n{expected}--- here\n{here}");
                    writeln!(differences, "{about}--- standard error\n{}", ran.stderr).unwrap();
                }
                // Requests that fail, and images that differ, are told on standard output.
                let is_told = !ran.stderr.is_empty() || !ran.stdout.is_empty();
                if (1..SIGNALLED).contains(&here.status) && !is_told {
                    writeln!(differences, "{name}: $ {command}: failed without a word").unwrap();
                }
                // What we print is not what they print, unless that is what is recorded.
                let theirs = if records_ours { &theirs } else { &here };
                write!(recorded, "$ {command}\n{theirs}").unwrap();
                if let Some(ours) = ours {
                    write!(recorded, "ours\n{ours}").unwrap();
                }
            }
        }
    }
    (differences, recorded)
}

/// Prepares the images of a file of cases, and calls `look` for each with its folder.
pub(crate) fn each_image(name: &str, scratch: &Scratch, mut look: impl FnMut(&str, &Path)) {
    let programs = Programs { ours: Some(scratch) };
    let mut last = String::new();
    for step in parse(&std::fs::read_to_string(golden().join(format!("{name}.txt"))).unwrap()) {
        match step {
            Step::Prepare(line) => prepare(&line, &programs, scratch.path()),
            Step::Case { command, .. } => {
                let image = words(&command).pop().unwrap();
                if image != last {
                    look(&image, scratch.path());
                    last = image;
                }
            }
            Step::Text(_) => {}
        }
    }
}

/// How many cases are looked at for one that was recorded.
const LOOKED_AHEAD: usize = 8;

/// The commands of a file that was made from a table, with what is recorded for them.
fn merged(name: &str, made: &str) -> Vec<Step> {
    let mut recorded: VecDeque<Step> =
        parse(&load(name)).into_iter().filter(|step| matches!(step, Step::Case { .. })).collect();
    let step = |line: &str| match line.strip_prefix("$ ") {
        Some(command) => {
            let is_same = |step: &Step| matches!(step, Step::Case { command: known, .. } if known == command);
            let nothing = Expected { stdout: String::new(), status: 0 };
            let new = Step::Case { command: command.into(), theirs: nothing, ours: None };
            // What was taken out of the table since lies before it.
            let before = recorded.iter().take(LOOKED_AHEAD).position(is_same);
            before.and_then(|count| recorded.drain(..=count).next_back()).unwrap_or(new)
        }
        None => match line.strip_prefix("> ") {
            Some(preparation) => Step::Prepare(preparation.into()),
            None => Step::Text(format!("{line}\n")),
        },
    };
    made.lines().map(step).collect()
}

fn load(name: &str) -> String {
    std::fs::read_to_string(golden().join(format!("{name}.txt"))).unwrap_or_default()
}

/// As [`check`], of a file whose commands are made from a table.
pub(crate) fn check_made(name: &str, made: &str) {
    check_steps(name, merged(name, made));
    let commands = |text: &str| {
        text.lines().filter(|line| line.starts_with("$ ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(commands(&load(name)), commands(made), "{name}: to be recorded again");
}

fn check(name: &str) {
    check_steps(name, parse(&load(name)));
}

fn check_steps(name: &str, steps: Vec<Step>) {
    check_in(&Scratch::new("golden"), name, steps);
}

fn check_in(scratch: &Scratch, name: &str, steps: Vec<Step>) {
    let recorded = std::env::var_os(RECORD);
    let is_recording = recorded.is_some();
    let runs_ours = recorded.is_none_or(|what| what == "ours");
    let programs = Programs { ours: runs_ours.then_some(scratch) };
    let dir = scratch.path().join("work");
    std::fs::create_dir(&dir).unwrap();
    let (differences, recorded) = replay(name, steps, &programs, &dir);
    if is_recording {
        std::fs::write(golden().join(format!("{name}.txt")), recorded).unwrap();
    } else {
        assert!(differences.is_empty(), "{differences}");
    }
}

#[test]
fn golden_info_prints_what_the_c_tool_prints() {
    check("info");
}

#[test]
fn golden_create_prints_what_the_c_tool_prints() {
    check("create");
}

#[test]
fn golden_check_prints_what_the_c_tool_prints() {
    check("check");
}

#[test]
fn golden_amend_changes_what_the_c_tool_changes() {
    check("amend");
}

#[test]
fn golden_repairs_fix_what_the_c_tool_fixes() {
    check("repair");
}

#[test]
fn golden_internal_snapshots_are_those_of_the_c_tool() {
    check("snapshot");
}

#[test]
fn golden_bitmaps_change_as_the_c_tool_changes_them() {
    check("bitmap");
}

#[test]
fn golden_convert_makes_what_the_c_tool_makes() {
    check_in(&Scratch::in_memory("golden"), "convert", parse(&load("convert")));
}

#[test]
fn golden_dd_makes_what_the_c_tool_makes() {
    check_in(&Scratch::in_memory("golden"), "dd", parse(&load("dd")));
}

#[test]
fn golden_command_lines_are_understood_and_refused_alike() {
    check("usage");
}

#[test]
fn golden_refusals_are_those_of_the_c_tool() {
    check("refusals");
}

/// The C tool does not come to an end here.
#[test]
fn a_chain_that_comes_back_to_itself_is_refused_by_every_command() {
    let scratch = Scratch::new("loop");
    let run = |line: &str| run(&our_tool(&scratch, "qemu-img"), &words(line), scratch.path());
    for line in [
        "create -q -f qcow2 one 1M",
        "create -q -f qcow2 -b one -F qcow2 two",
        "create -q -f qcow2 -b two -F qcow2 three",
        "rebase -u -b three -F qcow2 one",
    ] {
        assert_eq!(run(line).status, 0, "{line}");
    }
    for (line, status) in [
        ("map three", 1),
        ("compare three three", 2),
        ("commit three", 1),
        ("rebase -b '' three", 1),
        ("resize three 2M", 1),
        ("measure three", 1),
        ("bench three", 1),
        ("convert -O raw three copy", 1),
        ("create -f qcow2 -b three -F qcow2 four", 1),
    ] {
        let ran = run(line);
        assert_eq!((ran.status, ran.stdout.as_str()), (status, ""), "{line}: {}", ran.stderr);
    }
}

#[test]
fn golden_hostile_images_are_judged_as_by_the_c_tool() {
    check("hostile");
}

#[test]
fn golden_servers_offer_what_those_of_the_c_tool_offer() {
    check("nbd");
}

#[test]
fn golden_images_at_servers_are_used_alike() {
    check("exports");
}

#[test]
fn golden_requests_are_made_and_reported_alike() {
    check("io");
}

#[test]
fn golden_states_of_machines_are_kept_alike() {
    check("io-state");
}

#[test]
fn golden_rules_let_requests_fail_alike() {
    check("blkdebug");
}

#[test]
fn golden_disks_side_by_side_are_compared_alike() {
    check("blkverify");
}

#[test]
fn there_are_enough_cases() {
    let cases =
        |name: &str| parse(&load(name)).iter().filter(|step| matches!(step, Step::Case { .. })).count();
    let files = std::fs::read_dir(golden()).unwrap();
    let names =
        files.filter_map(|file| Some(file.unwrap().file_name().to_str()?.strip_suffix(".txt")?.to_owned()));
    let (made, written): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with("matrix-"));
    for (names, what) in [(made, "made from the table"), (written, "written")] {
        let count: usize = names.iter().map(|name| cases(name)).sum();
        assert!(count >= 600, "{count} cases {what}");
    }
}
