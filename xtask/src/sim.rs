//! `cargo xtask sim`: the whole system on a seeded scheduler, built optimised with every assertion.
//!
//! Arguments are those of the program (`crates/sim/src/args.rs`). As a step of `cargo xtask test` it plays the fixed seeds
//! and fresh ones.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::run;

/// Building, and playing as long as a person wants to.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Building, and playing the seeds of the CI.
const CI_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Builds and runs it; `Ok(false)` if it found something.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let outcome = run::run(command(root).args(args), LIMIT);
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
    run::run(command(root).arg("--ci"), CI_LIMIT).failure.map_or(Ok(()), Err)
}

fn command(root: &Path) -> Command {
    let mut command = run::cargo();
    command.current_dir(root);
    command.args(["run", "--quiet", "--profile", "models", "--package", "drystone-sim", "--"]);
    command
}
