//! Standard output and standard error of the commands that are ours.
//!
//! Invariant: nobody reading is no reason to stop: a server goes on when the terminal that started it has gone.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

use drystone_base::{Error, Kind, Result};

/// Prints text as it is to standard output. That nobody wants to read it is no error.
///
/// # Errors
/// [`Kind::Io`] if it cannot be stored where it shall go.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Io, "cannot write to standard output").because(cause))
        }
        _ => Ok(()),
    }
}

/// Prints a line to standard error.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints an error and its causes to standard error, behind the program's name.
pub(crate) fn complain(error: &Error) {
    note(format_args!("drystone: {}", error.report()));
}
