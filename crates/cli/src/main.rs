//! The command `drystone`; called by the name of a tool of the C block layer (`qemu-img`, `qemu-io`, `qemu-nbd`,
//! `qemu-storage-daemon`), it is that tool.
//!
//! | module | what |
//! |---|---|
//! | [`serve`] | `drystone serve`: disk images over NBD |
//! | [`snapshot`] | `drystone snapshot`: an overlay on a running disk |
//! | [`graph`] | `drystone graph`: the nodes of an image |
//! | [`daemon`] | `drystone daemon`, `qemu-storage-daemon`: everything through QMP |
//! | [`img`] | `drystone img`, `qemu-img`: makes images and looks at them |
//! | [`io`] | `drystone io`, `qemu-io`: requests to a disk, one by one |
//! | [`nbd`] | `drystone nbd`, `qemu-nbd`: one image over NBD |
//! | [`monitor`] | the control socket of a running `serve`, both ends |
//! | [`tool`] | what the tools share: disks through the graph, threads, signals, progress |
//! | [`args`], [`text`] | grammar and words of the C tools |
//! | [`console`] | what our own commands print |
//! | [`defect`] | what becomes of a panic |
//!
//! A subcommand reads its arguments, makes one call and prints what comes back.
#![forbid(unsafe_code)]

mod args;
mod console;
mod daemon;
mod defect;
mod graph;
mod img;
mod io;
mod monitor;
mod nbd;
mod serve;
mod snapshot;
mod text;
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
    /// Makes requests to a disk image, one by one, as qemu-io does
    #[command(disable_help_flag = true)]
    Io {
        /// As for qemu-io: `drystone io --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Serves one disk image over NBD, as qemu-nbd does
    #[command(disable_help_flag = true)]
    Nbd {
        /// As for qemu-nbd: `drystone nbd --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    defect::end_at_panics();
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    match Path::new(&called).file_name().and_then(OsStr::to_str) {
        Some("qemu-img") => return ExitCode::from(img::run("qemu-img", args.collect())),
        Some("qemu-io") => return ExitCode::from(io::run("qemu-io", args.collect())),
        Some("qemu-nbd") => return ExitCode::from(nbd::run("qemu-nbd", args.collect())),
        Some("qemu-storage-daemon") => {
            return ExitCode::from(daemon::run("qemu-storage-daemon", args.collect()));
        }
        _ => {}
    }
    let result = match Drystone::parse().command {
        Command::Img { args } => return ExitCode::from(img::run("drystone img", args)),
        Command::Io { args } => return ExitCode::from(io::run("drystone io", args)),
        Command::Nbd { args } => return ExitCode::from(nbd::run("drystone nbd", args)),
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
