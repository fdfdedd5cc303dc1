//! Everything that the goals ask of the image tool, on one mixed disk whose length and place the options say.
//!
//! ```text
//!  before the rounds   each side once, under time(1): the most memory that it held; what it read is in the page cache now
//!  each round          C, ours | ours, C | ...: seconds, and what the file that was made takes
//! ```
//! What a command writes is removed, or made anew, before each run; on disks, what was written before is on the disk then.
//! None of that is timed. A child that shares the memory of a large parent until it is another program counts that memory
//! as its own: time(1) is small, so nothing is added to the figures.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::tools::{add_words, image_command, refresh};
use super::{Bench, MS, progress};
use crate::image::{Format, Scratch};
use crate::process;
use crate::report::verdict;
use crate::rounds::{Bar, Row, Sample, Side, median};

/// How often a command of milliseconds runs for one sample, which is the median.
const RUNS_OF_SHORT: usize = 9;
/// A compressed image of 4 GiB takes the C tool most of a minute.
const LIMIT: Duration = Duration::from_secs(900);

/// One command line for both sides.
struct Work {
    name: &'static str,
    /// Words behind the tool's name; `@` stands for the folder.
    args: &'static str,
    /// Another program that stands in the C tool's place, with its words.
    other: Option<(&'static str, &'static str)>,
    /// Files that are copied before each run: from, to.
    fresh: &'static [(&'static str, &'static str)],
    runs: usize,
    bar: Bar,
}

const fn work(name: &'static str, args: &'static str) -> Work {
    let bar = Bar { times: 1.0, is_lean: false, is_small: false };
    Work { name, args, other: None, fresh: &[], runs: 1, bar }
}

const fn copy(name: &'static str, args: &'static str) -> Work {
    Work { bar: Bar { times: 1.0, is_lean: true, is_small: false }, ..work(name, args) }
}

const fn compressed(name: &'static str, times: f64, args: &'static str) -> Work {
    Work { bar: Bar { times, is_lean: false, is_small: true }, ..work(name, args) }
}

const fn short(name: &'static str, args: &'static str) -> Work {
    Work { runs: RUNS_OF_SHORT, ..work(name, args) }
}

/// What commands make.
const MADE: &str = "made";

const WORKS: &[Work] = &[
    short("info", "info @src.qcow2"),
    copy("convert raw to qcow2", "convert -f raw -O qcow2 @src.raw @made"),
    copy("convert qcow2 to raw", "convert -f qcow2 -O raw @src.qcow2 @made"),
    copy("convert qcow2 to qcow2", "convert -f qcow2 -O qcow2 @src.qcow2 @made"),
    copy("convert raw to raw", "convert -f raw -O raw @src.raw @made"),
    Work {
        other: Some(("cp", "--sparse=always @src.raw @made")),
        ..work("convert raw to raw, C is cp --sparse=always", "convert -f raw -O raw @src.raw @made")
    },
    copy("convert compressed to raw", "convert -f qcow2 -O raw @srcz.qcow2 @made"),
    compressed("convert -c, zlib", 3.0, "convert -c -f raw -O qcow2 @src.raw @made"),
    compressed("convert -c, zstd", 1.5, "convert -c -f raw -O qcow2 -o compression_type=zstd @src.raw @made"),
    work("dd, 1 MiB blocks", "dd -f raw -O raw bs=1M if=@src.raw of=@made"),
    short("check", "check -f qcow2 @src.qcow2"),
    short("map qcow2", "map --output=json -f qcow2 @src.qcow2"),
    short("map raw", "map --output=json -f raw @src.raw"),
    short("measure raw", "measure -f raw -O qcow2 @src.raw"),
    short("measure qcow2", "measure -f qcow2 -O qcow2 @src.qcow2"),
    work("compare raw and qcow2", "compare -f raw -F qcow2 @src.raw @src.qcow2"),
    work("compare raw and raw", "compare -f raw -F raw @src.raw @copy.raw"),
    Work {
        fresh: &[("src.qcow2", "base.qcow2"), ("over.qcow2", "run.qcow2")],
        ..work("commit", "commit -q -f qcow2 @run.qcow2")
    },
    Work {
        fresh: &[("src.qcow2", "base.qcow2"), ("over.qcow2", "run.qcow2")],
        ..work("rebase", "rebase -f qcow2 -F qcow2 -b @srcz.qcow2 @run.qcow2")
    },
];

/// Measures all of it, or what `--only` names.
pub(super) fn img(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let scratch = bench.scratch()?;
    prepare(&scratch, bench.options.mixed_mib)?;
    let mut sides = vec![Side::C];
    sides.extend(bench.image_tool(Side::Ours, "info").map(|_| Side::Ours));
    let is_wanted =
        |work: &&Work| bench.options.only.as_ref().is_none_or(|text| work.name.contains(text.as_str()));
    let mut rows = Vec::new();
    for work in WORKS.iter().filter(is_wanted) {
        let row = row(bench, &scratch, work, &sides)?;
        progress(&row);
        if let Some((missed, ratio)) = row.missed().zip(row.ratio(Side::Ours, Side::C)) {
            eprintln!("{:45} {:.2} times as good; bar {}", "", ratio.median, verdict(work.bar, &missed));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn row(bench: &Bench<'_>, scratch: &Scratch, work: &Work, sides: &[Side]) -> Result<Row, String> {
    let mut most = Vec::new();
    for side in sides {
        clear(scratch, work)?;
        most.push((*side, most_memory_mib(&command(bench, scratch, *side, work)?, scratch)?));
    }
    let row = Row::measure(work.name.into(), MS, sides, bench.options.rounds, |side| {
        let mut times = Vec::new();
        for _ in 0..work.runs {
            clear(scratch, work)?;
            let mut command = command(bench, scratch, side, work)?;
            let began = Instant::now();
            process::output(&mut command, LIMIT, &scratch.path("tool.log"))?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(Sample {
            value: median(times).unwrap_or_default(),
            rss_mib: most.iter().find(|(own, _)| *own == side).and_then(|(_, mib)| *mib),
            made_mib: taken_mib(&scratch.path(MADE)),
            ..Sample::default()
        })
    })?;
    Ok(Row { bar: Some(work.bar), ..row })
}

/// Makes everything as it was before: nothing made yet, what changes is fresh, what was written is on its disk.
fn clear(scratch: &Scratch, work: &Work) -> Result<(), String> {
    let _ = std::fs::remove_file(scratch.path(MADE));
    refresh(scratch, work.fresh)?;
    if work.runs == 1 {
        let mut sync = Command::new("sync");
        sync.arg("--file-system").arg(scratch.path("."));
        process::output(&mut sync, LIMIT, &scratch.path("sync.log"))?;
    }
    Ok(())
}

fn command(bench: &Bench<'_>, scratch: &Scratch, side: Side, work: &Work) -> Result<Command, String> {
    match work.other {
        Some((program, args)) if side == Side::C => {
            let mut command = Command::new(program);
            add_words(&mut command, scratch, args.split(' '));
            Ok(command)
        }
        _ => image_command(bench, scratch, side, work.args),
    }
}

/// The most memory that a run held; `None` where there is no time(1).
fn most_memory_mib(command: &Command, scratch: &Scratch) -> Result<Option<f64>, String> {
    const TIME: &str = "/usr/bin/time";
    if !Path::new(TIME).exists() {
        return Ok(None);
    }
    let told = scratch.path("memory");
    let mut timed = Command::new(TIME);
    timed.args(["--format=%M", "--output"]).arg(&told);
    timed.arg(command.get_program()).args(command.get_args());
    process::output(&mut timed, LIMIT, &scratch.path("tool.log"))?;
    let text = std::fs::read_to_string(&told).map_err(|error| format!("{}: {error}", told.display()))?;
    Ok(text.trim().parse::<f64>().ok().map(|kib| kib / 1024.0))
}

/// What a file takes of its file system; `None` if there is none.
fn taken_mib(path: &Path) -> Option<f64> {
    use std::os::unix::fs::MetadataExt;
    let sectors = std::fs::metadata(path).ok()?.blocks();
    u32::try_from(sectors >> 1).ok().map(|kib| f64::from(kib) / 1024.0)
}

/// Makes the images: one disk as `src.raw`, `src.qcow2`, compressed `srcz.qcow2` and `copy.raw`, and `over.qcow2` on
/// `base.qcow2` with 160 MiB of each GiB written.
fn prepare(scratch: &Scratch, mib: u32) -> Result<(), String> {
    let run = |program: &str, args: &str| {
        let mut command = Command::new(program);
        add_words(&mut command, scratch, args.split(' '));
        process::output(&mut command, LIMIT, &scratch.path("prepare.log")).map(drop)
    };
    let raw = scratch.mixed_raw("src.raw", u64::from(mib) << 20)?;
    scratch.convert(&raw, Format::Qcow2, "src.qcow2")?;
    run("qemu-img", "convert -c -f raw -O qcow2 @src.raw @srcz.qcow2")?;
    run("cp", "--sparse=always @src.raw @copy.raw")?;
    refresh(scratch, &[("src.qcow2", "base.qcow2")])?;
    run("qemu-img", "create -q -f qcow2 -F qcow2 -b @base.qcow2 @over.qcow2")?;
    for (pattern, at, len) in [(3, 0, mib / 16), (4, mib / 5, mib * 3 / 32)] {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "qcow2", "-c", &format!("write -P {pattern} {at}M {len}M")]);
        command.arg(scratch.path("over.qcow2"));
        process::output(&mut command, LIMIT, &scratch.path("prepare.log"))?;
    }
    Ok(())
}
