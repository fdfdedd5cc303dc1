//! What is measured.

mod daemon;
mod img;
mod large;
mod tools;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::fio::{self, Load, Target};
use crate::image::{Format, Scratch};
use crate::options::Options;
use crate::process;
use crate::rounds::{Row, Sample, Side, Unit, median};
use crate::server::{Program, Server, Setup};

/// Length of the image that a server serves, in MiB.
const IMAGE_MIB: usize = 512;
/// How often a short program runs for one sample, which is the median.
const RUNS: usize = 9;
/// A first measurement that nobody sees: caches fill, threads start.
const WARM_UP: Duration = Duration::from_millis(150);
const TOOL_LIMIT: Duration = Duration::from_secs(60);

const IOPS: Unit = Unit { name: "IOPS", is_rate: true };
const MIB_S: Unit = Unit { name: "MiB/s", is_rate: true };
const MS: Unit = Unit { name: "ms", is_rate: false };

/// A case.
pub(crate) struct Case {
    /// As it is asked for.
    pub(crate) name: &'static str,
    /// What the table shows.
    pub(crate) about: &'static str,
    /// What its disks are.
    pub(crate) place: Place,
    /// Measures it.
    pub(crate) run: fn(&Bench<'_>) -> Result<Vec<Row>, String>,
}

/// The disks of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// As large as the case likes.
    Any,
    /// As long, and in the place, that the options say: the table's name and head tell it.
    Mixed,
}

/// Every case, in the order in which they run.
pub(crate) const ALL: &[Case] = &[
    case("nbd", "NBD on a unix socket, server and client on one processor", nbd),
    case("nbd-multi", "NBD on two connections with two I/O threads, not bound to processors", nbd_multi),
    case("startup", "from the start of the server to its greeting", startup),
    case("info", "what `info` of an image takes", info),
    case("check", "what `check` of an image takes", check),
    case("map", "what `map` of a disk takes", tools::map),
    case("measure", "what `measure` of a disk takes", tools::measure),
    case("compare", "what `compare` of two disks of 384 MiB takes", tools::compare),
    case("commit", "what `commit` of an overlay takes", tools::commit),
    case("rebase", "what `rebase` of an overlay of 384 MiB takes", tools::rebase),
    case(
        "very-large",
        "random reads of disks whose tables are larger than the cache, server and client on one processor",
        large::very_large,
    ),
    case("nodes", "a storage daemon with 5,000 nodes", daemon::nodes),
    case("chain", "chains of 200 layers in a storage daemon", daemon::chain),
    case("locality", "what changes of one disk do to others", daemon::locality),
    case("snapshot", "what snapshots do to the writes of their own disk", daemon::snapshots),
    Case {
        name: "img",
        about: "the image tool on a mixed disk: a third noise, a third text, the rest stored zeroes and holes",
        place: Place::Mixed,
        run: img::img,
    },
];

const fn case(
    name: &'static str,
    about: &'static str,
    run: fn(&Bench<'_>) -> Result<Vec<Row>, String>,
) -> Case {
    Case { name, about, place: Place::Any, run }
}

const fn load(pattern: &'static str, block_kib: usize, depth: usize) -> Load {
    Load { pattern, block_kib, depth, connections: 1, rate: None, pause_us: None }
}

const LOADS: &[Load] = &[
    load("randread", 4, 1),
    load("randread", 4, 32),
    load("randwrite", 4, 1),
    load("randwrite", 4, 32),
    load("read", 64, 8),
    load("write", 64, 8),
];

const MULTI_LOADS: &[Load] = &[
    Load { connections: 2, ..load("randread", 4, 32) },
    Load { connections: 2, ..load("randwrite", 4, 32) },
    Load { connections: 2, ..load("read", 64, 8) },
];

/// Where servers and clients run.
#[derive(Debug, Clone, Copy)]
struct Binding {
    /// The one processor for both, or any.
    cpu: Option<usize>,
    /// I/O threads of a server.
    threads: usize,
}

/// What all cases share.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// How to measure.
    pub(crate) options: &'a Options,
}

impl Bench<'_> {
    /// A folder for one set of images; at most one at a time.
    fn scratch(&self) -> Result<Scratch, String> {
        Scratch::new(&self.options.dir)
    }

    /// The program that a side measures as a server; `None` if that side is left out.
    fn server(&self, side: Side) -> Option<Program> {
        match side {
            Side::C => Some(Program::QemuNbd),
            Side::Ours if self.options.is_aa => Some(Program::QemuNbd),
            Side::Ours => self.options.drystone.clone().map(Program::Drystone),
            Side::Floor => Some(Program::Floor),
        }
    }

    /// The command that a side measures for `qemu-img VERB`; `None` if that side is left out.
    fn image_tool(&self, side: Side, verb: &str) -> Option<Command> {
        let mut command = match side {
            Side::C => Command::new("qemu-img"),
            Side::Ours if self.options.is_aa => Command::new("qemu-img"),
            Side::Ours => Command::new(self.options.drystone.as_ref()?),
            Side::Floor => return None,
        };
        if side == Side::Ours && !self.options.is_aa {
            command.arg("img");
        }
        command.arg(verb);
        Some(command)
    }

    /// Starts one server for each side, each on an image of its own with the same bytes.
    fn servers(
        &self,
        scratch: &Scratch,
        format: Format,
        place: Binding,
    ) -> Result<Vec<(Side, Server)>, String> {
        let raw = scratch.full_raw("full.raw", IMAGE_MIB)?;
        let mut servers = Vec::new();
        for side in [Side::C, Side::Ours, Side::Floor] {
            let Some(program) = self.server(side) else { continue };
            let own = if side == Side::Floor { Format::Raw } else { format };
            let image = scratch.convert(&raw, own, &format!("{side:?}.{}", own.name()))?;
            let setup = Setup {
                image: &image,
                is_read_only: false,
                format: own,
                cpu: place.cpu,
                threads: place.threads,
            };
            servers.push((side, program.serve(&setup, scratch.path(&format!("{side:?}.sock")))?));
        }
        std::fs::remove_file(&raw).map_err(|error| format!("{}: {error}", raw.display()))?;
        Ok(servers)
    }

    /// A row for each load, on servers of one format.
    fn loads(&self, format: Format, loads: &[Load], place: Binding) -> Result<Vec<Row>, String> {
        let scratch = self.scratch()?;
        let mut servers = self.servers(&scratch, format, place)?;
        let rows = loads.iter().map(|load| self.load(format, load, place, &servers)).collect();
        for (side, server) in &mut servers {
            if !server.process.stop() {
                return Err(format!("the server of side {side:?} did not end when asked"));
            }
        }
        rows
    }

    /// The row of one load.
    fn load(
        &self,
        format: Format,
        load: &Load,
        place: Binding,
        servers: &[(Side, Server)],
    ) -> Result<Row, String> {
        for (_, server) in servers {
            fio::run(load, &Target::default_export(&server.socket), place.cpu, WARM_UP)?;
        }
        let unit = if load.is_sequential() { MIB_S } else { IOPS };
        let name = format!("{} {}", format.name(), load.label());
        let sides: Vec<Side> = servers.iter().map(|(side, _)| *side).collect();
        let find = |side| servers.iter().find(|(own, _)| *own == side).map(|(_, server)| server);
        let row = Row::measure(name, unit, &sides, self.options.rounds, |side| {
            self.drive(load, find(side).ok_or("no server")?, place.cpu)
        })?;
        progress(&row);
        Ok(row)
    }

    fn drive(&self, load: &Load, server: &Server, cpu: Option<usize>) -> Result<Sample, String> {
        let before = server.process.cpu()?;
        let target = Target::default_export(&server.socket);
        let figures = fio::run(load, &target, cpu, self.options.time)?;
        let spent = server.process.cpu()?.saturating_sub(before);
        Ok(Sample {
            value: if load.is_sequential() { figures.mib_s } else { figures.iops },
            cpu_us: Some(spent.as_secs_f64() * 1e6 / figures.requests),
            rss_mib: Some(server.process.rss_kib()? / 1024.0),
            ..Sample::default()
        })
    }

    /// Rows for `qemu-img VERB` and ours: on a small image, and on one whose tables are all there.
    fn image_rows(&self, verb: &str) -> Result<Vec<Row>, String> {
        let scratch = self.scratch()?;
        let small = scratch.create_qcow2("small.qcow2", "64M", "preallocation=off")?;
        let large = scratch.create_qcow2("large.qcow2", "4G", "preallocation=metadata")?;
        let mut sides = vec![Side::C];
        sides.extend(self.image_tool(Side::Ours, verb).map(|_| Side::Ours));
        let mut rows = Vec::new();
        for (name, image) in [("64 MiB, empty", small), ("4 GiB, every cluster allocated", large)] {
            let row = Row::measure(format!("qcow2, {name}"), MS, &sides, self.options.rounds, |side| {
                self.time_tool(side, verb, &image, &scratch.path("tool.log"))
            })?;
            progress(&row);
            rows.push(row);
        }
        Ok(rows)
    }

    fn time_tool(&self, side: Side, verb: &str, image: &Path, log: &Path) -> Result<Sample, String> {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let mut command = self.image_tool(side, verb).ok_or("no such tool")?;
            command.arg(image);
            let began = Instant::now();
            process::output(&mut command, TOOL_LIMIT, log)?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(Sample { value: median(times).unwrap_or_default(), ..Sample::default() })
    }
}

fn nbd(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let place = Binding { cpu: Some(last_cpu()?), threads: 1 };
    let raw = bench.loads(Format::Raw, LOADS, place)?;
    Ok([raw, bench.loads(Format::Qcow2, LOADS, place)?].concat())
}

fn nbd_multi(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let place = Binding { cpu: None, threads: 2 };
    let raw = bench.loads(Format::Raw, MULTI_LOADS, place)?;
    Ok([raw, bench.loads(Format::Qcow2, MULTI_LOADS, place)?].concat())
}

fn startup(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    let scratch = bench.scratch()?;
    let image = scratch.create_qcow2("start.qcow2", "1G", "preallocation=metadata")?;
    let all = [Side::C, Side::Ours, Side::Floor];
    let sides: Vec<Side> = all.into_iter().filter(|side| bench.server(*side).is_some()).collect();
    let setup = Setup { image: &image, is_read_only: false, format: Format::Qcow2, cpu: None, threads: 1 };
    let row = Row::measure("start to NBDMAGIC, qcow2".into(), MS, &sides, bench.options.rounds, |side| {
        let program = bench.server(side).ok_or("no server")?;
        let (mut times, mut rss_mib) = (Vec::new(), 0.0);
        for _ in 0..RUNS {
            let mut server = program.serve(&setup, scratch.path("start.sock"))?;
            times.push(server.start.as_secs_f64() * 1e3);
            rss_mib = server.process.rss_kib()? / 1024.0;
            server.process.stop();
        }
        Ok(Sample { value: median(times).unwrap_or_default(), rss_mib: Some(rss_mib), ..Sample::default() })
    })?;
    progress(&row);
    Ok(vec![row])
}

fn info(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    bench.image_rows("info")
}

fn check(bench: &Bench<'_>) -> Result<Vec<Row>, String> {
    bench.image_rows("check")
}

/// The last processor that we may run on.
fn last_cpu() -> Result<usize, String> {
    end_cpus().map(|(last, _)| last)
}

/// The last processor that we may run on, and the first.
fn end_cpus() -> Result<(usize, usize), String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc: {error}"))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let end = |number: Option<&str>| number?.parse().ok();
    let ends = list.and_then(|list| {
        let list = list.trim();
        Some((end(list.rsplit([',', '-']).next())?, end(list.split([',', '-']).next())?))
    });
    ends.ok_or_else(|| "/proc/self/status has no list of processors".into())
}

/// One line for whoever waits.
fn progress(row: &Row) {
    let figure = |side| {
        row.median(side, |sample| Some(sample.value)).map_or("-".into(), |value| format!("{value:.1}"))
    };
    let (c, ours, floor) = (figure(Side::C), figure(Side::Ours), figure(Side::Floor));
    eprintln!("{:45} {:6} C {c}  ours {ours}  floor {floor}", row.name, row.unit.name);
}
