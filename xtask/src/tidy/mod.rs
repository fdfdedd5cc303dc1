//! `cargo xtask tidy`: rules of this tree that no compiler checks.
//!
//! | module | rules |
//! |---|---|
//! | `size`      | lines of a file and of a function |
//! | `arrows`    | which crate may depend on which; folder names; tests with a step of their own |
//! | `bans`      | words that may not appear: clocks, files, sockets, thread locals, random maps, unfinished code |
//! | `unsafety`  | where `unsafe` may be, and that crate roots forbid it elsewhere |
//! | `planted`   | the mistakes that the simulation must find are in no other program |
//! | `documents` | headers of Rust files, links between documents, paths of somebody's machine |
//! | `cases`     | `docs/history.md` and `docs/security.md` name tests that exist |
//! | `functions` | tables of public functions are complete |
//!
//! A rule is a pure function of a [`Tree`] (and of the [`Workspace`]) that returns findings, each
//! `path:line: rule: what to do`. `xtask/tidy-exceptions.txt` lists what is tolerated and may only shrink
//! (`exceptions`).

mod arrows;
mod bans;
mod cases;
mod documents;
mod exceptions;
mod functions;
mod lexer;
mod planted;
mod size;
mod tree;
mod unsafety;

use std::fmt;
use std::path::Path;

use crate::workspace::Workspace;
use tree::Tree;

/// One thing to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    /// What to do.
    text: String,
    /// What an exception names: the path, or `path::function`.
    place: String,
    /// What an exception limits: lines for the rules on size, else 1, and findings of one place are added up.
    amount: usize,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, text: impl Into<String>) -> Self {
        Self { path: path.to_string(), line, rule, text: text.into(), place: path.to_string(), amount: 1 }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.text)
    }
}

/// Checks the tree at `root` and prints what it finds; whether that was nothing.
pub(crate) fn run(root: &Path) -> Result<bool, String> {
    let findings = check(&Tree::load(root)?, &Workspace::load(root)?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    Ok(findings.is_empty())
}

fn check(tree: &Tree, workspace: &Workspace) -> Vec<Finding> {
    let sources = tree.sources();
    let mut findings = Vec::new();
    findings.extend(size::check(&sources));
    findings.extend(arrows::check(tree, workspace));
    findings.extend(bans::check(&sources));
    findings.extend(unsafety::check(tree, &sources, workspace));
    findings.extend(planted::check(workspace));
    findings.extend(documents::check(tree, &sources));
    findings.extend(cases::check(tree, &sources));
    findings.extend(functions::check(tree, &sources));
    let mut findings = exceptions::apply(tree, findings);
    findings.sort_by(|a, b| (&a.path, a.line, a.rule).cmp(&(&b.path, b.line, b.rule)));
    findings
}

/// The findings of a rule as lines, for its tests.
#[cfg(test)]
fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| format!("{}:{}: {}", finding.path, finding.line, finding.rule)).collect()
}
