//! `cargo xtask test`: every check, cheap ones first.
//!
//! | step | what fails it |
//! |---|---|
//! | packages | a program that the tests need is missing and cannot be installed |
//! | tidy, fmt, clippy, doc | a finding; a warning is one |
//! | tests | `cargo nextest` if it is installed, else `cargo test` |
//! | dist | what `cargo xtask dist` makes cannot be installed, used or removed; a crate cannot be packaged |
//! | doctests | nextest does not run them |
//! | loom CRATE | every crate with a feature and a test named `loom`, optimised, in a target folder of its own |
//! | oracle CRATE | every crate with a feature and a test named `oracle`: our images and output against the C tools 10.0 |
//!
//! The last line is `N passed, N failed`: tests as their runners counted them, plus one failure for each step that
//! failed without a failed test. A run that is not green says so in its exit status too.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::summary::{self, Counts, Runner};
use crate::workspace::{SPECIAL_TESTS, Workspace};
use crate::{crash, dist, packages, run, sim, tidy};

/// Time limit of a step that only looks at the code.
const LINT_LIMIT: Duration = Duration::from_secs(20 * 60);
/// Time limit of a step that runs tests; the CI has 90 minutes for all.
const TEST_LIMIT: Duration = Duration::from_secs(40 * 60);
/// The packages that are for tests only.
const TEST_KITS: [&str; 4] = ["drystone-testkit", "drystone-played", "drystone-sim", "drystone-fuzz"];
/// The release of the C tools that the comparison is written for.
const ORACLE_VERSION: &str = "version 10.0";

/// What `cargo xtask test` was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    only_oracle: bool,
    keep_going: bool,
    filter: Option<String>,
}

impl Options {
    /// Reads the arguments behind `test`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = args.iter().map(String::as_str);
        while let Some(arg) = rest.next() {
            match arg {
                "--keep-going" => options.keep_going = true,
                "--profile" => match rest.next() {
                    Some("oracle") => options.only_oracle = true,
                    other => return Err(format!("no such profile: {}", other.unwrap_or("(none given)"))),
                },
                _ if arg.starts_with('-') || options.filter.is_some() => {
                    return Err(format!("unknown argument: {arg}"));
                }
                _ => options.filter = Some(arg.to_string()),
            }
        }
        Ok(options)
    }
}

/// Runs every step that the options ask for and prints the totals; whether all is green.
pub(crate) fn test(root: &Path, options: &Options) -> Result<bool, String> {
    let mut tally = Tally { keep_going: options.keep_going, reports: Vec::new(), notes: Vec::new() };
    let suite = Suite {
        root,
        workspace: Workspace::load(root)?,
        filter: options.filter.as_deref(),
        runner: installed_runner(),
    };
    if options.filter.is_none() {
        tally.check("packages", packages::ensure);
    }
    if options.filter.is_none() && !options.only_oracle {
        lint(&suite, &mut tally);
    }
    if !options.only_oracle {
        tests(&suite, &mut tally);
    }
    let line = oracle(&suite, &mut tally).unwrap_or_else(|reason| {
        if options.only_oracle {
            tally.check("oracle", || Err(reason.clone()));
        }
        format!("not run: {reason}")
    });
    tally.print(&line);
    Ok(tally.total().failed == 0)
}

fn lint(suite: &Suite<'_>, tally: &mut Tally) {
    tally.check("tidy", || match tidy::run(suite.root) {
        Ok(true) => Ok(()),
        Ok(false) => Err("findings above".into()),
        Err(text) => Err(text),
    });
    tally.check("fmt", || suite.lint(&["fmt", "--all", "--check"]));
    tally.check("clippy", || {
        suite.lint(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    });
    // The test kit switches features of other crates on; what ships is linted without them.
    tally.check("clippy as shipped", || {
        let excluded = TEST_KITS.iter().flat_map(|kit| ["--exclude", kit]);
        let args = ["clippy", "--workspace"].into_iter().chain(excluded);
        let args = args.chain(["--lib", "--bins", "--quiet", "--", "-D", "warnings"]);
        suite.lint(&args.collect::<Vec<_>>())
    });
    for feature in SPECIAL_TESTS {
        for name in suite.special(feature) {
            tally.check(&format!("clippy {feature} {name}"), || {
                let args = ["clippy", "--quiet", "-p", &name, "--features", feature, "--test", feature];
                suite.lint(&[&args[..], &["--", "-D", "warnings"]].concat())
            });
        }
    }
    tally.check("doc", || suite.lint(&["doc", "--workspace", "--no-deps", "--quiet"]));
}

fn tests(suite: &Suite<'_>, tally: &mut Tally) {
    tally.tests("tests", suite.runner, || suite.tests(suite.runner, &["--workspace"], None));
    tally.tests("doctests", Runner::CargoTest, || {
        suite.tests(Runner::CargoTest, &["--workspace", "--doc"], None)
    });
    if suite.filter.is_none() {
        tally.check("dist", || {
            let (binary, folder) = (suite.workspace.target_dir.join("debug/drystone"), "tmp/dist");
            dist::check(suite.root, &binary, &suite.workspace.target_dir.join(folder))?;
            suite.package()
        });
        tally.check("simulation", || sim::ci(suite.root));
        tally.check("planted mistakes", || sim::planted(suite.root));
    }
    for name in suite.special("loom") {
        let args = ["-p", &name, "--features", "loom", "--test", "loom"];
        tally.tests(&format!("loom {name}"), suite.runner, || {
            suite.tests(suite.runner, &args, Some("models"))
        });
    }
}

/// The comparison with the C tools: its totals, or why it was not run.
fn oracle(suite: &Suite<'_>, tally: &mut Tally) -> Result<String, String> {
    let version = run::quiet(Command::new("qemu-img").arg("--version")).unwrap_or_default();
    if !version.contains(ORACLE_VERSION) {
        return Err("qemu-img 10.0 is not installed".into());
    }
    let names = suite.special("oracle");
    if names.is_empty() {
        return Err("no crate has a feature and a test named `oracle`".into());
    }
    let before = tally.reports.len();
    for name in names {
        let args = ["-p", &name, "--features", "oracle", "--test", "oracle"];
        tally.tests(&format!("oracle {name}"), suite.runner, || suite.tests(suite.runner, &args, None));
    }
    match tally.reports.get(before..) {
        None | Some([]) => Err("an earlier step failed".into()),
        Some(reports) => Ok(totals(reports).to_string()),
    }
}

/// `cargo nextest` if it can be called.
fn installed_runner() -> Runner {
    if run::succeeds(run::cargo().args(["nextest", "--version"])) {
        Runner::Nextest
    } else {
        Runner::CargoTest
    }
}

/// What all steps share.
struct Suite<'a> {
    root: &'a Path,
    workspace: Workspace,
    filter: Option<&'a str>,
    runner: Runner,
}

impl Suite<'_> {
    /// Names of the packages with a feature and a test called `name`.
    fn special(&self, name: &str) -> Vec<String> {
        let packages = self.workspace.packages.iter().filter(|package| package.has_special_test(name));
        packages.map(|package| package.name.clone()).collect()
    }

    /// Packages the crates that others may depend on, without building them again.
    fn package(&self) -> Result<(), String> {
        let names = self.workspace.packages.iter().filter(|package| package.is_published);
        let names = names.flat_map(|package| ["--package", package.name.as_str()]);
        self.lint(
            &["package", "--no-verify", "--allow-dirty", "--quiet"]
                .into_iter()
                .chain(names)
                .collect::<Vec<_>>(),
        )
    }

    fn lint(&self, args: &[&str]) -> Result<(), String> {
        let mut command = run::cargo();
        command.current_dir(self.root).args(args).env("RUSTDOCFLAGS", "-D warnings");
        run::run(&mut command, LINT_LIMIT).failure.map_or(Ok(()), Err)
    }

    /// Runs tests; a `profile` of cargo other than the usual one builds in a target folder of its own.
    fn tests(&self, runner: Runner, args: &[&str], profile: Option<&str>) -> run::Outcome {
        let mut command = run::cargo();
        command.current_dir(self.root);
        match runner {
            Runner::Nextest => command.args(["nextest", "run"]),
            Runner::CargoTest => command.args(["test", "--no-fail-fast"]),
        };
        command.args(args);
        if let Some(profile) = profile {
            let flag = if runner == Runner::Nextest { "--cargo-profile" } else { "--profile" };
            command.args([flag, profile]).arg("--target-dir").arg(self.workspace.target_dir.join("loom"));
        }
        if let Some(filter) = self.filter {
            if runner == Runner::Nextest {
                command.args(["--no-tests", "pass"]);
            }
            command.args(["--", filter]);
        }
        run::run(&mut command, TEST_LIMIT)
    }
}

/// How one step went.
struct Report {
    name: String,
    seconds: f64,
    counts: Counts,
    failure: Option<String>,
}

impl Report {
    /// A step that failed without a failed test counts as one failure, so that the total cannot look green.
    fn counted(&self) -> Counts {
        let silent = self.failure.is_some() && self.counts.failed == 0;
        self.counts.plus(Counts { passed: 0, failed: usize::from(silent) })
    }
}

/// All steps so far.
struct Tally {
    keep_going: bool,
    reports: Vec<Report>,
    /// Lines for the end.
    notes: Vec<String>,
}

impl Tally {
    fn check(&mut self, name: &str, work: impl FnOnce() -> Result<(), String>) {
        self.step(name, || (Counts::default(), work().err()));
    }

    fn tests(&mut self, name: &str, runner: Runner, work: impl FnOnce() -> run::Outcome) {
        let mut note = None;
        self.step(name, || {
            let outcome = work();
            note = crash::summary(&outcome.output);
            let counts = summary::parse(runner, &outcome.output);
            let silent = || counts.is_none().then(|| "the runner did not say how many tests ran".to_string());
            (counts.unwrap_or_default(), outcome.failure.clone().or_else(silent))
        });
        self.notes.extend(note);
    }

    fn step(&mut self, name: &str, work: impl FnOnce() -> (Counts, Option<String>)) {
        if !self.keep_going && self.reports.iter().any(|report| report.counted().failed > 0) {
            return;
        }
        println!("=== {name}");
        let began = Instant::now();
        let (counts, failure) = work();
        let seconds = began.elapsed().as_secs_f64();
        if let Some(failure) = &failure {
            println!("=== {name} failed: {failure}");
        }
        self.reports.push(Report { name: name.to_string(), seconds, counts, failure });
    }

    fn total(&self) -> Counts {
        totals(&self.reports).0
    }

    fn print(&self, oracle: &str) {
        println!("\n=== seconds");
        for report in &self.reports {
            let word = if report.counted().failed == 0 { "ok" } else { "FAILED" };
            println!("{:8.1}  {word:6}  {}", report.seconds, report.name);
        }
        self.notes.iter().for_each(|note| println!("{note}"));
        println!("oracle: {oracle}");
        println!("{}", totals(&self.reports));
    }
}

/// Counts as the line that people and the CI look for.
struct Totals(Counts);

fn totals(reports: &[Report]) -> Totals {
    Totals(reports.iter().map(Report::counted).fold(Counts::default(), Counts::plus))
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.0.passed, self.0.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    fn outcome(output: &str, failure: Option<&str>) -> run::Outcome {
        run::Outcome { output: output.into(), failure: failure.map(String::from) }
    }

    const GREEN: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out;";
    const RED: &str = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out;";

    #[test]
    fn arguments_are_refused_rather_than_ignored() {
        assert_eq!(parse("gate"), Ok(Options { filter: Some("gate".into()), ..Options::default() }));
        assert_eq!(parse("--profile oracle"), Ok(Options { only_oracle: true, ..Options::default() }));
        assert!(parse("--profile").is_err());
        assert!(parse("--profile fast").is_err());
        assert!(parse("a b").is_err());
        assert!(parse("--quiet").is_err());
    }

    #[test]
    fn the_total_adds_tests_and_counts_a_broken_step_once() {
        let mut tally = Tally { keep_going: true, reports: Vec::new(), notes: Vec::new() };
        tally.check("fmt", || Err("differs".into()));
        tally.tests("tests", Runner::CargoTest, || outcome(RED, Some("exit status: 101")));
        tally.tests("doctests", Runner::CargoTest, || outcome(GREEN, None));
        assert_eq!(totals(&tally.reports).to_string(), "4 passed, 3 failed");
    }

    #[test]
    fn the_first_failure_ends_the_run_unless_told_otherwise() {
        let mut tally = Tally { keep_going: false, reports: Vec::new(), notes: Vec::new() };
        tally.check("fmt", || Err("differs".into()));
        tally.tests("tests", Runner::CargoTest, || unreachable!("an earlier step failed"));
        assert_eq!(totals(&tally.reports).to_string(), "0 passed, 1 failed");
    }

    #[test]
    fn a_runner_that_says_nothing_has_failed() {
        let mut tally = Tally { keep_going: true, reports: Vec::new(), notes: Vec::new() };
        tally.tests("tests", Runner::Nextest, || outcome("", None));
        assert_eq!(totals(&tally.reports).to_string(), "0 passed, 1 failed");
    }
}
