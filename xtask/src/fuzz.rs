//! `cargo xtask fuzz`: libFuzzer on the targets of `fuzz/`, one after the other.
//!
//! ```text
//!   fuzz/corpus/TARGET     inputs that are kept: read, not written
//!   target/fuzz/TARGET     what this run adds to them
//!   fuzz/findings/TARGET   inputs that broke something, once they are small: replayed by `cargo xtask test`
//! ```
//! libFuzzer needs a nightly compiler and cargo-fuzz. Where they are missing, the command says so; the targets are
//! replayed and mutated on stable by `cargo xtask test` all the same.
//!
//! With `--merge`, the corpora of the repository are made anew: as few inputs as reach what all of them reach.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::run;

const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// What a run may take beside its time: reading the corpus, and the last input.
const MARGIN: Duration = Duration::from_secs(5 * 60);
const SECS_DEFAULT: u64 = 60;
/// Longest time for one input in seconds, and most memory in MiB. Leaks are not looked for: that needs `ptrace`.
const LIMITS: [&str; 3] = ["-timeout=10", "-rss_limit_mb=1024", "-detect_leaks=0"];
/// Where the programs are.
const PROGRAMS: &str = "fuzz/libfuzzer";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    targets: Vec<String>,
    secs: u64,
    merges: bool,
}

/// Runs or merges; false if something was found.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<bool, String> {
    let all = targets(root)?;
    let options = parse(args, &all)?;
    demand_tools()?;
    let mut is_clean = true;
    for target in &options.targets {
        println!("=== {target}");
        let fuzz = Fuzz { root, target };
        if options.merges {
            fuzz.merge()?;
        } else {
            is_clean &= fuzz.search(options.secs)?;
        }
    }
    Ok(is_clean)
}

/// Names of all targets: the programs' files.
fn targets(root: &Path) -> Result<Vec<String>, String> {
    let folder = root.join(PROGRAMS).join("fuzz_targets");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let name = |entry: fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_string());
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    Ok(names)
}

fn parse(args: &[String], all: &[String]) -> Result<Options, String> {
    let mut options = Options { targets: Vec::new(), secs: SECS_DEFAULT, merges: false };
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        if option == "--merge" {
            options.merges = true;
            continue;
        }
        let value = rest.next().ok_or_else(|| format!("{option}: unknown, or without its value"))?;
        match option.as_str() {
            "--secs" => {
                options.secs = value.parse().map_err(|_| format!("--secs: '{value}' is no number"))?
            }
            "--target" if all.contains(value) => options.targets.push(value.clone()),
            "--target" => return Err(format!("no target '{value}'; there are {}", all.join(", "))),
            _ => return Err(format!("unknown argument: {option}")),
        }
    }
    if options.targets.is_empty() {
        options.targets = all.to_vec();
    }
    Ok(options)
}

fn demand_tools() -> Result<(), String> {
    let missing = if !run::succeeds(Command::new("cargo").args(["+nightly", "--version"])) {
        "a nightly compiler (rustup toolchain install nightly)"
    } else if !run::succeeds(Command::new("cargo").args(["+nightly", "fuzz", "--version"])) {
        "cargo-fuzz (cargo install cargo-fuzz)"
    } else {
        return Ok(());
    };
    Err(format!(
        "libFuzzer needs {missing}. Without it, `cargo xtask test fuzz` replays the corpora and mutates them; \
         DRYSTONE_MUTATIONS=N makes N mutations of each target"
    ))
}

/// One target.
struct Fuzz<'a> {
    root: &'a Path,
    target: &'a str,
}

impl Fuzz<'_> {
    fn kept(&self) -> PathBuf {
        self.root.join("fuzz/corpus").join(self.target)
    }

    fn found(&self) -> PathBuf {
        self.root.join("target/fuzz").join(self.target)
    }

    /// `cargo fuzz VERB`, with as many processors as there are for building, and one for running.
    fn cargo_fuzz(&self, verb: &str) -> Command {
        let mut command = Command::new("cargo");
        command.current_dir(self.root).args(["+nightly", "fuzz", verb, "--fuzz-dir", PROGRAMS, self.target]);
        // What cargo sets for the program it runs is about the stable compiler.
        for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
            command.env_remove(name);
        }
        command
    }

    /// Looks for inputs that break something; whether there are none.
    fn search(&self, secs: u64) -> Result<bool, String> {
        self.build()?;
        make(&self.found())?;
        make(&self.kept())?;
        let mut command = self.cargo_fuzz("run");
        command.arg(self.found()).arg(self.kept()).args(["--", "-print_final_stats=1"]).args(LIMITS);
        command.arg(format!("-max_total_time={secs}"));
        let outcome = run::run(&mut command, Duration::from_secs(secs).saturating_add(MARGIN));
        if let Some(failure) = &outcome.failure {
            println!(
                "{}: {failure}; make the input small (cargo fuzz tmin), put it into fuzz/findings/{}",
                self.target, self.target
            );
        }
        Ok(outcome.failure.is_none())
    }

    /// Makes the target's corpus anew, of itself and of what was found since.
    fn merge(&self) -> Result<(), String> {
        self.build()?;
        make(&self.found())?;
        make(&self.kept())?;
        let (kept, old) = (self.kept(), self.kept().with_extension("old"));
        fs::rename(&kept, &old).map_err(|error| format!("{}: {error}", kept.display()))?;
        make(&kept)?;
        let mut command = self.cargo_fuzz("run");
        // Edges alone, without how often: a fraction of the inputs.
        command
            .arg(&kept)
            .arg(&old)
            .arg(self.found())
            .args(["--", "-merge=1", "-use_counters=0"])
            .args(LIMITS);
        if let Some(failure) = run::run(&mut command, BUILD_LIMIT).failure {
            let _ = (fs::remove_dir_all(&kept), fs::rename(&old, &kept));
            return Err(format!("cannot merge the corpus of {}: {failure}", self.target));
        }
        fs::remove_dir_all(&old).map_err(|error| format!("{}: {error}", old.display()))
    }

    fn build(&self) -> Result<(), String> {
        let failure = run::run(&mut self.cargo_fuzz("build"), BUILD_LIMIT).failure;
        failure.map_or(Ok(()), |failure| Err(format!("cannot build {}: {failure}", self.target)))
    }
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_seconds_are_chosen() {
        let all = ["json".to_string(), "name".to_string()];
        let parse = |line: &str| parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>(), &all);
        assert_eq!(parse("").unwrap().targets, all);
        let options = parse("--target name --secs 5").unwrap();
        assert_eq!((options.targets, options.secs, options.merges), (vec!["name".to_string()], 5, false));
        assert!(parse("--merge").unwrap().merges);
        assert!(parse("--target nothing").unwrap_err().contains("json, name"));
        assert!(parse("--secs").is_err());
        assert!(parse("--secs long").is_err());
        assert!(parse("--days 2").is_err());
    }

    #[test]
    fn every_target_has_a_program() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let manifest = fs::read_to_string(root.join(PROGRAMS).join("Cargo.toml")).unwrap();
        let library = fs::read_to_string(root.join("fuzz/tests/it/replay.rs")).unwrap();
        for name in targets(root).unwrap() {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            assert!(library.split_whitespace().any(|word| word == name), "{name}");
        }
    }
}
