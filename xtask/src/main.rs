//! Daily commands of the project: `cargo xtask COMMAND`.
//!
//! | command | does |
//! |---|---|
//! | `test` | everything that must be green before a change lands (`steps`) |
//! | `ci`   | the same; the only thing that the CI runs |
//! | `tidy` | rules of this tree that no compiler checks (`tidy`) |
//! | `demo` | a chain, served to real clients, with snapshots under writes (`demo`) |
//! | `soak` | random commands against a daemon whose disks are written to (`soak`) |
//! | `bench`| our tools beside the installed C tools; rewrites the tables of `docs/performance.md` (`bench`) |
//!
//! Every child process runs without standard input and under a time limit (`run`).

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod packages;
mod run;
mod soak;
mod steps;
mod summary;
mod tidy;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--profile oracle] [--keep-going] [FILTER]
          everything: system packages, tidy, fmt, clippy, doc, tests, doctests, models, and the
          comparison with the installed C tools. Stops at the first step that fails.
          FILTER runs only the tests whose name contains it; --profile oracle only the comparison.
  ci      the same as `test`
  tidy    the rules of this tree; prints `path:line: rule: what to do`
  demo    builds drystone, makes a qcow2 chain, serves it to nbdcopy and fio, takes snapshots under
          writes and checks every byte; less than a minute after the build
  soak [--minutes N | --secs N] [--seed N] [--report FOLDER]
          sends random commands to a daemon while all its disks are written to, for ten minutes; every
          command must be answered, and no byte may be lost
  bench [CASE...] [--quick] [--rounds N] [OPTION...]
          runs drystone-bench and rewrites the tables of docs/performance.md
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    match dispatch(command, rest) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("xtask: {text}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command; `Ok(false)` says that it ran and found something, `Err` that it could not run.
fn dispatch(command: &str, rest: &[String]) -> Result<bool, String> {
    let root = workspace::root()?;
    match command {
        "test" => steps::test(&root, &steps::Options::parse(rest)?),
        "ci" if rest.is_empty() => steps::test(&root, &steps::Options::default()),
        "tidy" if rest.is_empty() => tidy::run(&root),
        "demo" if rest.is_empty() => demo::run(&root),
        "soak" => soak::run(&root, rest),
        "bench" => bench::run(&root, rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(true)
        }
        _ => Err(format!("unknown command or argument: {command} {}\n{USAGE}", rest.join(" "))),
    }
}
