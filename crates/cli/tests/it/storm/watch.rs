//! What the daemon uses while the storm goes on: memory, descriptors, threads.
//!
//! Flat means: the median of the last third of the run is at most a tenth and a little above that of the second third.
//! In the first third caches fill. A short run says nothing.

use std::fmt::Write;
use std::time::{Duration, Instant};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Below this many looks nothing is said of growth.
const SAMPLES_MIN: usize = 240;

/// One look.
#[derive(Debug, Clone, Copy)]
struct Sample {
    rss_kib: u64,
    descriptors: u64,
    threads: u64,
}

/// What is measured.
struct Measure {
    name: &'static str,
    of: fn(&Sample) -> u64,
    /// So much more of it is no growth yet.
    slack: u64,
}

const MEASURES: [Measure; 3] = [
    Measure { name: "RSS in KiB", of: |sample| sample.rss_kib, slack: 8192 },
    Measure { name: "descriptors", of: |sample| sample.descriptors, slack: 8 },
    Measure { name: "threads", of: |sample| sample.threads, slack: 2 },
];

/// All looks, in their order.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<Sample>);

impl Samples {
    /// Looks at a process every now and then while `goes_on` says so.
    pub(super) fn take(pid: u32, goes_on: impl Fn() -> bool) -> Self {
        let mut samples = Vec::new();
        while goes_on() {
            samples.extend(look(pid));
            let begin = Instant::now();
            while goes_on() && begin.elapsed() < PERIOD {
                std::thread::park_timeout(PERIOD / 10);
            }
        }
        Self(samples)
    }

    /// Lowest, median, highest of a third.
    fn third(&self, number: usize, measure: fn(&Sample) -> u64) -> [u64; 3] {
        let len = self.0.len();
        let mut values: Vec<u64> =
            self.0[len * number / 3..len * (number + 1) / 3].iter().map(measure).collect();
        values.sort_unstable();
        match values[..] {
            [] => [0; 3],
            [low, ..] => [low, values[values.len() / 2], values[values.len() - 1]],
        }
    }

    /// What has grown.
    pub(super) fn grown(&self) -> Option<String> {
        let has_grown = |Measure { name, of, slack }: &Measure| {
            let [before, after] = [1, 2].map(|number| self.third(number, *of)[1]);
            (after > before + before / 10 + slack).then(|| format!("{name}: {before}, then {after}"))
        };
        if self.0.len() < SAMPLES_MIN { None } else { MEASURES.iter().find_map(has_grown) }
    }

    /// A table, for people.
    pub(super) fn table(&self) -> String {
        let mut text =
            format!("{} samples; lowest, median, highest of each third of the run:\n\n", self.0.len());
        text.push_str("| | first | second | last |\n|---|---|---|---|\n");
        for Measure { name, of, .. } in MEASURES {
            let [first, second, last] = [0, 1, 2].map(|number| {
                let [low, median, high] = self.third(number, of);
                format!("{low} / {median} / {high}")
            });
            writeln!(text, "| {name} | {first} | {second} | {last} |").unwrap();
        }
        text
    }
}

/// `None` once the process has gone.
fn look(pid: u32) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    Some(Sample { rss_kib: field("VmRSS")?, threads: field("Threads")?, descriptors })
}

#[test]
fn growth_is_told_from_noise() {
    let run = |last: u64| {
        let rss = |number: u64| if number < 300 { 50_000 + number % 7 * 100 } else { last };
        let one = |number| Sample { rss_kib: rss(number), descriptors: 20, threads: 5 };
        Samples((0..450).map(one).collect())
    };
    assert_eq!(run(60_000).grown(), None);
    assert_eq!(run(70_000).grown().as_deref(), Some("RSS in KiB: 50300, then 70000"));
    assert!(run(60_000).table().contains("| descriptors | 20 / 20 / 20 | 20 / 20 / 20 | 20 / 20 / 20 |"));
}
