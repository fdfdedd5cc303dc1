//! Where `unsafe` may be: `buf`, `sys`, and a handful of files that are listed here. Every other crate forbids it.
//!
//! A crate root says `#![forbid(unsafe_code)]`; the root of a crate with a listed file says `#![deny(unsafe_code)]`,
//! and the file expects the lint with a reason.

use super::Finding;
use super::lexer::Kind;
use super::tree::{Class, Source, Tree, crate_of, is_below, starts_with};
use crate::workspace::Workspace;

/// Files and folders that may hold `unsafe`.
const ALLOWED: &[&str] = &[
    "crates/buf",
    "crates/sys",
    // The slots that edges are read from without a lock; the gate protocol keeps readers out of a write.
    "crates/core/src/graph/slot.rs",
    // A cell that loom watches, for the models of the same protocol.
    "crates/core/src/models/mod.rs",
    // The allocator that counts: the trait of allocators is unsafe.
    "crates/testkit/src/allocations.rs",
];

fn is_allowed(path: &str) -> bool {
    ALLOWED.iter().any(|allowed| path == *allowed || is_below(path, allowed))
}

pub(super) fn check(tree: &Tree, sources: &[Source<'_>], workspace: &Workspace) -> Vec<Finding> {
    let mut findings: Vec<Finding> = sources.iter().filter_map(misplaced).collect();
    for target in workspace.packages.iter().flat_map(|package| &package.targets) {
        let is_root = matches!(target.kind.as_str(), "lib" | "bin" | "proc-macro");
        if let Some(source) = sources.iter().find(|source| is_root && source.path == target.path) {
            findings.extend(unguarded(source));
        }
    }
    findings
        .extend(ALLOWED.iter().filter(|path| path.contains("/src/")).filter_map(|path| stale(tree, path)));
    findings
}

/// The first `unsafe` of a file that may not have it.
fn misplaced(source: &Source<'_>) -> Option<Finding> {
    if is_allowed(source.path) || source.class == Class::Fixture {
        return None;
    }
    let token = source.tokens.iter().find(|token| token.text == "unsafe" && token.kind == Kind::Ident)?;
    let text = "move it to `buf` or `sys`, or argue for the file in xtask/src/tidy/unsafety.rs";
    Some(Finding::new(source.path, token.line, "unsafe", text))
}

fn unguarded(source: &Source<'_>) -> Option<Finding> {
    let own = crate_of(source.path);
    if is_allowed(&format!("crates/{own}")) {
        return None;
    }
    let partly = ALLOWED.iter().any(|allowed| crate_of(allowed) == own);
    let level = if partly { "deny" } else { "forbid" };
    let wanted = |level| ["#", "!", "[", level, "(", "unsafe_code", ")", "]"];
    let has = |level| {
        (0..source.tokens.len())
            .any(|at| starts_with(source.tokens.get(at..).unwrap_or_default(), &wanted(level)))
    };
    let text = format!("add #![{level}(unsafe_code)] to this crate root");
    (!has("forbid") && !has(level)).then(|| Finding::new(source.path, 1, "forbid-unsafe", text))
}

/// A listed file that is there must need its entry.
fn stale(tree: &Tree, path: &str) -> Option<Finding> {
    let text = tree.text(path)?;
    let needs =
        super::lexer::lex(text).iter().any(|token| token.text == "unsafe" && token.kind == Kind::Ident);
    let advice = "has no `unsafe`; take it off the list in xtask/src/tidy/unsafety.rs";
    (!needs).then(|| Finding::new(path, 1, "unsafe", advice))
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;
    use crate::workspace::{Package, Target};

    fn found(path: &str, text: &str) -> Vec<String> {
        let tree = Tree::of(&[(path, text)]);
        let target = Target { kind: "lib".into(), path: "crates/job/src/lib.rs".into(), ..Target::default() };
        let core = Target { path: "crates/core/src/lib.rs".into(), ..target.clone() };
        let package = Package { targets: vec![target, core], ..Package::default() };
        let workspace = Workspace { packages: vec![package], ..Workspace::default() };
        lines(&check(&tree, &tree.sources(), &workspace))
    }

    #[test]
    fn unsafe_is_found_as_a_keyword_and_not_as_a_word() {
        assert_eq!(
            found("crates/job/src/a.rs", "fn a() {}\nunsafe fn b() {}"),
            ["crates/job/src/a.rs:2: unsafe"]
        );
        assert!(found("crates/job/src/a.rs", "// unsafe\nconst A: &str = \"unsafe\";").is_empty());
        assert!(found("crates/sys/src/a.rs", "unsafe fn b() {}").is_empty());
        assert!(found("crates/core/src/graph/slot.rs", "unsafe fn b() {}").is_empty());
        assert_eq!(found("crates/core/src/graph/plan.rs", "unsafe fn b() {}").len(), 1);
        assert_eq!(found("crates/job/tests/it/main.rs", "unsafe fn b() {}").len(), 1);
    }

    #[test]
    fn a_crate_root_forbids_it() {
        let root = "crates/job/src/lib.rs";
        assert_eq!(found(root, "//! x\n"), [format!("{root}:1: forbid-unsafe")]);
        assert_eq!(found(root, "//! x\n#![deny(unsafe_code)]\n").len(), 1);
        assert!(found(root, "//! x\n#![forbid(unsafe_code)]\n").is_empty());
        assert!(found("crates/core/src/lib.rs", "//! x\n#![deny(unsafe_code)]\n").is_empty());
    }

    #[test]
    fn a_listed_file_without_unsafe_leaves_the_list() {
        assert_eq!(
            found("crates/core/src/graph/slot.rs", "fn a() {}"),
            ["crates/core/src/graph/slot.rs:1: unsafe"]
        );
    }
}
