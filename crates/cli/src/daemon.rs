//! `drystone daemon`, and `qemu-storage-daemon`.

use std::ffi::OsString;

use drystone_daemon::{Console, Launch};

/// Runs the daemon under this name; the exit status.
pub(crate) fn run(name: &str, args: Vec<OsString>) -> u8 {
    drystone_daemon::run(Launch { name: name.to_owned(), args, console: Console::Process })
}
