//! Standard output and standard error of the commands that are ours.
//!
//! Invariant: nobody reading is no reason to stop: a server goes on when the terminal that started it has gone.

use std::fmt::Display;
use std::io::Write as _;

use drystone_base::Error;

/// Prints text as it is to standard output.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Prints a line to standard error.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints an error and its causes to standard error, behind the program's name.
pub(crate) fn complain(error: &Error) {
    note(format_args!("drystone: {}", error.report()));
}
