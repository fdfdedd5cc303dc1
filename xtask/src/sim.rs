//! `cargo xtask sim`: the whole system on a seeded scheduler, built optimised with every assertion.
//!
//! Arguments are those of the program (`crates/sim/src/args.rs`). As steps of `cargo xtask test` it plays the fixed seeds
//! and fresh ones, and finds the mistakes of `drystone_base::planted`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::run;

/// Building, and playing as long as a person wants to.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Building, and playing the seeds of the CI.
const CI_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Builds and runs it; `Ok(false)` if it found something, or did not find what was planted.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let is_planted = args.iter().any(|arg| arg == "--planted" || arg == "--plant");
    let outcome = run::run(command(root, is_planted).args(args), LIMIT);
    match outcome.failure {
        None => Ok(true),
        Some(failure) => {
            eprintln!("sim: {failure}");
            Ok(false)
        }
    }
}

/// The seeds of the CI.
pub(crate) fn ci(root: &Path) -> Result<(), String> {
    run::run(command(root, false).arg("--ci"), CI_LIMIT).failure.map_or(Ok(()), Err)
}

/// The mistakes that it must find.
pub(crate) fn planted(root: &Path) -> Result<(), String> {
    run::run(command(root, true).arg("--planted"), CI_LIMIT).failure.map_or(Ok(()), Err)
}

/// With mistakes to find, it is another program.
fn command(root: &Path, is_planted: bool) -> Command {
    let mut command = run::cargo();
    command.current_dir(root);
    command.args(["run", "--quiet", "--profile", "models", "--package", "drystone-sim"]);
    if is_planted {
        command.args(["--features", "planted"]);
    }
    command.arg("--");
    command
}
