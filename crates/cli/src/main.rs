//! The command `drystone`, and the image tool when it is called `qemu-img`.
//!
//! | module | what |
//! |---|---|
//! | [`args`] | the grammar of the C tools' command lines |
//! | [`img`] | `drystone img`, `qemu-img` |
//!
//! A subcommand is a file: it reads its arguments, makes one call and prints what comes back.
#![forbid(unsafe_code)]

mod args;
mod img;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    if Path::new(&called).file_name().is_some_and(|name| name == "qemu-img") {
        return ExitCode::from(img::run("qemu-img", args));
    }
    match args.split_first() {
        Some((command, rest)) if command == "img" => ExitCode::from(img::run("drystone img", rest.to_vec())),
        _ => ExitCode::from(2),
    }
}
