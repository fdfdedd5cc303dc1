//! Who holds a lock that is in the way: best effort, for the text of an error.
//!
//! The kernel names the process of a POSIX lock. Locks of open files belong to no process; each process that has the
//! file open shows them in `/proc/PID/fdinfo`, so that is where to look, if `/proc/locks` says that there is something
//! to be found in this system at all. Bounded in time; other users' processes stay unseen without privileges.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::file::FileId;

/// How long to look.
const TIME_MAX: Duration = Duration::from_millis(200);

/// A phrase that names the process that holds a lock on byte `position` of the file `id`; `None` if there is none to be
/// seen. `own` is the descriptor that asks, whose locks are in nobody's way.
pub(super) fn find(id: FileId, own: BorrowedFd<'_>, position: i64, pid: Option<u32>) -> Option<String> {
    let pid = pid.or_else(|| search(&Wanted::new(id, position), own.as_raw_fd()))?;
    if pid == std::process::id() {
        return Some("this process".into());
    }
    Some(match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end()),
        Err(_) => format!("process {pid}"),
    })
}

/// What a line about the lock has in it.
struct Wanted {
    /// `major:minor:inode`, the device in hexadecimal.
    file: String,
    position: i64,
}

impl Wanted {
    fn new(id: FileId, position: i64) -> Self {
        let (major, minor) = (rustix::fs::major(id.dev), rustix::fs::minor(id.dev));
        Self { file: format!("{major:02x}:{minor:02x}:{}", id.ino), position }
    }

    /// Whether the line (of `/proc/locks` or of a `lock:` entry) is about a byte lock that covers the position:
    /// `1: OFDLCK ADVISORY READ -1 fe:00:10010734 100 101`.
    fn is_in(&self, line: &str) -> bool {
        let mut words = line.split_whitespace().skip_while(|word| *word != self.file).skip(1);
        let Some(start) = words.next().and_then(|word| word.parse::<i64>().ok()) else { return false };
        let end = match words.next() {
            Some("EOF") => i64::MAX,
            Some(word) => word.parse().unwrap_or(-1),
            None => return false,
        };
        !line.contains("FLOCK") && (start..=end).contains(&self.position)
    }
}

fn search(wanted: &Wanted, own: RawFd) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    if !locks.lines().any(|line| wanted.is_in(line)) {
        return None;
    }
    let end = Instant::now() + TIME_MAX;
    let mut ours = None;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if Instant::now() > end {
            break;
        }
        let is_ours = pid == std::process::id();
        if has_lock(&process.path(), wanted, is_ours.then_some(own)) {
            if !is_ours {
                return Some(pid);
            }
            ours = Some(pid);
        }
    }
    ours
}

fn has_lock(process: &Path, wanted: &Wanted, except: Option<RawFd>) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fdinfo")) else { return false };
    let except = except.map(|number| number.to_string());
    let others = descriptors.flatten().filter(|one| one.file_name().to_str() != except.as_deref());
    others.into_iter().any(|descriptor| {
        let info = fs::read_to_string(descriptor.path()).unwrap_or_default();
        info.lines().any(|line| line.starts_with("lock:") && wanted.is_in(line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(position: i64) -> Wanted {
        Wanted { file: "fe:00:77".into(), position }
    }

    #[test]
    fn a_line_is_about_the_lock_if_file_and_range_agree() {
        let line = "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:77 100 101";
        assert!(wanted(101).is_in(line));
        assert!(!wanted(102).is_in(line));
        assert!(!wanted(101).is_in("1: OFDLCK ADVISORY  READ -1 fe:00:78 100 101"));
        assert!(wanted(101).is_in("2: POSIX  ADVISORY  WRITE 812 fe:00:77 0 EOF"));
        assert!(!wanted(101).is_in("3: FLOCK  ADVISORY  WRITE 812 fe:00:77 0 EOF"));
        assert!(!wanted(101).is_in("4: OFDLCK ADVISORY READ -1 fe:00:77"));
    }
}
