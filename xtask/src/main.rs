//! Daily commands of the project: `cargo xtask COMMAND`.
//!
//! | command | does |
//! |---|---|
//! | `test` | everything that must be green before a change lands (`steps`) |
//! | `ci`   | the same; the only thing that the CI runs |
//! | `tidy` | rules of this tree that no compiler checks (`tidy`) |
//! | `dist` | an archive to install from (`dist`) |
//! | `demo` | a chain, served to real clients, with snapshots under writes (`demo`) |
//! | `soak` | random commands against a daemon whose disks are written to (`soak`) |
//! | `crash`| crash points alone, and their table (`crash`) |
//! | `sim`  | random scripts on a seeded scheduler, checked at every step (`sim`) |
//! | `fuzz` | libFuzzer on everything that reads foreign bytes (`fuzz`) |
//! | `bench`| our tools beside the installed C tools; rewrites the tables of `docs/performance.md` (`bench`) |
//!
//! Every child process runs without standard input and under a time limit (`run`).

#![forbid(unsafe_code)]

mod bench;
mod crash;
mod demo;
mod dist;
mod fuzz;
mod packages;
mod run;
mod sim;
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
  dist [--target TARGET] [--out FOLDER] [--binary FILE] [--try]
          builds drystone and packs it with man pages, completions, a unit for the daemon and a script that
          installs it; static against musl if that can be had. --try also installs it, runs it and takes it
          out again, in a folder below FOLDER
  soak [--minutes N | --secs N] [--seed N] [--report FOLDER]
          sends random commands to a daemon while all its disks are written to, for ten minutes; every
          command must be answered, and no byte may be lost
  soak --sequences N [--seed N]
          plays N random sequences of commands of the tools with the installed C tools and with ours, and
          compares how they end, what they print, and what the disks show
  crash [--depth N] [NAME]
          cuts the power at every boundary of every change whose name begins with NAME, with every subset
          of unflushed writes lost, and prints a table; N multiplies the samples
  sim [--seed N] [--seeds N] [--steps N] [--script FILE] [OPTION...]
          plays random scripts of requests, changes and misfortunes on a seeded scheduler; every byte is
          compared with a model, and every rule looked at; --help lists the options
  fuzz [--target NAME]... [--secs N] [--merge]
          runs libFuzzer for a minute on each target of fuzz/ (nightly and cargo-fuzz); --merge makes the
          corpora of the repository anew from what was found
  bench [CASE...] [--quick] [--rounds N] [--dir DIR] [--gib N] [--only TEXT] [OPTION...]
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
        "dist" => dist::run(&root, rest),
        "demo" if rest.is_empty() => demo::run(&root),
        "soak" => soak::run(&root, rest),
        "crash" => crash::run(&root, rest),
        "sim" => sim::run(&root, rest),
        "fuzz" => fuzz::run(&root, rest),
        "bench" => bench::run(&root, rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(true)
        }
        _ => Err(format!("unknown command or argument: {command} {}\n{USAGE}", rest.join(" "))),
    }
}
