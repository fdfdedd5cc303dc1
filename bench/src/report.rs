//! The figures as Markdown tables between markers, and as JSON with every round.
//!
//! ```text
//!  <!-- bench:nbd -->
//!  **NBD on a unix socket, server and client on one processor.**
//!
//!  | | unit | C | ours | floor | ours / C | C / floor | ours / floor | server us/op ... | RSS MiB ... |
//!  <!-- end:nbd -->
//! ```
//! Columns of a side that was not measured are left out.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::cases::{Case, Place};
use crate::options::Options;
use crate::rounds::{Bar, Row, Sample, Side, Spread};

/// Everything measured so far.
#[derive(Debug)]
pub(crate) struct Report {
    ours: &'static str,
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    name: String,
    about: &'static str,
    conditions: String,
    rows: Vec<Row>,
}

impl Report {
    /// A report without rows.
    pub(crate) fn new(options: &Options) -> Self {
        let ours = if options.is_aa { "C again" } else { "ours" };
        Self { ours, sections: Vec::new() }
    }

    /// Adds the rows of a case.
    pub(crate) fn add(&mut self, case: &Case, options: &Options, rows: Vec<Row>) {
        let (name, what) = match case.place {
            Place::Any => (case.name.to_owned(), format!("rounds of {} s", options.time.as_secs_f64())),
            Place::Mixed => place(case.name, options),
        };
        let conditions = format!("{} {what}; {}", options.rounds, conditions());
        self.sections.push(Section { name, about: case.about, conditions, rows });
    }

    /// Writes the files that the options name.
    pub(crate) fn save(&self, options: &Options) -> Result<(), String> {
        let write = |path: &Path, text: String| {
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        if let Some(path) = &options.json {
            write(path, format!("{:#}\n", self.json()))?;
        }
        if let Some(path) = &options.markdown {
            write(path, self.markdown())?;
        }
        Ok(())
    }

    /// The tables.
    pub(crate) fn markdown(&self) -> String {
        self.sections.iter().map(|section| self.section(section)).collect()
    }

    fn section(&self, section: &Section) -> String {
        let rows: Vec<Vec<Cell>> = section.rows.iter().map(|row| cells(row, self.ours)).collect();
        let is_used =
            |index: usize| rows.iter().filter_map(|row| row.get(index)).any(|cell| cell.text.is_some());
        let used = |row: &[Cell], of: fn(&Cell) -> String| -> Vec<String> {
            row.iter().enumerate().filter(|(index, _)| is_used(*index)).map(|(_, cell)| of(cell)).collect()
        };
        let mut text = format!(
            "<!-- bench:{} -->\n**{}.** {}\n\n",
            section.name,
            sentence(section.about),
            section.conditions
        );
        let heads = rows.first().map(|row| used(row, |cell| cell.head.clone())).unwrap_or_default();
        let _ = writeln!(text, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
        for row in &rows {
            let cells = used(row, |cell| cell.text.clone().unwrap_or_default());
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        let _ = writeln!(text, "<!-- end:{} -->", section.name);
        text
    }

    fn json(&self) -> Value {
        let sections = self.sections.iter().map(|section| {
            let rows: Vec<Value> = section.rows.iter().map(json_row).collect();
            json!({
                "case": section.name, "about": section.about, "conditions": section.conditions, "rows": rows,
            })
        });
        json!({ "cases": sections.collect::<Vec<_>>() })
    }
}

fn json_row(row: &Row) -> Value {
    let side = |side: Side| {
        let samples = row.samples.get(&side)?;
        let list = |of: fn(&Sample) -> Option<f64>| samples.iter().map(of).collect::<Vec<_>>();
        Some(json!({
            "value": list(|sample| Some(sample.value)),
            "cpu_us": list(|sample| sample.cpu_us),
            "rss_mib": list(|sample| sample.rss_mib),
            "made_mib": list(|sample| sample.made_mib),
        }))
    };
    let ratio = |a, b| {
        row.ratio(a, b).map(|Spread { median, min, max }| json!({"median": median, "min": min, "max": max}))
    };
    json!({
        "name": row.name, "unit": row.unit.name, "is_rate": row.unit.is_rate,
        "c": side(Side::C), "ours": side(Side::Ours), "floor": side(Side::Floor),
        "bar": row.bar.map(|bar| bar.times), "missed": row.missed(),
        "ours_to_c": ratio(Side::Ours, Side::C),
        "c_to_floor": ratio(Side::C, Side::Floor), "ours_to_floor": ratio(Side::Ours, Side::Floor),
    })
}

/// A cell of the table with the head of its column, which is left out if no row has a text there.
struct Cell {
    head: String,
    text: Option<String>,
}

/// The cells of a row: the same columns for every row.
fn cells(row: &Row, ours: &str) -> Vec<Cell> {
    let cell = |head: &str, text: Option<String>| Cell { head: head.to_string(), text };
    let figure = |side| row.median(side, |sample| Some(sample.value)).map(number);
    let share = |side| row.ratio(side, Side::Floor).map(|ratio| format!("{:.2}", ratio.median));
    let cpu = |side| row.median(side, |sample| sample.cpu_us).map(|value| format!("{value:.1}"));
    let rss = |side| row.median(side, |sample| sample.rss_mib).map(|value| format!("{value:.1}"));
    let made = |side| row.median(side, |sample| sample.made_mib).map(|value| format!("{value:.1}"));
    let verdict = row.bar.zip(row.missed()).map(|(bar, missed)| verdict(bar, &missed));
    let versus = row.ratio(Side::Ours, Side::C);
    let versus = versus.map(|Spread { median, min, max }| format!("**{median:.2}** ({min:.2} to {max:.2})"));
    vec![
        cell("", Some(row.name.clone())),
        cell("unit", Some(row.unit.name.to_string())),
        cell("C", figure(Side::C)),
        cell(ours, figure(Side::Ours)),
        cell("floor", figure(Side::Floor)),
        cell(&format!("{ours} / C"), versus),
        cell("bar", verdict),
        cell("C / floor", share(Side::C)),
        cell(&format!("{ours} / floor"), share(Side::Ours)),
        cell("us/op C", cpu(Side::C)),
        cell(&format!("us/op {ours}"), cpu(Side::Ours)),
        cell("us/op floor", cpu(Side::Floor)),
        cell("RSS MiB C", rss(Side::C)),
        cell(&format!("RSS MiB {ours}"), rss(Side::Ours)),
        cell("RSS MiB floor", rss(Side::Floor)),
        cell("made MiB C", made(Side::C)),
        cell(&format!("made MiB {ours}"), made(Side::Ours)),
    ]
}

/// The bar, and whether it was met.
pub(crate) fn verdict(bar: Bar, missed: &[&str]) -> String {
    if missed.is_empty() {
        format!("{:.1}: met", bar.times)
    } else {
        format!("{:.1}: **missed** ({})", bar.times, missed.join(", "))
    }
}

/// A figure with about three digits, thousands as `k`.
fn number(value: f64) -> String {
    match value {
        _ if value >= 10_000.0 => format!("{:.1} k", value / 1000.0),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Name and sizes of a case whose disk has a length and a place: each combination has a table of its own.
fn place(name: &str, options: &Options) -> (String, String) {
    let mut stat = std::process::Command::new("stat");
    stat.args(["--file-system", "--format=%T"]).arg(&options.dir);
    let kind = stat.output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let kind = kind.ok().filter(|kind| !kind.is_empty()).unwrap_or_else(|| "unknown".into());
    let place = if kind == "tmpfs" { "memory" } else { "disk" };
    let gib = f64::from(options.mixed_mib) / 1024.0;
    (format!("{name}-{gib}g-{place}"), format!("rounds, {gib} GiB on {kind}"))
}

/// On what it was measured.
fn conditions() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let tool = crate::process::output(
        std::process::Command::new("qemu-img").arg("--version"),
        std::time::Duration::from_secs(10),
        &std::env::temp_dir().join(format!("drystone-bench-version-{}", std::process::id())),
    );
    let tool =
        tool.ok().and_then(|text| text.split_whitespace().nth(2).map(String::from)).unwrap_or_default();
    format!(
        "{cpus} processors, Linux {}, C tools {tool}, load {}.",
        kernel.split('-').next().unwrap_or_default().trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rounds::Unit;

    fn sample(value: f64) -> Vec<Sample> {
        vec![Sample { value, cpu_us: Some(value / 10_000.0), ..Sample::default() }]
    }

    fn report(samples: BTreeMap<Side, Vec<Sample>>) -> String {
        let unit = Unit { name: "IOPS", is_rate: true };
        let row = Row { name: "read".into(), unit, samples, bar: None };
        let section =
            Section { name: "nbd".into(), about: "all of it", conditions: "Quiet.".into(), rows: vec![row] };
        Report { ours: "ours", sections: vec![section] }.markdown()
    }

    #[test]
    fn a_table_stands_between_its_markers() {
        let all =
            [(Side::C, sample(40_000.0)), (Side::Ours, sample(90_000.0)), (Side::Floor, sample(100_000.0))];
        let expected = "<!-- bench:nbd -->\n**All of it.** Quiet.\n\n\
            |  | unit | C | ours | floor | ours / C | C / floor | ours / floor | us/op C | us/op ours | us/op floor |\n\
            |---|---|---|---|---|---|---|---|---|---|---|\n\
            | read | IOPS | 40.0 k | 90.0 k | 100.0 k | **2.25** (2.25 to 2.25) | 0.40 | 0.90 | 4.0 | 9.0 | 10.0 |\n\
            <!-- end:nbd -->\n";
        assert_eq!(report(BTreeMap::from(all)), expected);
    }

    #[test]
    fn a_side_that_was_not_measured_has_no_columns() {
        let text = report(BTreeMap::from([(Side::C, sample(1.0)), (Side::Floor, sample(2.0))]));
        assert!(text.contains("|  | unit | C | floor | C / floor | us/op C | us/op floor |\n"), "{text}");
    }
}
