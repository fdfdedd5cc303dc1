//! The workspace as `cargo metadata` tells it: packages, their dependencies, features and targets.
//!
//! Paths are relative to the root of the workspace, with `/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::run;

/// One package of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its folder; empty for the root.
    pub(crate) dir: String,
    /// What it depends on.
    pub(crate) dependencies: Vec<Dependency>,
    /// Its features, and what each enables.
    pub(crate) features: BTreeMap<String, Vec<String>>,
    /// What it builds.
    pub(crate) targets: Vec<Target>,
    /// Others may depend on it.
    pub(crate) is_published: bool,
}

/// One dependency of a package.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dependency {
    /// Name of the package.
    pub(crate) name: String,
    /// For which part it is needed.
    pub(crate) is_dev: bool,
    /// Features of it that are asked for.
    pub(crate) features: Vec<String>,
}

/// One thing that a package builds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `custom-build`, ...
    pub(crate) kind: String,
    /// Its root file.
    pub(crate) path: String,
    /// Features without which it is not built.
    pub(crate) required_features: Vec<String>,
}

/// Names of the features and tests that `cargo xtask test` runs in steps of their own.
pub(crate) const SPECIAL_TESTS: &[&str] = &["oracle", "loom"];

impl Package {
    /// Whether it has both a feature and an integration test of that name: the mark of a test that has a step
    /// of its own ([`SPECIAL_TESTS`]).
    pub(crate) fn has_special_test(&self, name: &str) -> bool {
        self.features.contains_key(name)
            && self.targets.iter().any(|target| target.kind == "test" && target.name == name)
    }
}

/// What `cargo metadata` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workspace {
    /// Its packages.
    pub(crate) packages: Vec<Package>,
    /// Where cargo puts what it builds (absolute).
    pub(crate) target_dir: PathBuf,
}

/// The folder of the workspace.
pub(crate) fn root() -> Result<PathBuf, String> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.parent().map(Path::to_path_buf).ok_or_else(|| "xtask has no parent folder".into())
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load(root: &Path) -> Result<Self, String> {
        let mut command = run::cargo();
        command.current_dir(root).args(["metadata", "--no-deps", "--format-version", "1"]);
        Self::parse(&run::quiet(&mut command)?)
    }

    /// Reads cargo's answer.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(json).map_err(|error| format!("cargo metadata: {error}"))?;
        let root = format!("{}/", text(&value, "workspace_root"));
        let packages = list(&value, "packages").iter().map(|package| parse_package(package, &root)).collect();
        Ok(Self { packages, target_dir: PathBuf::from(text(&value, "target_directory")) })
    }
}

fn parse_package(value: &Value, root: &str) -> Package {
    let relative = |path: &str| path.strip_prefix(root).unwrap_or(path).to_string();
    let manifest = relative(&text(value, "manifest_path"));
    let dependencies = list(value, "dependencies").iter().map(|dependency| Dependency {
        name: text(dependency, "name"),
        is_dev: text(dependency, "kind") == "dev",
        features: strings(dependency, "features"),
    });
    let targets = list(value, "targets").iter().map(|target| Target {
        name: text(target, "name"),
        kind: strings(target, "kind").into_iter().next().unwrap_or_default(),
        path: relative(&text(target, "src_path")),
        required_features: strings(target, "required-features"),
    });
    let features = value.get("features").and_then(Value::as_object).into_iter().flatten();
    let features = features.map(|(name, enables)| (name.clone(), strings_of(enables)));
    Package {
        name: text(value, "name"),
        dir: manifest.strip_suffix("Cargo.toml").unwrap_or_default().trim_end_matches('/').to_string(),
        dependencies: dependencies.collect(),
        features: features.collect(),
        targets: targets.collect(),
        // `publish = false` is an empty list of registries.
        is_published: value
            .get("publish")
            .is_none_or(|list| list.as_array().is_none_or(|list| !list.is_empty())),
    }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_string()
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    value.get(key).map(strings_of).unwrap_or_default()
}

fn strings_of(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_relative_and_kinds_are_read() {
        let json = r#"{"workspace_root": "/r", "target_directory": "/r/target", "packages": [{
            "name": "drystone-core", "manifest_path": "/r/crates/core/Cargo.toml",
            "dependencies": [{"name": "drystone-base", "kind": null}, 
                             {"name": "drystone-testkit", "kind": "dev", "features": ["more"]}],
            "features": {"loom": ["dep:loom"], "oracle": []},
            "targets": [{"name": "drystone_core", "kind": ["lib"], "src_path": "/r/crates/core/src/lib.rs"},
                        {"name": "loom", "kind": ["test"], "src_path": "/r/crates/core/tests/loom.rs",
                         "required-features": ["loom"]}]}]}"#;
        let workspace = Workspace::parse(json).unwrap();
        let core = &workspace.packages[0];
        assert_eq!(core.dir, "crates/core");
        assert_eq!(core.targets[0].path, "crates/core/src/lib.rs");
        assert!(!core.dependencies[0].is_dev);
        assert!(core.dependencies[1].is_dev);
        assert_eq!(core.dependencies[1].features, ["more"]);
        assert_eq!(core.features["loom"], ["dep:loom"]);
        assert!(core.has_special_test("loom"));
        assert_eq!(core.targets[1].required_features, ["loom"]);
        assert!(!core.has_special_test("oracle"), "the feature alone is not a test");
    }
}
