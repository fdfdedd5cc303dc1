//! `cargo xtask demo`: a real chain, served to real clients, with snapshots under writes; a minute after the build.
//!
//! The story itself is in [`flow`], which a test of `drystone-cli` plays with the program that it has built.

pub(crate) mod flow;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::run;
use crate::workspace::Workspace;

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Length of the disk.
const LEN_BYTES: u64 = 256 << 20;

/// Builds the program and plays the demo; false if something was not as it must be.
pub(crate) fn run(root: &Path) -> Result<bool, String> {
    let workspace = Workspace::load(root)?;
    let mut build = run::cargo();
    build.current_dir(root).args(["build", "--release", "--package", "drystone-cli"]);
    if let Some(failure) = run::run(&mut build, BUILD_LIMIT).failure {
        return Err(format!("cannot build drystone: {failure}"));
    }
    let drystone = workspace.target_dir.join("release/drystone");
    let dir = std::env::temp_dir().join(format!("drystone-demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let began = Instant::now();
    let demo = flow::Demo { drystone: &drystone, dir: &dir, len_bytes: LEN_BYTES };
    let played = demo.play(&mut |line| println!("{line}"));
    let _ = std::fs::remove_dir_all(&dir);
    if let Err(text) = played {
        eprintln!("demo: {text}");
        return Ok(false);
    }
    println!("\nAll of it took {:.1} seconds. What to try next:\n", began.elapsed().as_secs_f64());
    println!("{}", flow::next_steps(&drystone));
    Ok(true)
}
