//! `drystone img`, and everything when the program is called `qemu-img`: the image tool.
//!
//! | module | what |
//! |---|---|
//! | [`create`], [`info`], [`check`], [`convert`], [`dd`] | the commands: arguments to one call to printed result |
//! | [`options`] | arguments that they have in common |
//! | [`spec`], [`image`], [`chain`] | which image, opened to be looked at; what it lies on |
//! | [`repair`] | an image as something to repair |
//! | [`snapshots`], [`doc`] | what is printed |
//!
//! Standard output and exit status are those of release 10.0 of the C tool; texts of errors are ours, behind the name that
//! the program was called by. Images are looked at directly, not through the block graph: also those that cannot be used.

mod amend;
mod bench;
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
use crate::console;
use crate::tool::{Start, Tool};

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// What is printed is kept until it is so much.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// The release of the C tools whose output this is.
const RELEASE: &str = "10.0.0";

const HELP: &str = "\
Makes disk images and looks at them, as qemu-img of release 10.0 does.

  COMMAND [OPTION...]

  check     checks the consistency of an image
  convert   copies images to another image
  create    makes a new image
  dd        copies a part of an image to a new one
  info      says what is known about an image

  -h, --help         this text; behind a command, that command's
  -V, --version      the version

Formats: qcow2, raw
";

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
            Failure::Failed(error) => console.complain(&error.report()),
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
    let mut args = args.into_iter();
    let tool = |text: String| Failure::Usage { command: "", error: UsageError::Other(text) };
    let first = args.next().ok_or_else(|| tool("a command is expected".into()))?;
    let rest: Vec<OsString> = args.collect();
    match first.to_str() {
        Some("amend") => amend::run(rest, console),
        Some("convert") => convert::run(rest, console),
        Some("bench") => bench::run(rest, console),
        Some("rebase") => rebase::run(rest, console),
        Some("resize") => resize::run(rest, console),
        Some("create") => create::run(rest, console),
        Some("dd") => dd::run(rest, console),
        Some("info") => info::run(rest, console),
        Some("check") => check::run(rest, console),
        Some("commit") => commit::run(rest, console),
        Some("compare") => compare::run(rest, console),
        Some("map") => map::run(rest, console),
        Some("measure") => measure::run(rest, console),
        Some("-h" | "--help") => {
            console.print(HELP);
            Ok(0)
        }
        Some("-V" | "--version") => {
            let version = env!("CARGO_PKG_VERSION");
            console.print(format!("qemu-img version {RELEASE} (drystone {version})\n"));
            Ok(0)
        }
        _ => Err(tool(format!("there is no command '{}'", first.display()))),
    }
}

/// Runs a command's work on this thread.
fn run_here<T>(work: impl AsyncFnOnce(LocalRef) -> Result<T, Error>) -> Result<T, Error> {
    // Everything that a look at an image needs is read without waiting, or by a thread or two: no ring is worth its start.
    Threads::start(1, EngineKind::Pool)?.run_here(|local| async move { work(local).await })
}

/// The one name of a file that there is.
async fn canonical(tool: &Tool, path: &Path) -> Option<PathBuf> {
    drystone_sys::path::canonical(&**tool.local(), path).await.ok()
}
