//! Opening a file where that waits for nobody: its name is in the kernel's memory, and its file system is known to be one
//! of this machine.
//!
//! ```text
//!   O_PATH, RESOLVE_CACHED   the name, if all of it is cached       no device and no server is asked
//!   statx, as cached         a regular file; on which device        nor here
//!   device is known?         a file on it was opened before and is local: open it here, without a hop
//! ```
//! A chain of images is opened one after the other, because each names the next; the hop to a thread that may wait, and
//! back, was most of what that took.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, makedev, openat2, statx};

use super::open::{Create, OpenOptions};

/// Most devices that are remembered.
const DEVICES_MAX: usize = 64;

/// Devices with files whose file system is one of this machine. Facts of the machine, so of the process.
static LOCAL_DEVICES: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

fn devices() -> MutexGuard<'static, BTreeSet<u64>> {
    LOCAL_DEVICES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A local file was opened on this device.
pub(super) fn note_local(dev: u64) {
    let mut devices = devices();
    if devices.len() < DEVICES_MAX {
        devices.insert(dev);
    }
}

/// Whether opening `path` waits for nothing. Waits for nothing itself.
pub(super) fn opens_at_once(path: &Path, options: OpenOptions) -> bool {
    if options.create != Create::No || options.direct || devices().is_empty() {
        return false;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(place) = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) else { return false };
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let Ok(stat) = statx(&place, c"", how, StatxFlags::TYPE) else { return false };
    let is_file = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::RegularFile;
    is_file && devices().contains(&makedev(stat.stx_dev_major, stat.stx_dev_minor))
}
