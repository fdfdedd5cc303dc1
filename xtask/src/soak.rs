//! `cargo xtask soak`: random commands against a daemon whose disks are written to, for as long as is wanted.
//!
//! The storm itself is a test of `drystone-cli` (`tests/it/storm`), which runs for some seconds with the others. Here it is
//! built with optimisation, runs alone, and prints what succeeded and what was refused.

use std::path::Path;
use std::time::Duration;

use crate::run;

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
const SECS_DEFAULT: u64 = 600;
/// What the test may take beside its time: every command it waits for, and the comparison at the end.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// Builds and runs the storm; `args` are its length in seconds and its seed. False if it found something.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let (secs, seed) = parse(args)?;
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
    let outcome = run::run(&mut storm, Duration::from_secs(secs).saturating_add(MARGIN));
    if let Some(failure) = &outcome.failure {
        eprintln!("soak: {failure}");
    }
    Ok(outcome.failure.is_none())
}

/// Length in seconds, and the seed if one is wanted.
fn parse(args: &[String]) -> Result<(u64, Option<u64>), String> {
    let (mut secs, mut seed) = (SECS_DEFAULT, None);
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{option} needs a number"))?;
        let number = value.parse().map_err(|_| format!("{option}: '{value}' is no number"))?;
        match option.as_str() {
            "--secs" => secs = number,
            "--seed" => seed = Some(number),
            _ => return Err(format!("unknown argument: {option}")),
        }
    }
    Ok((secs, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_and_seed_are_numbers() {
        let parse = |args: &[&str]| parse(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Ok((600, None)));
        assert_eq!(parse(&["--seed", "7", "--secs", "5"]), Ok((5, Some(7))));
        assert!(parse(&["--secs"]).is_err());
        assert!(parse(&["--secs", "long"]).is_err());
        assert!(parse(&["--days", "2"]).is_err());
    }
}
