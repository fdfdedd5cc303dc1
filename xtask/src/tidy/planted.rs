//! The mistakes that the simulation must find (`drystone_base::planted`) are built into the simulation only, and only when
//! it is asked for: features of one build add up, so nobody may ask for them by the way.
//!
//! | may | who |
//! |---|---|
//! | have a feature `planted` | `base`, which holds the switch, and `sim`, which forwards it |
//! | enable it | that feature of `sim`: no other feature, no dependency, of tests neither |

use super::Finding;
use super::tree::crate_of;
use crate::workspace::{Package, Workspace};

const FEATURE: &str = "planted";
/// Crates that have the feature.
const ALLOWED: &[&str] = &["base", "sim"];

pub(super) fn check(workspace: &Workspace) -> Vec<Finding> {
    workspace.packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let manifest = format!("{}/Cargo.toml", package.dir);
    let finding = |text: String| Finding::new(&manifest, 1, "planted", text);
    let has_it = package.features.contains_key(FEATURE) && !ALLOWED.contains(&crate_of(&package.dir));
    let has_it = has_it.then(|| "the feature `planted` is the simulation's; take it out".to_owned());
    let asks =
        package.dependencies.iter().filter(|dependency| dependency.features.iter().any(|name| is_it(name)));
    let asks = asks.map(|dependency| {
        format!(
            "`{}` is built with mistakes for everybody; take `planted` out of its features",
            dependency.name
        )
    });
    let enabling = package
        .features
        .iter()
        .filter(|(name, enables)| *name != FEATURE && enables.iter().any(|name| is_it(name)));
    let enabling =
        enabling.map(|(name, _)| format!("feature `{name}` builds mistakes in; only `planted` may"));
    has_it.into_iter().chain(asks).chain(enabling).map(finding).collect()
}

/// Whether a name among features is that feature, of this package or of another one.
fn is_it(name: &str) -> bool {
    name.rsplit('/').next() == Some(FEATURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn found(dir: &str, features: &[(&str, &[&str])], asked: &[&str]) -> usize {
        let strings = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let features = features.iter().map(|(name, enables)| (name.to_string(), strings(enables))).collect();
        let dependency = Dependency { name: "drystone-base".into(), is_dev: true, features: strings(asked) };
        let package =
            Package { dir: dir.into(), features, dependencies: vec![dependency], ..Package::default() };
        check(&Workspace { packages: vec![package], ..Workspace::default() }).len()
    }

    #[test]
    fn the_simulation_may_be_asked_for_mistakes() {
        assert_eq!(found("crates/base", &[("planted", &[])], &[]), 0);
        assert_eq!(found("crates/sim", &[("planted", &["drystone-base/planted"])], &["sim"]), 0);
    }

    #[test]
    fn nobody_else_has_mistakes() {
        assert_eq!(found("crates/cli", &[("planted", &["drystone-base/planted"])], &[]), 1);
        assert_eq!(found("crates/sim", &[("default", &["planted"]), ("planted", &[])], &[]), 1);
        assert_eq!(found("crates/testkit", &[("sim", &["drystone-base?/planted"])], &[]), 1);
        assert_eq!(
            found("crates/cli", &[], &["planted"]),
            1,
            "tests of the same build would run with it, too"
        );
    }
}
