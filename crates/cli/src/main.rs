//! The command `drystone`, and the image tool when it is called `qemu-img`.
//!
//! | module | what |
//! |---|---|
//! | [`serve`] | `drystone serve`: disk images over NBD |
//! | [`snapshot`] | `drystone snapshot`: an overlay on a running disk |
//! | [`graph`] | `drystone graph`: the nodes of an image |
//! | [`img`] | `drystone img`, `qemu-img`: makes images and looks at them |
//! | [`monitor`] | the control socket of a running `serve`, both ends |
//! | [`args`], [`text`] | grammar and words of the C tools |
//!
//! A subcommand reads its arguments, makes one call and prints what comes back.
#![forbid(unsafe_code)]

mod args;
mod graph;
mod img;
mod monitor;
mod serve;
mod snapshot;
mod text;

use std::ffi::OsString;
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
    /// Serves disk images over NBD
    Serve(serve::ServeArgs),
    /// Puts a new overlay on a disk that is being served
    Snapshot(snapshot::SnapshotArgs),
    /// Shows the nodes that an image is made of
    Graph(graph::GraphArgs),
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
    if Path::new(&called).file_name().is_some_and(|name| name == "qemu-img") {
        return ExitCode::from(img::run("qemu-img", args.collect()));
    }
    let result = match Drystone::parse().command {
        Command::Img { args } => return ExitCode::from(img::run("drystone img", args)),
        Command::Serve(args) => serve::run(args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Graph(args) => graph::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drystone: {}", error.report());
            ExitCode::FAILURE
        }
    }
}
