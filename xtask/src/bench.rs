//! `cargo xtask bench`: builds the benchmark and the tools, runs it, and puts its tables into the documentation.
//!
//! ```text
//!  drystone-bench  --prints-->  <!-- bench:nbd -->      --replaces-->  the block of the same name in
//!                               | case | ... |                         docs/performance.md
//!                               <!-- end:nbd -->
//! ```
//! Text outside the blocks is never touched; a block that the page does not have yet is added at its end. A run that
//! compares the C tools with themselves (`--aa`), or measures a part of a table (`--only`), changes nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::run;
use crate::workspace::Workspace;

const PAGE: &str = "docs/performance.md";
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
const RUN_LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// Package of the program that is measured.
const MEASURED: &str = "drystone-cli";

/// Builds, measures, writes; `args` go to `drystone-bench`. False if a build or a case failed.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let workspace = Workspace::load(root)?;
    let mut build = run::cargo();
    build.current_dir(root).args(["build", "--release", "--package", "drystone-bench"]);
    if workspace.packages.iter().any(|package| package.name == MEASURED) {
        build.args(["--package", MEASURED]);
    }
    if let Some(failure) = run::run(&mut build, BUILD_LIMIT).failure {
        return Err(format!("cannot build the benchmark: {failure}"));
    }
    let programs = workspace.target_dir.join("release");
    let tables = workspace.target_dir.join("bench.md");
    let _ = std::fs::remove_file(&tables);
    let mut bench = Command::new(programs.join("drystone-bench"));
    bench.current_dir(root).arg("--default-drystone").arg(programs.join("drystone"));
    bench
        .arg("--markdown")
        .arg(&tables)
        .arg("--json")
        .arg(workspace.target_dir.join("bench.json"))
        .args(args);
    let outcome = run::run(&mut bench, RUN_LIMIT);
    let is_part = args.iter().any(|arg| matches!(arg.as_str(), "--aa" | "--only"));
    if let (Ok(tables), false) = (std::fs::read_to_string(&tables), is_part) {
        update(&root.join(PAGE), &tables)?;
    }
    if let Some(failure) = &outcome.failure {
        eprintln!("xtask: drystone-bench: {failure}");
    }
    Ok(outcome.failure.is_none())
}

/// Puts the tables into the page.
fn update(page: &Path, tables: &str) -> Result<(), String> {
    let before = std::fs::read_to_string(page).map_err(|error| format!("{PAGE}: {error}"))?;
    std::fs::write(page, merge(&before, tables)).map_err(|error| format!("{PAGE}: {error}"))?;
    eprintln!("{PAGE} has the new tables");
    Ok(())
}

/// The page with every block of `output` in place of its block of the same name.
fn merge(page: &str, output: &str) -> String {
    let mut page = page.to_string();
    for (name, block) in blocks(output) {
        let (begin, end) = markers(name);
        let range = page.find(&begin).and_then(|start| {
            let tail = page.get(start..)?;
            Some(start..start + tail.find(&end)? + end.len())
        });
        match range {
            Some(range) => page.replace_range(range, block),
            None => {
                page.push('\n');
                page.push_str(block);
                page.push('\n');
            }
        }
    }
    page
}

fn markers(name: &str) -> (String, String) {
    (format!("<!-- bench:{name} -->"), format!("<!-- end:{name} -->"))
}

/// Names and texts, markers included, of the complete blocks in a text.
fn blocks(output: &str) -> Vec<(&str, &str)> {
    let mut blocks = Vec::new();
    for (start, _) in output.match_indices("<!-- bench:") {
        let tail = output.get(start..).unwrap_or_default();
        let Some(name) = tail.strip_prefix("<!-- bench:").and_then(|rest| rest.split(" -->").next()) else {
            continue;
        };
        let (_, end) = markers(name);
        if let Some(len) = tail.find(&end) {
            blocks.push((name, tail.get(..len + end.len()).unwrap_or_default()));
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "noise\n<!-- bench:nbd -->\nnew\n<!-- end:nbd -->\n<!-- bench:info -->\nfirst\n<!-- end:info -->\n<!-- bench:cut -->\n";

    #[test]
    fn blocks_replace_their_namesakes_and_nothing_else() {
        let page = "# Title\n\n<!-- bench:nbd -->\nold\nolder\n<!-- end:nbd -->\n\ntext\n";
        let merged = merge(page, OUTPUT);
        let expected = "# Title\n\n<!-- bench:nbd -->\nnew\n<!-- end:nbd -->\n\ntext\n\n<!-- bench:info -->\nfirst\n<!-- end:info -->\n";
        assert_eq!(merged, expected);
        assert_eq!(merge(&merged, OUTPUT), merged, "the same numbers change nothing");
    }

    #[test]
    fn a_block_that_was_cut_short_is_left_out() {
        assert_eq!(blocks(OUTPUT).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["nbd", "info"]);
    }
}
