//! fio as an NBD client.
//!
//! Trap: fio takes `--runtime=0.4` for 0 and runs for ever or not at all; the time is always given in whole ms.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::process;
use crate::server::pinned;

/// Beyond its run time, how long fio may take to connect and to report.
const SLACK: Duration = Duration::from_secs(30);

/// What fio does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// `randread`, `randwrite`, `read`, `write`.
    pub(crate) pattern: &'static str,
    /// Length of a request in KiB.
    pub(crate) block_kib: usize,
    /// Requests in flight on a connection.
    pub(crate) depth: usize,
    /// Connections.
    pub(crate) connections: usize,
    /// How many requests there are; as many as there can be if `None`.
    pub(crate) rate: Option<Rate>,
    /// A pause of so many microseconds after each burst of `depth` requests.
    pub(crate) pause_us: Option<u32>,
}

/// Requests a second and connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rate {
    /// One after the other, from one to the next the same time.
    Even(u32),
    /// At random, independently of each other (a Poisson process).
    Random(u32),
}

/// What it is done to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The server's socket.
    pub(crate) socket: PathBuf,
    /// The export that each connection asks for; all the default one if there are none.
    pub(crate) exports: Vec<String>,
}

impl Target {
    /// The default export of a server.
    pub(crate) fn default_export(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf(), exports: Vec::new() }
    }

    fn uri(&self, export: &str) -> String {
        format!("--uri=nbd+unix:///{export}?socket={}", self.socket.display())
    }
}

impl Load {
    /// As a row is called.
    pub(crate) fn label(&self) -> String {
        let Self { pattern, block_kib, depth, connections, .. } = self;
        let many = if *connections > 1 { format!(", {connections} connections") } else { String::new() };
        format!("{pattern} {block_kib}k, depth {depth}{many}")
    }

    /// Whether the row counts MiB/s rather than requests.
    pub(crate) fn is_sequential(&self) -> bool {
        !self.pattern.starts_with("rand")
    }

    fn args(&self, target: &Target, time: Duration) -> Vec<String> {
        let mut args = vec![
            "--output-format=json".to_string(),
            "--ioengine=nbd".into(),
            format!("--rw={}", self.pattern),
            format!("--bs={}k", self.block_kib),
            format!("--iodepth={}", self.depth),
            format!("--numjobs={}", self.connections),
            format!("--runtime={}ms", time.as_millis()),
        ];
        let fixed =
            ["--time_based=1", "--thread=1", "--group_reporting=1", "--norandommap=1", "--disk_util=0"];
        args.extend(fixed.map(String::from));
        args.extend(["--randrepeat=1", "--random_generator=tausworthe64"].map(String::from));
        if self.connections > 1 && self.is_sequential() {
            args.push(format!("--offset_increment={}%", 100 / self.connections));
        }
        match self.rate {
            None => {}
            Some(Rate::Even(rate)) => args.push(format!("--rate_iops={rate}")),
            Some(Rate::Random(rate)) => {
                args.extend([format!("--rate_iops={rate}"), "--rate_process=poisson".into()]);
            }
        }
        if let Some(pause_us) = self.pause_us {
            args.extend([format!("--thinktime={pause_us}us"), format!("--thinktime_blocks={}", self.depth)]);
        }
        // What stands before the first name is for every job.
        let exports = if target.exports.is_empty() { &[String::new()][..] } else { &target.exports };
        for export in exports {
            args.extend([format!("--name=load{export}"), target.uri(export)]);
        }
        args
    }
}

/// What fio measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    /// Requests a second.
    pub(crate) iops: f64,
    /// MiB a second.
    pub(crate) mib_s: f64,
    /// Requests in all.
    pub(crate) requests: f64,
    /// What 99 of 100 requests took no longer than, in microseconds.
    pub(crate) p99_us: f64,
    /// What the slowest request took, in microseconds.
    pub(crate) worst_us: f64,
}

/// Drives a server for `time`, on one processor if one is given.
pub(crate) fn run(
    load: &Load,
    target: &Target,
    cpu: Option<usize>,
    time: Duration,
) -> Result<Figures, String> {
    let mut command = pinned(cpu, Path::new("fio"));
    command.args(load.args(target, time));
    let text = process::output(&mut command, time + SLACK, &target.socket.with_extension(load.pattern))?;
    parse(&text).map_err(|error| format!("fio, {}: {error}", load.label()))
}

/// Reads fio's report, which may follow lines of warnings.
fn parse(text: &str) -> Result<Figures, String> {
    let json = text.find('{').and_then(|at| text.get(at..)).ok_or("no report")?;
    let report: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let job = report.pointer("/jobs/0").ok_or("no job")?;
    let number = |direction: &str, key: &str| {
        job.pointer(&format!("/{direction}/{key}"))
            .and_then(Value::as_f64)
            .ok_or_else(|| format!("no {direction} {key}"))
    };
    let errno = job.get("error").and_then(Value::as_i64).unwrap_or(-1);
    if errno != 0 {
        return Err(format!("error {errno}"));
    }
    let direction = if number("read", "total_ios")? > 0.0 { "read" } else { "write" };
    let figures = Figures {
        iops: number(direction, "iops")?,
        mib_s: number(direction, "bw_bytes")? / f64::from(1 << 20),
        requests: number(direction, "total_ios")?,
        p99_us: number(direction, "clat_ns/percentile/99.000000")? / 1e3,
        worst_us: number(direction, "clat_ns/max")? / 1e3,
    };
    if figures.requests > 0.0 { Ok(figures) } else { Err("it did nothing".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(errno: i32, reads: u32, writes: u32) -> String {
        let side = |ios| {
            let clat = r#"{"max": 9000, "percentile": {"99.000000": 7000}}"#;
            format!(
                r#"{{"total_ios": {ios}, "iops": {}.5, "bw_bytes": 2097152, "clat_ns": {clat}}}"#,
                ios * 10
            )
        };
        format!(
            "fio: a warning\n{{\"jobs\": [{{\"error\": {errno}, \"read\": {}, \"write\": {}}}]}}",
            side(reads),
            side(writes)
        )
    }

    #[test]
    fn the_direction_that_was_used_is_reported() {
        let expected = Figures { iops: 70.5, mib_s: 2.0, requests: 7.0, p99_us: 7.0, worst_us: 9.0 };
        assert_eq!(parse(&report(0, 7, 0)), Ok(expected));
        assert_eq!(parse(&report(0, 0, 7)), Ok(expected));
    }

    #[test]
    fn a_run_with_errors_or_without_requests_is_no_measurement() {
        assert!(parse(&report(5, 7, 0)).is_err());
        assert!(parse(&report(0, 0, 0)).is_err());
        assert!(parse("fio: failed").is_err());
    }

    #[test]
    fn the_time_is_whole_milliseconds() {
        let load =
            Load { pattern: "read", block_kib: 64, depth: 8, connections: 2, rate: None, pause_us: None };
        let args = load.args(&Target::default_export(Path::new("/s")), Duration::from_secs_f64(0.4));
        assert!(args.contains(&"--runtime=400ms".to_string()), "{args:?}");
        assert!(args.contains(&"--offset_increment=50%".to_string()), "{args:?}");
    }

    #[test]
    fn each_export_has_a_job_of_its_own() {
        let load = Load {
            pattern: "randread",
            block_kib: 4,
            depth: 1,
            connections: 1,
            rate: Some(Rate::Random(200)),
            pause_us: None,
        };
        let target = Target { socket: "/s".into(), exports: vec!["a".into(), "b".into()] };
        let args = load.args(&target, Duration::from_secs(1));
        let rate = ["--rate_iops=200", "--rate_process=poisson"].map(String::from);
        assert!(args.windows(2).any(|pair| pair == rate), "{args:?}");
        let jobs = [
            "--name=loada",
            "--uri=nbd+unix:///a?socket=/s",
            "--name=loadb",
            "--uri=nbd+unix:///b?socket=/s",
        ];
        assert!(args.ends_with(&jobs.map(String::from)), "{args:?}");
    }
}
