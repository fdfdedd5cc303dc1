//! Commands of the image tool on whole disks. What a command writes to is made anew before each run, which is not timed.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use super::{Bench, MS, TOOL_LIMIT, progress};
use crate::image::{Format, Scratch};
use crate::process;
use crate::rounds::{Row, Sample, Side, median};

/// How often a command runs for one sample, which is the median.
const RUNS: usize = 3;
/// Length of the disks in MiB: two thirds of them are noise, the rest holes.
const LEN_MIB: usize = 384;
/// One cluster in so many is a hole.
const PARTS: usize = 3;

/// One command line.
struct Work {
    name: &'static str,
    /// Words; a name of a file below the folder begins with `@`.
    args: &'static str,
    /// Files that are copied before each run: from, to.
    fresh: &'static [(&'static str, &'static str)],
}

const fn work(name: &'static str, args: &'static str) -> Work {
    Work { name, args, fresh: &[] }
}

const MAP: &[Work] = &[
    work("qcow2, 384 MiB in 4,000 pieces", "map --output=json -f qcow2 @a.qcow2"),
    work("raw, 384 MiB in 4,000 pieces", "map --output=json -f raw @a.raw"),
    work("an overlay of 96 MiB on it", "map --output=json -f qcow2 @over.qcow2"),
];
const MEASURE: &[Work] = &[
    work("qcow2 to qcow2", "measure -f qcow2 -O qcow2 @a.qcow2"),
    work("raw to qcow2", "measure -f raw -O qcow2 @a.raw"),
];
const COMPARE: &[Work] = &[
    work("raw and qcow2", "compare -f raw -F qcow2 @a.raw @a.qcow2"),
    work("qcow2 and the same", "compare -f qcow2 -F qcow2 @a.qcow2 @b.qcow2"),
    work("an overlay and its content", "compare -f qcow2 -F raw @over.qcow2 @over.raw"),
];
const COMMIT: &[Work] = &[
    Work {
        name: "96 MiB",
        args: "commit -f qcow2 @run.qcow2",
        fresh: &[("a.qcow2", "base.qcow2"), ("on-base.qcow2", "run.qcow2")],
    },
    Work {
        name: "96 MiB, the overlay stays",
        args: "commit -d -f qcow2 @run.qcow2",
        fresh: &[("a.qcow2", "base.qcow2"), ("on-base.qcow2", "run.qcow2")],
    },
];
const REBASE: &[Work] = &[
    Work {
        name: "to a copy of the base",
        args: "rebase -f qcow2 -F qcow2 -b @b.qcow2 @run.qcow2",
        fresh: &[("over.qcow2", "run.qcow2")],
    },
    Work {
        name: "to a base that differs in 96 MiB",
        args: "rebase -f qcow2 -F qcow2 -b @c.qcow2 @run.qcow2",
        fresh: &[("over.qcow2", "run.qcow2")],
    },
    Work {
        name: "to nothing",
        args: "rebase -f qcow2 -b  @run.qcow2",
        fresh: &[("over.qcow2", "run.qcow2")],
    },
];

pub(super) fn map(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    rows(bench, MAP)
}

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    rows(bench, MEASURE)
}

pub(super) fn compare(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    rows(bench, COMPARE)
}

pub(super) fn commit(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    rows(bench, COMMIT)
}

pub(super) fn rebase(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    rows(bench, REBASE)
}

fn rows(bench: &Bench<'_>, works: &[Work]) -> Result<Vec<Row>, String> {
    let scratch = bench.scratch()?;
    prepare(&scratch)?;
    let mut sides = vec![Side::C];
    sides.extend(bench.image_tool(Side::Ours, "map").map(|_| Side::Ours));
    let mut rows = Vec::new();
    for work in works {
        let row = Row::measure(work.name.into(), MS, &sides, bench.options.rounds, |side| {
            let mut times = Vec::new();
            for _ in 0..RUNS {
                times.push(time(bench, &scratch, side, work)?);
            }
            Ok(Sample { value: median(times).unwrap_or_default(), ..Sample::default() })
        })?;
        progress(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// Runs a command once; milliseconds.
fn time(bench: &Bench<'_>, scratch: &Scratch, side: Side, work: &Work) -> Result<f64, String> {
    refresh(scratch, work.fresh)?;
    let mut command = image_command(bench, scratch, side, work.args)?;
    let began = Instant::now();
    process::output(&mut command, TOOL_LIMIT, &scratch.path("tool.log"))?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Copies files: from, to.
pub(super) fn refresh(scratch: &Scratch, files: &[(&str, &str)]) -> Result<(), String> {
    for (from, to) in files {
        let (from, to) = (scratch.path(from), scratch.path(to));
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(&from).arg(&to);
        process::output(&mut copy, TOOL_LIMIT, &scratch.path("copy.log"))?;
    }
    Ok(())
}

/// The command line of a side for the words of `args`: names of files below the folder begin with `@`.
pub(super) fn image_command(
    bench: &Bench<'_>,
    scratch: &Scratch,
    side: Side,
    args: &str,
) -> Result<Command, String> {
    let mut words = args.split(' ');
    let mut command = bench.image_tool(side, words.next().unwrap_or_default()).ok_or("no such tool")?;
    add_words(&mut command, scratch, words);
    Ok(command)
}

/// Adds words; `@` stands for the folder: `@a.raw`, `if=@a.raw`.
pub(super) fn add_words<'a>(command: &mut Command, scratch: &Scratch, words: impl Iterator<Item = &'a str>) {
    for word in words {
        match word.split_once('@') {
            Some((prefix, file)) => command.arg(format!("{prefix}{}", scratch.path(file).display())),
            None => command.arg(word),
        };
    }
}

/// Makes the images: `a` and `b` alike, `c` with a third of them as well in another place, `over` on `a`.
fn prepare(scratch: &Scratch) -> Result<(), String> {
    let tool = |args: &[&str]| {
        let mut command = Command::new("qemu-img");
        add_words(&mut command, scratch, args.iter().copied());
        process::output(&mut command, TOOL_LIMIT, &scratch.path("prepare.log")).map(drop)
    };
    let noise = scratch.full_raw("noise.raw", LEN_MIB)?;
    let parts: Vec<PathBuf> =
        (0..PARTS).map(|part| scratch.clusters_of(&noise, part, PARTS)).collect::<Result<_, _>>()?;
    let [first, second, third] = &parts[..] else { return Err("three parts".into()) };
    merge(scratch, &[first, second], "a.raw")?;
    merge(scratch, &[first, third], "c.raw")?;
    let a = scratch.path("a.raw");
    scratch.convert(&a, Format::Qcow2, "a.qcow2")?;
    scratch.convert(&a, Format::Qcow2, "b.qcow2")?;
    scratch.convert(&scratch.path("c.raw"), Format::Qcow2, "c.qcow2")?;
    scratch.convert(third, Format::Qcow2, "over.qcow2")?;
    tool(&["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "@a.qcow2", "@over.qcow2"])?;
    tool(&["convert", "-f", "qcow2", "-O", "raw", "@over.qcow2", "@over.raw"])?;
    scratch.convert(third, Format::Qcow2, "on-base.qcow2")?;
    tool(&["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "@base.qcow2", "@on-base.qcow2"])
}

/// One sparse file with the data of several.
fn merge(scratch: &Scratch, parts: &[&PathBuf], name: &str) -> Result<(), String> {
    let to = scratch.path(name);
    for (index, part) in parts.iter().enumerate() {
        let mut command = if index == 0 { Command::new("cp") } else { Command::new("dd") };
        if index == 0 {
            command.arg("--sparse=always").arg(part).arg(&to);
        } else {
            command.arg(format!("if={}", part.display())).arg(format!("of={}", to.display()));
            command.args(["bs=64k", "conv=sparse,notrunc"]);
        }
        process::output(&mut command, TOOL_LIMIT, &scratch.path("merge.log"))?;
    }
    Ok(())
}
