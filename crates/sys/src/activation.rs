//! Sockets that a service manager has opened for this process (`sd_listen_fds`).
//!
//! ```text
//!   LISTEN_PID = this process, LISTEN_FDS = n    descriptors 3 .. 3 + n are sockets that listen
//! ```

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use drystone_base::{Error, Kind, Result};

/// The first of them.
const FIRST: RawFd = 3;

/// How many sockets were passed to this process; 0 if it was started by somebody else.
///
/// To be asked before the process goes into the background: they are passed to one process, by its number.
#[must_use]
pub fn activated_count() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}

/// The socket that was passed, if there is one. Afterwards it is the caller's; it can be taken once.
///
/// # Errors
/// [`Kind::InvalidInput`] if there is no such descriptor, or it was taken.
pub fn take_activated() -> Result<OwnedFd> {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    let missing = || Error::new(Kind::InvalidInput, "the service manager has passed no socket");
    if IS_TAKEN.swap(true, Ordering::SeqCst) {
        return Err(missing());
    }
    // SAFETY: the call reads and sets a flag of a descriptor, and fails for one that is not open.
    if unsafe { libc::fcntl(FIRST, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(missing().because(std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is open, was passed to this process for this use, and is taken here only, once.
    Ok(unsafe { OwnedFd::from_raw_fd(FIRST) })
}
