//! The command `drystone`; the image tool when it is called `qemu-img`, and the daemon as `qemu-storage-daemon`.
//!
//! | module | what |
//! |---|---|
//! | [`serve`] | `drystone serve`: disk images over NBD |
//! | [`snapshot`] | `drystone snapshot`: an overlay on a running disk |
//! | [`graph`] | `drystone graph`: the nodes of an image |
//! | [`daemon`] | `drystone daemon`, `qemu-storage-daemon`: everything through QMP |
//! | [`img`] | `drystone img`, `qemu-img`: makes images and looks at them |
//! | [`monitor`] | the control socket of a running `serve`, both ends |
//! | [`tool`] | what the tools share: disks through the graph, threads, signals, progress |
//! | [`args`], [`text`] | grammar and words of the C tools |
//! | [`console`] | what our own commands print |
//!
//! A subcommand reads its arguments, makes one call and prints what comes back.
#![forbid(unsafe_code)]

mod args;
mod console;
mod daemon;
mod graph;
mod img;
mod monitor;
mod serve;
mod snapshot;
mod text;
#[allow(dead_code, reason = "its users are on their way")]
mod tool;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Serves, stacks and describes virtual disks.
#[derive(Debug, Parser)]
#[command(name = "drystone", version, max_term_width = 100)]
struct Drystone {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Snapshot(snapshot::SnapshotArgs),
    Graph(graph::GraphArgs),
    /// Does everything that a program asks for through QMP, as qemu-storage-daemon does
    #[command(disable_help_flag = true)]
    Daemon {
        /// As for qemu-storage-daemon: `drystone daemon --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Makes disk images and looks at them, as qemu-img does
    #[command(disable_help_flag = true)]
    Img {
        /// As for qemu-img: `drystone img --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    match Path::new(&called).file_name().and_then(OsStr::to_str) {
        Some("qemu-img") => return ExitCode::from(img::run("qemu-img", args.collect())),
        Some("qemu-storage-daemon") => {
            return ExitCode::from(daemon::run("qemu-storage-daemon", args.collect()));
        }
        _ => {}
    }
    let result = match Drystone::parse().command {
        Command::Img { args } => return ExitCode::from(img::run("drystone img", args)),
        Command::Daemon { args } => return ExitCode::from(daemon::run("drystone daemon", args)),
        Command::Serve(args) => serve::run(args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Graph(args) => graph::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::complain(&error);
            ExitCode::FAILURE
        }
    }
}
