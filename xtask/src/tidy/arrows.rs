//! What manifests say: which crate may depend on which, that a folder is named after its crate, and that a test with a
//! step of its own does not run in the ordinary step too.
//!
//! ```text
//!  base <- buf <- core <- { sys, protocol, format, filter, job, export } <- { daemon, cli }
//!  { protocol, format, filter } <- blockdev <- { daemon, cli }
//!  base <- nbd <- { protocol, export }        sys <- { protocol, blockdev, export, daemon, cli }        qmp <- { daemon, cli }
//! ```
//! Dependencies of tests are free, and `testkit` and `fuzz` are nothing else; `sim`, which nobody depends on, plays the
//! system with it. A crate that is not in the table is a finding: its
//! place has to be decided, not discovered.

use super::Finding;
use super::tree::{Tree, crate_of};
use crate::workspace::{Package, SPECIAL_TESTS, Target, Workspace};

const PREFIX: &str = "drystone-";
/// Only `[dev-dependencies]` may name it, and crates that are tests themselves.
const TEST_ONLY: &str = "testkit";

/// Crate, and the crates that its users get with it.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("buf", &["base"]),
    ("core", &["base", "buf"]),
    ("nbd", &["base"]),
    ("qmp", &["base"]),
    ("sys", &["base", "buf", "core"]),
    ("format", &["base", "buf", "core"]),
    ("filter", &["base", "buf", "core"]),
    ("job", &["base", "buf", "core", "filter"]),
    ("protocol", &["base", "buf", "core", "sys", "nbd"]),
    ("export", &["base", "buf", "core", "sys", "nbd"]),
    ("blockdev", &["base", "buf", "core", "sys", "nbd", "protocol", "format", "filter"]),
    (
        "daemon",
        &[
            "base", "buf", "core", "sys", "nbd", "protocol", "format", "filter", "blockdev", "job", "export",
            "qmp",
        ],
    ),
    (
        "cli",
        &[
            "base", "buf", "core", "sys", "nbd", "protocol", "format", "filter", "blockdev", "job", "export",
            "qmp", "daemon",
        ],
    ),
    ("testkit", &["base", "buf", "core", "nbd"]),
    // For tests only, as the test kit is, and so are those that use it.
    (
        "sim",
        &[
            "base", "buf", "core", "sys", "nbd", "protocol", "format", "filter", "blockdev", "job", "export",
            "qmp", "daemon", "played", "testkit",
        ],
    ),
    (
        "played",
        &[
            "base", "buf", "core", "sys", "nbd", "protocol", "format", "filter", "blockdev", "job", "export",
            "qmp", "daemon", "testkit",
        ],
    ),
    ("xtask", &[]),
    ("bench", &[]),
    ("fuzz", &["base", "core", "format", "filter", "blockdev", "nbd", "qmp", "testkit"]),
    ("examples", &["base", "buf", "core", "sys", "protocol", "format", "blockdev"]),
];

pub(super) fn check(tree: &Tree, workspace: &Workspace) -> Vec<Finding> {
    workspace.packages.iter().flat_map(|package| check_package(tree, package)).collect()
}

fn check_package(tree: &Tree, package: &Package) -> Vec<Finding> {
    let manifest = format!("{}/Cargo.toml", package.dir);
    let own = crate_of(&package.dir);
    let mut findings = Vec::new();
    if package.name.strip_prefix(PREFIX).unwrap_or(&package.name) != own {
        let text = format!("package `{}` is in a folder of another name; rename one", package.name);
        findings.push(Finding::new(&manifest, line_of(tree, &manifest, "name"), "crate-name", text));
    }
    findings.extend(ordinary(tree, package).map(|text| Finding::new(&manifest, 1, "special-test", text)));
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == own) else {
        let text = format!("`{own}` is not in the table of xtask/src/tidy/arrows.rs; decide what it may see");
        findings.push(Finding::new(&manifest, 1, "arrows", text));
        return findings;
    };
    for dependency in package.dependencies.iter().filter(|dependency| !dependency.is_dev) {
        let Some(other) = dependency.name.strip_prefix(PREFIX) else { continue };
        if allowed.contains(&other) {
            continue;
        }
        let text = if other == TEST_ONLY {
            format!("`{other}` is for tests; name it in [dev-dependencies]")
        } else {
            format!("`{own}` may not see `{other}`; it sees {}", sentence(allowed))
        };
        findings.push(Finding::new(&manifest, line_of(tree, &manifest, &dependency.name), "arrows", text));
    }
    findings
}

/// A test such as `loom` that is built without its feature too.
fn ordinary(tree: &Tree, package: &Package) -> Option<String> {
    let is_ordinary = |target: &&Target| {
        let gate = format!("#![cfg(feature = \"{}\")]", target.name);
        target.kind == "test"
            && SPECIAL_TESTS.contains(&target.name.as_str())
            && !target.required_features.contains(&target.name)
            && !tree.text(&target.path).unwrap_or_default().contains(&gate)
    };
    let name = &package.targets.iter().find(is_ordinary)?.name;
    Some(format!("test `{name}` needs `required-features = [\"{name}\"]`, and the package that feature"))
}

fn sentence(allowed: &[&str]) -> String {
    if allowed.is_empty() { "no other crate of ours".into() } else { format!("only {}", allowed.join(", ")) }
}

/// The line of a manifest that begins with a key; 1 if there is none.
fn line_of(tree: &Tree, manifest: &str, key: &str) -> usize {
    let text = tree.text(manifest).unwrap_or_default();
    text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;
    use crate::workspace::Dependency;

    /// Crates that are nothing but tests.
    const TESTS: &[&str] = &["fuzz", "played", "sim"];

    fn found(name: &str, dir: &str, dependencies: &[(&str, bool)]) -> Vec<String> {
        let dependency = |(name, is_dev): &(&str, bool)| Dependency {
            name: name.to_string(),
            is_dev: *is_dev,
            ..Dependency::default()
        };
        let dependencies = dependencies.iter().map(dependency).collect();
        let package = Package { name: name.into(), dir: dir.into(), dependencies, ..Package::default() };
        let manifest = "[package]\nname = \"x\"\n[dependencies]\ndrystone-core.workspace = true\n";
        let tree = Tree::of(&[(&format!("{dir}/Cargo.toml"), manifest)]);
        lines(&check(&tree, &Workspace { packages: vec![package], ..Workspace::default() }))
    }

    #[test]
    fn an_arrow_against_the_picture_is_found_at_its_line() {
        let found =
            found("drystone-buf", "crates/buf", &[("drystone-base", false), ("drystone-core", false)]);
        assert_eq!(found, ["crates/buf/Cargo.toml:4: arrows"]);
    }

    #[test]
    fn tests_may_depend_on_anything_and_testkit_is_for_tests_only() {
        assert!(
            found("drystone-format", "crates/format", &[("drystone-sys", true), ("drystone-testkit", true)])
                .is_empty()
        );
        assert_eq!(found("drystone-cli", "crates/cli", &[("drystone-testkit", false)]).len(), 1);
    }

    #[test]
    fn a_crate_has_its_folders_name_and_a_place_in_the_table() {
        assert_eq!(found("drystone-core", "crates/kernel", &[]).len(), 2);
        assert!(found("drystone-core", "crates/core", &[]).is_empty());
        assert!(found("drystone-bench", "bench", &[("serde_json", false)]).is_empty());
    }

    #[test]
    fn a_test_with_a_step_of_its_own_needs_its_feature() {
        let target = |required: &[&str], text: &str| {
            let required_features = required.iter().map(|name| name.to_string()).collect();
            let target =
                Target { name: "loom".into(), kind: "test".into(), path: "l.rs".into(), required_features };
            ordinary(&Tree::of(&[("l.rs", text)]), &Package { targets: vec![target], ..Package::default() })
                .is_some()
        };
        assert!(target(&[], ""));
        assert!(target(&["oracle"], ""));
        assert!(!target(&["loom"], ""));
        assert!(!target(&[], "#![cfg(feature = \"loom\")]"));
    }

    #[test]
    fn the_table_names_only_crates_that_it_lists() {
        let names: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
        for (name, allowed) in ARROWS {
            assert!(allowed.iter().all(|other| names.contains(other)), "{name}");
            assert!(!allowed.contains(name), "{name}");
            assert!(TESTS.contains(name) || !allowed.contains(&TEST_ONLY), "{name}");
        }
    }
}
