//! The process itself: going into the background, telling its number, the time of day.
//!
//! ```text
//!   go_into_background ─┬─ Parent: waits until the child is ready or has failed, and ends with its status
//!                       └─ Child:  sets everything up ── Background::ready ── the parent ends
//! ```

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use drystone_base::{Error, Kind, Result};

/// What the child says when it is ready.
const READY: u8 = 0;
/// What a process in the background does not let others do with files that it makes.
const UMASK: libc::mode_t = 0o027;
const NOWHERE: &CStr = c"/dev/null";

/// Which of two processes this is.
pub enum Forked {
    /// The one that was started, which has nothing left to do but to end.
    Parent {
        /// The child has become ready.
        is_ready: bool,
    },
    /// The one that goes on.
    Child(Background),
}

/// A process in the background whose parent waits for it to be ready.
pub struct Background(File);

/// Continues in a child without a terminal. The parent comes back when the child is ready or has ended.
///
/// To be called before any thread is started: only the calling one goes on in the child.
///
/// # Errors
/// Those of the operating system.
pub fn go_into_background() -> Result<Forked> {
    let failed = || last_error("go into the background");
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that the call returns.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(failed());
    }
    // SAFETY: both were just opened and belong to nobody else.
    let [mut reader, writer] = ends.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    // SAFETY: there is one thread, so the child finds no lock taken and no memory half changed.
    match unsafe { libc::fork() } {
        -1 => Err(failed()),
        0 => {
            drop(reader);
            // SAFETY: both calls touch the process's own attributes only.
            unsafe {
                libc::setsid();
                libc::umask(UMASK);
            }
            Ok(Forked::Child(Background(writer)))
        }
        _ => {
            drop(writer);
            let mut word = [READY + 1];
            let is_ready = reader.read_exact(&mut word).is_ok() && word == [READY];
            Ok(Forked::Parent { is_ready })
        }
    }
}

impl Background {
    /// Lets the parent end, and gives up its terminal and its folder.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn ready(mut self) -> Result<()> {
        // SAFETY: the name ends with a NUL; the descriptor that is returned belongs to nobody else.
        let nowhere = unsafe { libc::open(NOWHERE.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if nowhere < 0 {
            return Err(last_error("open /dev/null"));
        }
        // SAFETY: as above.
        let nowhere = unsafe { OwnedFd::from_raw_fd(nowhere) };
        for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            // SAFETY: the standard descriptors belong to the process, and nobody keeps a count of them.
            if unsafe { libc::dup2(nowhere.as_raw_fd(), standard) } < 0 {
                return Err(last_error("give up the terminal"));
            }
        }
        std::env::set_current_dir("/").map_err(|cause| os_error(&cause, "leave the folder"))?;
        self.0.write_all(&[READY]).map_err(|cause| os_error(&cause, "tell the parent"))
    }
}

/// A file with the number of the process in it, locked while the process runs. Removed when dropped.
pub struct PidFile {
    file: File,
    path: PathBuf,
}

impl PidFile {
    /// Writes the number of this process into a file. One that a process which has ended left behind is taken over.
    ///
    /// # Errors
    /// [`Kind::InUse`] if another process holds it; those of the operating system.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = |cause: io::Error| os_error(&cause, "write the number of the process").at_path(path);
        let path = &std::path::absolute(path).map_err(failed)?;
        loop {
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let mut file = file.open(path).map_err(failed)?;
            lock(&file).map_err(|error| error.at_path(path))?;
            // Another may have removed it between opening and locking.
            if is_at(&file, path) {
                file.set_len(0).map_err(failed)?;
                file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
                return Ok(Self { file, path: path.clone() });
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |found: &fs::Metadata| (found.dev(), found.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(there)) => identity(&own) == identity(&there),
        _ => false,
    }
}

fn lock(file: &File) -> Result<()> {
    match rustix::fs::fcntl_lock(file.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
            Err(Error::new(Kind::InUse, "a running process holds it"))
        }
        Err(errno) => Err(Error::os(errno.raw_os_error(), "lock")),
    }
}

/// The bytes of a file that the process is told to read before it begins: a secret, a configuration. Blocks.
///
/// # Errors
/// [`Kind::TooLarge`] if there are more than `len_max`; those of the operating system.
pub fn load_file(path: &Path, len_max: usize) -> Result<Vec<u8>> {
    let failed = |cause: io::Error| os_error(&cause, "read").at_path(path);
    let mut bytes = Vec::new();
    let limit = u64::try_from(len_max).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > len_max {
        let text = format!("the file has more than {len_max} bytes");
        return Err(Error::new(Kind::TooLarge, text).at_path(path));
    }
    Ok(bytes)
}

/// Sends the process a signal as if nobody here had asked to be told of it ([`crate::Signals`]), but for SIGUSR1: what the
/// signal does by default happens before the call returns.
///
/// # Errors
/// [`Kind::InvalidInput`] for a number that is no signal's.
pub fn raise(number: i32) -> Result<()> {
    // SAFETY: an all-zero `sigset_t` is a valid value for `sigemptyset` to overwrite.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set, alive for all calls, which check the number and touch the calling thread's mask only.
    let sent = unsafe {
        libc::sigemptyset(&raw mut set);
        if number != libc::SIGUSR1 && libc::sigaddset(&raw mut set, number) == 0 {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        }
        libc::raise(number)
    };
    if sent == 0 { Ok(()) } else { Err(Error::new(Kind::InvalidInput, format!("{number} is no signal"))) }
}

/// The time of day, since the beginning of 1970.
#[must_use]
pub fn time_of_day() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn last_error(what: &str) -> Error {
    os_error(&io::Error::last_os_error(), what)
}

fn os_error(cause: &io::Error, what: &str) -> Error {
    Error::os(cause.raw_os_error().unwrap_or(libc::EIO), what)
}
