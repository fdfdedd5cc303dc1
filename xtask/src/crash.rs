//! `cargo xtask crash`: the tests of crash points alone, deeper if wanted, and the table of `docs/reliability.md`.
//!
//! ```text
//!  crash points: first allocation: 21 boundaries, 21 of them exhaustive, 285 subsets, 96 images      one line of each test
//! ```
//! `cargo xtask test` adds these lines up. Which tests print them, and that the runner shows it, is in `.config/nextest.toml`.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::run;

/// How the tests are told to look deeper.
const DEPTH_VARIABLE: &str = "DRYSTONE_CRASH_DEPTH";
/// What the lines begin with.
const PREFIX: &str = "crash points: ";
/// Who has such tests.
const PACKAGES: [&str; 3] = ["drystone-format", "drystone-blockdev", "drystone-job"];
/// Names of the tests contain this.
const FILTER: &str = "crash_points::";
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What one test has looked at, or all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Points {
    name: String,
    boundaries: u64,
    exhaustive: u64,
    subsets: u64,
    images: u64,
}

impl Points {
    fn parse(line: &str) -> Option<Self> {
        let (name, numbers) = line.trim().strip_prefix(PREFIX)?.split_once(": ")?;
        let mut numbers = numbers.split(", ").map(|part| part.split(' ').next()?.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self {
            name: name.to_owned(),
            boundaries: next()?,
            exhaustive: next()?,
            subsets: next()?,
            images: next()?,
        })
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            name: self.name,
            boundaries: self.boundaries + other.boundaries,
            exhaustive: self.exhaustive + other.exhaustive,
            subsets: self.subsets + other.subsets,
            images: self.images + other.images,
        }
    }

    fn coverage(&self) -> String {
        match self.boundaries - self.exhaustive.min(self.boundaries) {
            0 => "exhaustive".to_owned(),
            sampled => format!("exhaustive, at {sampled} boundaries sampled"),
        }
    }
}

/// A row of the table.
impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, boundaries, subsets, images, .. } = self;
        write!(f, "| {name} | {boundaries} | {subsets} | {images} | {} |", self.coverage())
    }
}

fn all_of(output: &str) -> Vec<Points> {
    let mut all: Vec<Points> = output.lines().filter_map(Points::parse).collect();
    all.sort_by(|one, two| one.name.cmp(&two.name));
    all
}

fn total(all: &[Points]) -> Points {
    all.iter().fold(Points { name: "all".to_owned(), ..Points::default() }, Points::plus)
}

/// The line of `cargo xtask test`; `None` if no test of crash points has said anything.
pub(crate) fn summary(output: &str) -> Option<String> {
    let all = all_of(output);
    let Points { boundaries, exhaustive, subsets, images, .. } = total(&all);
    (!all.is_empty()).then(|| {
        format!(
            "crash points: {} changes, {boundaries} boundaries, {exhaustive} of them exhaustive, {subsets} subsets, {images} images",
            all.len()
        )
    })
}

/// Runs the tests and prints the table; `Ok(false)` if one has failed.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let (depth, filter) = parse(args)?;
    let mut command = run::cargo();
    command.current_dir(root).env(DEPTH_VARIABLE, depth.to_string());
    command.arg("test").args(PACKAGES.map(|package| format!("--package={package}")));
    command.args(["--test", "it", "--", "--nocapture", &filter]);
    let outcome = run::run(&mut command, LIMIT);
    let all = all_of(&outcome.output);
    println!("\n| change | boundaries | subsets | images | coverage |\n|---|---|---|---|---|");
    all.iter().for_each(|one| println!("{one}"));
    println!("{}", total(&all));
    match outcome.failure {
        None => Ok(true),
        Some(failure) => {
            eprintln!("crash: {failure}");
            Ok(false)
        }
    }
}

/// How deep, and which changes.
fn parse(args: &[String]) -> Result<(u64, String), String> {
    let (mut depth, mut filter) = (1, FILTER.to_owned());
    let mut rest = args.iter().map(String::as_str);
    while let Some(arg) = rest.next() {
        match arg {
            "--depth" => {
                let number = rest.next().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
                depth = number.ok_or("--depth needs a number from 1 on")?;
            }
            _ if arg.starts_with('-') => return Err(format!("unknown argument: {arg}")),
            _ => filter = format!("{FILTER}{arg}"),
        }
    }
    Ok((depth, filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "noise\n    crash points: two: 3 boundaries, 2 of them exhaustive, 9 subsets, 7 images\n\
        crash points: one: 1 boundaries, 1 of them exhaustive, 2 subsets, 2 images\n";

    #[test]
    fn lines_are_added_up() {
        let line = "crash points: 2 changes, 4 boundaries, 3 of them exhaustive, 11 subsets, 9 images";
        assert_eq!(summary(OUTPUT).as_deref(), Some(line));
        assert_eq!(summary("crash points: none"), None);
    }

    #[test]
    fn the_table_is_in_the_order_of_names() {
        let rows: Vec<String> = all_of(OUTPUT).iter().map(Points::to_string).collect();
        let sampled = "| two | 3 | 9 | 7 | exhaustive, at 1 boundaries sampled |";
        assert_eq!(rows, ["| one | 1 | 2 | 2 | exhaustive |", sampled]);
    }

    #[test]
    fn arguments_are_a_depth_and_a_name() {
        let parse = |args: &[&str]| parse(&args.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Ok((1, "crash_points::".to_owned())));
        assert_eq!(parse(&["--depth", "8", "l1"]), Ok((8, "crash_points::l1".to_owned())));
        assert!(parse(&["--depth", "0"]).is_err());
        assert!(parse(&["--deep"]).is_err());
    }
}
