//! Locks on single bytes of a file: `fcntl`, which `rustix` has for whole files only.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Which of the kernel's two kinds of byte locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// They belong to the open file (Linux 3.15).
    OfOpenFile,
    /// They belong to the process, which loses them when it closes any descriptor of the file.
    OfProcess,
}

/// Somebody else's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    /// Whose, if the kernel says.
    pub(super) pid: Option<u32>,
}

impl Table {
    /// `None` if the system does not have these.
    pub(super) fn of_open_files(file: impl AsFd) -> Option<Self> {
        query(file, Self::OfOpenFile, 0).is_ok().then_some(Self::OfOpenFile)
    }
}

/// Locks the byte for sharing, or unlocks it. Does not wait; `AGAIN` or `ACCESS`: somebody has an exclusive lock.
pub(super) fn set(file: impl AsFd, table: Table, position: i64, locked: bool) -> Result<(), Errno> {
    let command = match table {
        Table::OfOpenFile => libc::F_OFD_SETLK,
        Table::OfProcess => libc::F_SETLK,
    };
    call(file, command, position, if locked { libc::F_RDLCK } else { libc::F_UNLCK }).map(|_| ())
}

/// The lock that would exclude an exclusive one, if there is any.
pub(super) fn query(file: impl AsFd, table: Table, position: i64) -> Result<Option<Holder>, Errno> {
    let command = match table {
        Table::OfOpenFile => libc::F_OFD_GETLK,
        Table::OfProcess => libc::F_GETLK,
    };
    let found = call(file, command, position, libc::F_WRLCK)?;
    let is_free = i32::from(found.l_type) == libc::F_UNLCK;
    let holder = Holder { pid: u32::try_from(found.l_pid).ok().filter(|pid| *pid != 0) };
    Ok((!is_free).then_some(holder))
}

fn call(file: impl AsFd, command: i32, position: i64, kind: i32) -> Result<libc::flock, Errno> {
    let whence = i16::try_from(libc::SEEK_SET).unwrap_or(0);
    let kind = i16::try_from(kind).unwrap_or(0);
    let mut lock = libc::flock { l_type: kind, l_whence: whence, l_start: position, l_len: 1, l_pid: 0 };
    loop {
        // SAFETY: the descriptor is open for the call; the kernel reads and writes one `flock`, which lives as long.
        if unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) } == 0 {
            return Ok(lock);
        }
        match Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO) {
            Errno::INTR => {}
            errno => return Err(errno),
        }
    }
}
