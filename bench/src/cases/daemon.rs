//! Cases of the storage daemon: many nodes, long chains, and changes beside I/O.
//!
//! ```text
//!  locality:  disk A  snapshot, reopen, snapshot, ... at a fixed pace         disk B  reads: 99th percentile, alone and beside
//!  overlays:  the first of fifty overlays on one base: the same               the other forty-nine read
//!  snapshot:  disk A  16 writes in flight, and a snapshot now and then        the slowest write
//! ```

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Bench, MS, end_cpus, progress};
use crate::daemon::{Daemon, Program};
use crate::fio::{self, Load, Rate, Target};
use crate::image::{Format, Scratch};
use crate::process;
use crate::qmp::Qmp;
use crate::rounds::{Row, Side, Unit, median};

/// Nodes of the case `nodes`.
const NODES: usize = 5000;
/// Layers of the long chains.
const LAYERS: usize = 200;
/// Overlays on one base.
const OVERLAYS: usize = 50;
/// Changes of the disk beside, in each round: as many snapshots as reopens.
const CHANGES: usize = 150;
/// How often the clients are alone, and beside changes, in each round.
const TURNS: usize = 3;
/// From one change to the next.
const PACE: Duration = Duration::from_millis(8);
/// Between two bursts of writes, in microseconds.
const BURST_PAUSE_US: u32 = 2000;
/// Length of every image, in MiB.
const IMAGE_MIB: usize = 128;

const US: Unit = Unit { name: "us", is_rate: false };
const KIB: Unit = Unit { name: "KiB", is_rate: false };
const MIB: Unit = Unit { name: "MiB", is_rate: false };
const IOPS: Unit = Unit { name: "IOPS", is_rate: true };
const COUNT: Unit = Unit { name: "times", is_rate: true };
/// A share of something that is better when it is larger.
const SHARE: Unit = Unit { name: "share", is_rate: true };
/// How many times as much as it was.
const TIMES: Unit = Unit { name: "times", is_rate: false };

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Bench<'_> {
    fn daemon(&self, side: Side) -> Option<Program> {
        match side {
            Side::C => Some(Program::C),
            Side::Ours if self.options.is_aa => Some(Program::C),
            Side::Ours => self.options.drystone.clone().map(Program::Drystone),
            Side::Floor => None,
        }
    }

    fn daemon_sides(&self) -> Vec<Side> {
        [Side::C, Side::Ours].into_iter().filter(|side| self.daemon(*side).is_some()).collect()
    }

    fn start_daemon(&self, side: Side, scratch: &Scratch, args: &[String]) -> Result<Daemon, String> {
        let program = self.daemon(side).ok_or("no daemon")?;
        program.start(&scratch.path(&format!("{side:?}")), args)
    }

    fn measure_daemons(
        &self,
        names: &[(&str, Unit)],
        sample: impl FnMut(Side) -> Result<Vec<f64>, String>,
    ) -> Result<Vec<Row>, String> {
        let rows = Row::measure_all(names, &self.daemon_sides(), self.options.rounds, sample)?;
        rows.iter().for_each(progress);
        Ok(rows)
    }

    fn random_reads(&self, depth: usize, target: &Target, time: Duration) -> Result<fio::Figures, String> {
        let load =
            Load { pattern: "randread", block_kib: 4, depth, connections: 1, rate: None, pause_us: None };
        fio::run(&load, target, None, time)
    }
}

pub(super) fn nodes(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let scratch = bench.scratch()?;
    let names = [
        ("`blockdev-add`, mean of 5,000", US),
        ("`query-named-block-nodes` of 5,000 nodes", MS),
        ("`blockdev-del`, mean of 500 of them", US),
        ("memory of a node", KIB),
    ];
    bench.measure_daemons(&names, |side| {
        let mut daemon = bench.start_daemon(side, &scratch, &[])?;
        let before = daemon.process.rss_kib()?;
        let began = Instant::now();
        for index in 0..NODES {
            let node = json!({ "driver": "null-co", "node-name": format!("n{index}"), "size": 1 << 20 });
            daemon.qmp.run("blockdev-add", &node)?;
        }
        let added = began.elapsed();
        let began = Instant::now();
        daemon.qmp.weigh("query-named-block-nodes", &json!({ "flat": true }))?;
        let queried = began.elapsed();
        let held = daemon.process.rss_kib()? - before;
        let began = Instant::now();
        for index in NODES - NODES / 10..NODES {
            daemon.qmp.run("blockdev-del", &json!({ "node-name": format!("n{index}") }))?;
        }
        let removed = began.elapsed();
        daemon.stop()?;
        let nodes = NODES as f64;
        let (added, removed) = (micros(added) / nodes, micros(removed) / (nodes / 10.0));
        Ok(vec![added, queried.as_secs_f64() * 1e3, removed, held / nodes])
    })
}

/// Where the data of a chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// All in the lowest layer.
    Base,
    /// Each layer has its share.
    Scattered,
}

/// The export `disk` of the chain whose top is `top`.
fn chain_args(top: &Path) -> Vec<String> {
    let top = top.display();
    words(&format!(
        "--blockdev driver=qcow2,node-name=disk,file.driver=file,file.filename={top} \
         --object iothread,id=thread --export type=nbd,id=disk,node-name=disk,name=disk,writable=on,iothread=thread"
    ))
}

pub(super) fn chain(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let scratch = bench.scratch()?;
    let mut rows = Vec::new();
    for (layout, label) in [(Layout::Base, "data in the base"), (Layout::Scattered, "data in every layer")] {
        let names = [
            (format!("{LAYERS} layers, {label}: start"), MS),
            (format!("{LAYERS} layers, {label}: memory after the start"), MIB),
            (format!("{LAYERS} layers, {label}: first 4k reads, cold"), IOPS),
            (format!("{LAYERS} layers, {label}: randread 4k, depth 16"), IOPS),
            (format!("{LAYERS} layers, {label}: share of one layer's"), SHARE),
            (format!("{LAYERS} layers, {label}: the same while the top is written"), SHARE),
            (format!("{LAYERS} layers, {label}: the same behind a snapshot"), SHARE),
            (format!("{LAYERS} layers, {label}: memory at the end"), MIB),
        ];
        let names: Vec<(&str, Unit)> = names.iter().map(|(name, unit)| (name.as_str(), *unit)).collect();
        let tops = [Side::C, Side::Ours].map(|side| (side, format!("{side:?}")));
        let mut images = Vec::new();
        for (side, name) in &tops {
            let single = scratch.chain(&format!("{name}-one"), 1, false, IMAGE_MIB)?;
            let many = scratch.chain(
                &format!("{name}-{layout:?}"),
                LAYERS,
                layout == Layout::Scattered,
                IMAGE_MIB,
            )?;
            images.push((*side, single, many));
        }
        rows.extend(bench.measure_daemons(&names, |side| {
            let found = images.iter().find(|(own, ..)| *own == side);
            let (_, single, many) = found.ok_or("no images")?;
            one_chain(bench, side, &scratch, (single, many))
        })?);
    }
    Ok(rows)
}

fn one_chain(
    bench: &Bench<'_>,
    side: Side,
    scratch: &Scratch,
    (single, many): (&Path, &Path),
) -> Result<Vec<f64>, String> {
    let time = bench.options.time;
    let one = bench.start_daemon(side, scratch, &chain_args(single))?;
    let target = Target { socket: one.nbd.clone(), exports: vec!["disk".into()] };
    bench.random_reads(16, &target, time)?;
    let alone = bench.random_reads(16, &target, time)?.iops;
    one.stop()?;

    let mut daemon = bench.start_daemon(side, scratch, &chain_args(many))?;
    let start_ms = daemon.start.as_secs_f64() * 1e3;
    let memory = daemon.process.rss_kib()? / 1024.0;
    let target = Target { socket: daemon.nbd.clone(), exports: vec!["disk".into()] };
    let cold = bench.random_reads(16, &target, Duration::from_millis(100))?.iops;
    bench.random_reads(16, &target, time)?;
    let warm = bench.random_reads(16, &target, time)?.iops;
    let writes = Load {
        pattern: "randwrite",
        block_kib: 4,
        depth: 1,
        connections: 1,
        rate: Some(Rate::Even(500)),
        pause_us: None,
    };
    let written = thread::scope(|scope| {
        let writer = scope.spawn(|| fio::run(&writes, &target, None, time));
        let reads = bench.random_reads(16, &target, time);
        writer.join().map_err(|_| "the writer panicked".to_owned())??;
        reads
    })?;
    let overlay = scratch.path(&format!("{side:?}-over.qcow2"));
    snapshot(&mut daemon.qmp, "disk", "over", &overlay)?;
    bench.random_reads(16, &target, time)?;
    let behind = bench.random_reads(16, &target, time)?.iops;
    let end = daemon.process.rss_kib()? / 1024.0;
    daemon.stop()?;
    std::fs::remove_file(&overlay).map_err(|error| format!("{}: {error}", overlay.display()))?;
    Ok(vec![start_ms, memory, cold, warm, warm / alone, written.iops / alone, behind / alone, end])
}

fn snapshot(qmp: &mut Qmp, node: &str, name: &str, file: &Path) -> Result<(), String> {
    let arguments = json!({
        "node-name": node, "snapshot-file": file.to_string_lossy(), "snapshot-node-name": name, "format": "qcow2",
    });
    qmp.run("blockdev-snapshot-sync", &arguments).map(drop)
}

/// A disk that is rearranged, layer by layer.
struct Disk<'a> {
    /// The node of its newest layer.
    top: String,
    /// An empty image that every new layer is a copy of.
    template: &'a Path,
    /// Where new layers go, with the layer's name behind it.
    folder: &'a Path,
}

impl Disk<'_> {
    /// Puts a new layer on the disk.
    fn snapshot(&mut self, qmp: &mut Qmp, name: String) -> Result<(), String> {
        let path = self.folder.join(&name);
        std::fs::copy(self.template, &path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = json!({ "driver": "file", "node-name": format!("{name}-file"), "filename": path.to_string_lossy() });
        qmp.run("blockdev-add", &file)?;
        let layer =
            json!({ "driver": "qcow2", "node-name": name, "file": format!("{name}-file"), "backing": null });
        qmp.run("blockdev-add", &layer)?;
        qmp.run("blockdev-snapshot", &json!({ "node": self.top, "overlay": name }))?;
        self.top = name;
        Ok(())
    }

    /// Reopens the newest layer, which stands on `below`.
    fn reopen(&self, qmp: &mut Qmp, below: &str, unmap: bool) -> Result<(), String> {
        let top = &self.top;
        let options = json!({
            "driver": "qcow2", "node-name": top, "file": format!("{top}-file"), "backing": below,
            "discard": if unmap { "unmap" } else { "ignore" },
        });
        qmp.run("blockdev-reopen", &json!({ "options": [options] })).map(drop)
    }

    /// Snapshots and reopens at a pace, `changes` times each or until `is_over`. How often, and the longest time of both
    /// together in milliseconds.
    fn rearrange(
        &mut self,
        qmp: &mut Qmp,
        (pace, changes): (Duration, usize),
        is_over: &AtomicBool,
    ) -> Result<(f64, f64), String> {
        let (began, prefix) = (Instant::now(), self.top.clone());
        let (mut count, mut longest) = (0.0, Duration::ZERO);
        for index in 1..=changes {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let (changed, below) = (Instant::now(), self.top.clone());
            self.snapshot(qmp, format!("{prefix}-{index}"))?;
            self.reopen(qmp, &below, index % 2 == 0)?;
            longest = longest.max(changed.elapsed());
            count += 1.0;
            let due = pace * u32::try_from(index).unwrap_or(u32::MAX);
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
        Ok((count, longest.as_secs_f64() * 1e3))
    }

    /// The figures of `load`, and what [`Self::rearrange`] says of the changes that were made meanwhile, from processor `cpu`.
    fn rearrange_beside<T>(
        &mut self,
        (qmp, cpu): (&mut Qmp, usize),
        pace: Duration,
        most: usize,
        load: impl FnOnce() -> Result<T, String>,
    ) -> Result<(T, (f64, f64)), String> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let changes = scope.spawn(|| {
                process::pin_this_thread(cpu)?;
                self.rearrange(qmp, (pace, most), &is_over)
            });
            let figures = load();
            is_over.store(true, Ordering::Relaxed);
            let changes = changes.join().map_err(|_| "the changes panicked".to_owned())??;
            Ok((figures?, changes))
        })
    }
}

/// The 99th percentile of `load` while `disk` is rearranged, over what it is alone; and what the changes took.
fn beside(
    daemon: &mut Daemon,
    disk: &mut Disk<'_>,
    load: &Load,
    target: &Target,
) -> Result<Vec<f64>, String> {
    // As long as the changes take, so that every request is beside some; by turns, because machines have moods.
    let time = PACE * u32::try_from(CHANGES / TURNS).unwrap_or(u32::MAX);
    // The clients and the threads that serve them have a processor of their own: what is left is what locks and drains do.
    let cpus = end_cpus()?;
    let run = || fio::run(load, target, Some(cpus.0), time);
    daemon.process.pin_workers(cpus, run)?;
    let (mut alone_us, mut beside_us) = (Vec::new(), Vec::new());
    let (mut changes, mut longest_ms) = (0.0, 0.0_f64);
    for _ in 0..TURNS {
        alone_us.push(run()?.p99_us);
        let (figures, (count, longest)) =
            disk.rearrange_beside((&mut daemon.qmp, cpus.1), PACE, CHANGES / TURNS, run)?;
        beside_us.push(figures.p99_us);
        changes += count;
        longest_ms = longest_ms.max(longest);
    }
    let (alone, beside) = median(alone_us).zip(median(beside_us)).ok_or("no turns")?;
    Ok(vec![beside / alone, beside, longest_ms, changes])
}

/// A qcow2 image as a node and an export of one name, served by an I/O thread that there is.
fn disk_args(name: &str, image: &Path, below: &str, thread: &str) -> Vec<String> {
    let image = image.display();
    words(&format!(
        "--blockdev driver=file,node-name={name}-file,filename={image} \
         --blockdev driver=qcow2,node-name={name},file={name}-file{below} \
         --export type=nbd,id={name},node-name={name},name={name},writable=on,iothread={thread}"
    ))
}

pub(super) fn locality(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let scratch = bench.scratch()?;
    let raw = scratch.full_raw("full.raw", IMAGE_MIB)?;
    let template = scratch.create_qcow2("template.qcow2", &format!("{IMAGE_MIB}M"), "preallocation=off")?;
    let mut rows = Vec::new();
    let names = [
        ("two disks: 99th percentile beside changes / alone", TIMES),
        ("two disks: 99th percentile beside changes", US),
        ("two disks: longest snapshot and reopen", MS),
        ("two disks: snapshots and reopens, each", COUNT),
    ];
    rows.extend(bench.measure_daemons(&names, |side| {
        let [a, b] = ["a", "b"].map(|name| scratch.convert(&raw, Format::Qcow2, &format!("{side:?}-{name}")));
        let threads = words("--object iothread,id=thread0 --object iothread,id=thread1");
        let args = [threads, disk_args("a", &a?, "", "thread0"), disk_args("b", &b?, "", "thread1")].concat();
        let mut daemon = bench.start_daemon(side, &scratch, &args)?;
        let layers = scratch.folder("layers")?;
        let mut disk = Disk { top: "a".into(), template: &template, folder: &layers };
        let load = Load {
            pattern: "randread",
            block_kib: 4,
            depth: 1,
            connections: 1,
            rate: Some(Rate::Even(5000)),
            pause_us: None,
        };
        let target = Target { socket: daemon.nbd.clone(), exports: vec!["b".into()] };
        let values = beside(&mut daemon, &mut disk, &load, &target)?;
        daemon.stop()?;
        Ok(values)
    })?);
    rows.extend(overlays(bench, &scratch, &raw, &template)?);
    Ok(rows)
}

fn overlays(bench: &Bench<'_>, scratch: &Scratch, raw: &Path, template: &Path) -> Result<Vec<Row>, String> {
    let names = [
        ("fifty overlays: 99th percentile of 49 beside changes / alone", TIMES),
        ("fifty overlays: 99th percentile of 49 beside changes", US),
        ("fifty overlays: longest snapshot and reopen of the first", MS),
        ("fifty overlays: snapshots and reopens of the first, each", COUNT),
    ];
    let base = scratch.convert(raw, Format::Qcow2, "base.qcow2")?;
    bench.measure_daemons(&names, |side| {
        let base = base.display();
        // Two I/O threads for all of them.
        let mut args = words(&format!(
            "--object iothread,id=thread0 --object iothread,id=thread1 \
             --blockdev driver=file,node-name=base-file,read-only=on,filename={base} \
             --blockdev driver=qcow2,node-name=base,read-only=on,file=base-file"
        ));
        let overlays = scratch.folder("overlays")?;
        let mut exports = Vec::new();
        for index in 0..OVERLAYS {
            let (name, path) = (format!("o{index}"), overlays.join(format!("o{index}")));
            std::fs::copy(template, &path).map_err(|error| format!("{}: {error}", path.display()))?;
            args.extend(disk_args(&name, &path, ",backing=base", &format!("thread{}", index % 2)));
            exports.push(name);
        }
        let mut daemon = bench.start_daemon(side, scratch, &args)?;
        let layers = scratch.folder("layers")?;
        let mut disk = Disk { top: exports.remove(0), template, folder: &layers };
        let load = Load {
            pattern: "randread",
            block_kib: 4,
            depth: 1,
            connections: 1,
            // Together they would all ask at the same moment, and wait for each other.
            rate: Some(Rate::Random(60)),
            pause_us: None,
        };
        let target = Target { socket: daemon.nbd.clone(), exports };
        let values = beside(&mut daemon, &mut disk, &load, &target)?;
        daemon.stop()?;
        Ok(values)
    })
}

pub(super) fn snapshots(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let scratch = bench.scratch()?;
    let raw = scratch.full_raw("full.raw", IMAGE_MIB)?;
    let template = scratch.create_qcow2("template.qcow2", &format!("{IMAGE_MIB}M"), "preallocation=off")?;
    let names = [("slowest of 16-deep 4k writes during snapshots", MS), ("longest snapshot", MS)];
    bench.measure_daemons(&names, |side| {
        let image = scratch.convert(&raw, Format::Qcow2, &format!("{side:?}-disk"))?;
        let args = [words("--object iothread,id=thread"), disk_args("disk", &image, "", "thread")].concat();
        let mut daemon = bench.start_daemon(side, &scratch, &args)?;
        let layers = scratch.folder("layers")?;
        // In bursts, so that the processors are not what is waited for.
        let load = Load {
            pattern: "randwrite",
            block_kib: 4,
            depth: 16,
            connections: 1,
            rate: None,
            pause_us: Some(BURST_PAUSE_US),
        };
        let target = Target { socket: daemon.nbd.clone(), exports: vec!["disk".into()] };
        let cpus = end_cpus()?;
        daemon.process.pin_workers(cpus, || fio::run(&load, &target, Some(cpus.0), bench.options.time))?;
        let mut disk = Disk { top: "disk".into(), template: &template, folder: &layers };
        let busy = || fio::run(&load, &target, Some(cpus.0), bench.options.time);
        let (figures, (_, longest)) =
            disk.rearrange_beside((&mut daemon.qmp, cpus.1), Duration::from_millis(100), CHANGES, busy)?;
        daemon.stop()?;
        Ok(vec![figures.worst_us / 1e3, longest])
    })
}
