//! `cargo xtask soak [--minutes N | --secs N] [--seed N] [--report FOLDER]`: random commands against a daemon whose disks
//! are written to, for as long as is wanted; and beside it another one that is killed again and again.
//! `cargo xtask soak --sequences N [--seed N]`: random sequences of commands of the tools instead, ours beside the C tools'.
//!
//! Both are tests of `drystone-cli` (`tests/it/storm`), which run for some seconds with the others. Here they are built
//! with optimisation, run alone, and print what they did (`tests/oracle/random` for sequences); `--report` writes that into files, too. The seed replays what is
//! tried, not how threads meet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::run;

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
const SECS_DEFAULT: u64 = 600;
/// What the tests may take beside their time: every command they wait for, and the comparison at the end.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// What a sequence of commands may take.
const PER_SEQUENCE: Duration = Duration::from_secs(60);

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Soak {
    secs: u64,
    seed: Option<u64>,
    /// An existing folder for the reports.
    report: Option<PathBuf>,
    /// How many sequences of commands are played beside the C tools, instead.
    sequences: Option<u64>,
}

/// Builds and runs the storm. False if it found something.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let Soak { secs, seed, report, sequences } = parse(args)?;
    if let Some(count) = sequences {
        return compare(root, count, seed.unwrap_or(0));
    }
    let test = ["test", "--release", "--package", "drystone-cli", "--test", "it"];
    if let Some(failure) =
        run::run(run::cargo().current_dir(root).args(test).arg("--no-run"), BUILD_LIMIT).failure
    {
        return Err(format!("cannot build the test: {failure}"));
    }
    let mut storm = run::cargo();
    storm.current_dir(root).args(test).args(["storm::", "--", "--nocapture"]);
    storm.env("DRYSTONE_SOAK_SECS", secs.to_string());
    if let Some(seed) = seed {
        storm.env("DRYSTONE_SOAK_SEED", seed.to_string());
    }
    if let Some(folder) = report {
        let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
        storm.env("DRYSTONE_SOAK_REPORT", folder);
    }
    let outcome = run::run(&mut storm, Duration::from_secs(secs).saturating_add(MARGIN));
    if let Some(failure) = &outcome.failure {
        eprintln!("soak: {failure}");
    }
    Ok(outcome.failure.is_none())
}

/// Plays sequences of commands with the C tools and ours. False if they differ.
fn compare(root: &Path, count: u64, seed: u64) -> Result<bool, String> {
    let mut test = run::cargo();
    test.current_dir(root).args(["test", "--release", "--package", "drystone-cli", "--features", "oracle"]);
    test.args(["--test", "oracle", "random::", "--", "--nocapture"]);
    // Two tests share them.
    test.env("DRYSTONE_SEQUENCES", count.div_ceil(2).to_string());
    test.env("DRYSTONE_SEQUENCES_FROM", seed.to_string());
    let limit =
        BUILD_LIMIT.saturating_add(PER_SEQUENCE.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)));
    let outcome = run::run(&mut test, limit);
    if let Some(failure) = &outcome.failure {
        eprintln!("soak: {failure}");
    }
    Ok(outcome.failure.is_none())
}

fn parse(args: &[String]) -> Result<Soak, String> {
    let mut soak = Soak { secs: SECS_DEFAULT, seed: None, report: None, sequences: None };
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{option}: '{value}' is no number"));
        match option.as_str() {
            "--minutes" => soak.secs = number()?.saturating_mul(60),
            "--secs" => soak.secs = number()?,
            "--sequences" => soak.sequences = Some(number()?),
            "--seed" => soak.seed = Some(number()?),
            "--report" => soak.report = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown argument: {option}")),
        }
    }
    Ok(soak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_seed_are_numbers() {
        let parse = |args: &[&str]| parse(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>());
        let soak = |secs, seed| Ok(Soak { secs, seed, report: None, sequences: None });
        assert_eq!(parse(&[]), soak(600, None));
        assert_eq!(parse(&["--seed", "7", "--secs", "5"]), soak(5, Some(7)));
        assert_eq!(parse(&["--minutes", "60"]), soak(3600, None));
        assert_eq!(parse(&["--sequences", "40"]).unwrap().sequences, Some(40));
        assert_eq!(parse(&["--report", "x"]).unwrap().report, Some(PathBuf::from("x")));
        for wrong in [&["--secs"][..], &["--secs", "long"], &["--minutes", "-1"], &["--days", "2"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
