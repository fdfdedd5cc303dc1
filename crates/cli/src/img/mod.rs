//! `drystone img`, and everything when the program is called `qemu-img`: the image tool.
//!
//! | module | what |
//! |---|---|
//! | `COMMANDS` | the commands, each in a module of its name: arguments to one call to printed result |
//! | [`mod@line`], [`stripes`] | arguments of commands that use disks; work on a whole disk by several workers |
//! | [`options`] | arguments that they have in common |
//! | [`spec`], [`image`], [`chain`] | which image, opened to be looked at; what it lies on |
//! | [`repair`] | an image as something to repair |
//! | [`snapshot`] | internal snapshots |
//! | [`snapshots`], [`doc`] | what is printed |
//!
//! Standard output and exit status are those of release 10.0 of the C tool; texts of errors are ours, behind the name that
//! the program was called by. `create`, `info` and `check` look at images directly, not through the block graph: also at those
//! that cannot be used.

mod amend;
mod bench;
mod bitmap;
mod chain;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
pub(crate) mod doc;
mod image;
mod info;
mod line;
mod map;
mod measure;
mod options;
mod rebase;
mod repair;
mod resize;
mod snapshot;
mod snapshots;
mod spec;
mod stripes;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use drystone_base::Error;
use drystone_core::runtime::LocalRef;
use drystone_sys::{EngineKind, Threads};

use crate::args::UsageError;
use crate::args::getopt::{Flag, Getopt};
use crate::console;
use crate::tool::object::help_in;
use crate::tool::{Start, Tool};

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// What is printed is kept until it is so much.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// The release of the C tools whose output this is.
const RELEASE: &str = "10.0.0";

const HELP: &str = "\
Makes disk images and looks at them, as qemu-img of release 10.0 does.

  [OPTION...] COMMAND [OPTION...]

";

const HELP_BEHIND: &str = "
  -h, --help         this text; behind a command, that command's
  -T, --trace WHAT   taken, and without effect
  -V, --version      the version

Formats: qcow2, raw
";

/// The options in front of a command.
const FLAGS: &[Flag] = &[options::HELP, Flag::switch(Some('V'), "version"), Flag::value(Some('T'), "trace")];

/// A command: arguments in, exit status out.
type Run = fn(Vec<OsString>, &mut Console) -> Result<u8, Failure>;

/// The commands: what they are called, what they do, and where.
const COMMANDS: &[(&str, &str, Run)] = &[
    ("amend", "changes options of an image", amend::run),
    ("bench", "measures how fast requests are", bench::run),
    ("bitmap", "changes a persistent bitmap of an image", bitmap::run),
    ("check", "checks the consistency of an image, and repairs it", check::run),
    ("commit", "writes what an image has of its own to one that it lies on", commit::run),
    ("compare", "says whether two images show the same", compare::run),
    ("convert", "copies images to another image", convert::run),
    ("create", "makes a new image", create::run),
    ("dd", "copies a part of an image to a new one", dd::run),
    ("info", "says what is known about an image", info::run),
    ("map", "says where the bytes of a disk are", map::run),
    ("measure", "says how long the file of a new image would become", measure::run),
    ("rebase", "makes an image lie on another backing file", rebase::run),
    ("resize", "makes a disk longer or shorter", resize::run),
    ("snapshot", "internal snapshots of an image", snapshot::run),
];

/// Why a command failed.
pub(crate) enum Failure {
    /// Its arguments are not understood.
    Usage {
        /// The command; empty for the tool itself.
        command: &'static str,
        /// What is wrong.
        error: UsageError,
    },
    /// It could not be done.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Where a command prints.
pub(crate) struct Console {
    /// What the program was called.
    name: &'static str,
    out: Vec<u8>,
}

impl Console {
    /// Standard output. What is printed comes out at the end, before a complaint, or when it is much.
    fn print(&mut self, bytes: impl AsRef<[u8]>) {
        self.out.extend_from_slice(bytes.as_ref());
        if self.out.len() >= KEPT_BYTES_MAX {
            self.flush();
        }
    }

    /// Standard error, behind the program's name.
    fn complain(&mut self, text: &str) {
        self.flush();
        console::note(format_args!("{}: {text}", self.name));
    }

    /// A reader that went away is no failure of ours.
    fn flush(&mut self) {
        let _ = std::io::stdout().write_all(&std::mem::take(&mut self.out));
        let _ = std::io::stdout().flush();
    }
}

/// Runs the tool under the name that errors are to begin with; the exit status.
pub(crate) fn run(name: &'static str, args: Vec<OsString>) -> u8 {
    let mut console = Console { name, out: Vec::new() };
    let status = dispatch(args, &mut console).unwrap_or_else(|failure| {
        match failure {
            Failure::Failed(error) => match help_in(&error) {
                Some(help) => {
                    console.print(help);
                    return 0;
                }
                None => console.complain(&error.report()),
            },
            Failure::Usage { command, error } => {
                let command = if command.is_empty() { String::new() } else { format!(" {command}") };
                console.complain(&format!("{error} (try '{name}{command} --help')"));
            }
        }
        FAILED
    });
    console.flush();
    status
}

fn dispatch(args: Vec<OsString>, console: &mut Console) -> Result<u8, Failure> {
    let tool = |error| Failure::Usage { command: "", error };
    let (own, command, rest) = split(args);
    let mut getopt = Getopt::new(FLAGS, own);
    while let Some((name, _)) = getopt.next_option().map_err(tool)? {
        match name {
            "help" => {
                console.print(help());
                return Ok(0);
            }
            "version" => {
                let version = env!("CARGO_PKG_VERSION");
                console.print(format!("qemu-img version {RELEASE} (drystone {version})\n"));
                return Ok(0);
            }
            // Nothing is traced here.
            _ => {}
        }
    }
    let command = command.ok_or_else(|| tool(UsageError::Other("a command is expected".into())))?;
    match COMMANDS.iter().find(|(name, ..)| command == *name) {
        Some((.., run)) => run(rest, console),
        None => Err(tool(UsageError::Other(format!("there is no command '{}'", command.display())))),
    }
}

/// The options in front of the command, the command, and what is behind it.
fn split(args: Vec<OsString>) -> (Vec<OsString>, Option<OsString>, Vec<OsString>) {
    let mut args = args.into_iter();
    let mut own = Vec::new();
    while let Some(arg) = args.next() {
        if !arg.as_encoded_bytes().starts_with(b"-") {
            return (own, Some(arg), args.collect());
        }
        let has_value_behind =
            arg == "-T" || (arg.len() > 2 && "--trace".starts_with(&*arg.to_string_lossy()));
        own.push(arg);
        own.extend(if has_value_behind { args.next() } else { None });
    }
    (own, None, Vec::new())
}

fn help() -> String {
    let line = |(name, about, _): &(&str, &str, Run)| format!("  {name:<9} {about}\n");
    let commands: String = COMMANDS.iter().map(line).collect();
    format!("{HELP}{commands}{HELP_BEHIND}")
}

/// Runs a command's work on this thread.
fn run_here<T>(work: impl AsyncFnOnce(LocalRef) -> Result<T, Error>) -> Result<T, Error> {
    // One question after the other, mostly from memory: neither a ring nor a thread is worth its start.
    Threads::start(1, EngineKind::InPlace)?.run_here(|local| async move { work(local).await })
}

/// The one name of a file that there is.
async fn canonical(tool: &Tool, path: &Path) -> Option<PathBuf> {
    drystone_sys::path::canonical(&**tool.local(), path).await.ok()
}
