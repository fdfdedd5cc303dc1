//! What all handles of one open file share: the descriptor and what was learned about it.
//!
//! The descriptor's *number* never changes; a reopen puts another open file behind the same number (`dup3`), which the
//! kernel does atomically. So the data path reads no pointer that somebody could exchange, takes no lock, and an
//! operation that is already in the kernel keeps the open file that it began with.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rustix::io::Errno;

use super::open::{Access, Facts, FileId};
use crate::pool::BlockingQueue;

/// How many operations of one file block in threads at a time.
const BLOCKING_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
/// So many synchronous attempts in a row must miss before most are skipped.
const MISSES_MAX: u32 = 8;
/// While attempts miss, one in so many is made all the same.
const PROBE_EVERY: u32 = 64;

/// One thing that is so, or that a file system turned out not to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Flag {
    /// Open for writing.
    Writable = 1,
    /// Open for direct I/O.
    Direct = 1 << 1,
    /// The file lies in memory (tmpfs): reading and writing copies bytes and waits for no device.
    Memory = 1 << 2,
    /// A block device, not a regular file.
    Block = 1 << 3,
    /// Refuses reads that must not wait.
    NoNowaitRead = 1 << 4,
    /// Refuses writes that must not wait.
    NoNowaitWrite = 1 << 5,
    /// Refuses `RWF_DSYNC`.
    NoDsync = 1 << 6,
    /// Refuses to punch holes.
    NoPunch = 1 << 7,
    /// Refuses to zero a range.
    NoZeroRange = 1 << 8,
    /// Refuses to discard.
    NoDiscard = 1 << 9,
    /// Refuses to allocate.
    NoAllocate = 1 << 10,
    /// A flush of buffered data failed. The kernel may have dropped that data, and says so once only; see
    /// [`FileInner::flush_failed`].
    FlushFailed = 1 << 11,
    /// The file system is one of this machine: locking does not wait for another.
    Local = 1 << 12,
}

/// The flags that come with an open file, and are replaced by a reopen.
const FLAGS_OF_ACCESS: u32 = Flag::Writable as u32 | Flag::Direct as u32;

pub(crate) struct FileInner {
    fd: OwnedFd,
    path: PathBuf,
    id: FileId,
    flags: AtomicU32,
    align_request: AtomicUsize,
    align_memory: AtomicUsize,
    pub(crate) queue: BlockingQueue,
    pub(crate) read_luck: Luck,
    pub(crate) write_luck: Luck,
}

/// Whether synchronous attempts have been worth their while. Approximate; a lost update costs one attempt.
pub(crate) struct Luck(AtomicU32);

impl Luck {
    fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Whether to try again.
    pub(crate) fn is_worth_trying(&self) -> bool {
        let misses = self.0.load(Ordering::Relaxed);
        if misses < MISSES_MAX {
            return true;
        }
        self.0.store(misses.wrapping_add(1).max(MISSES_MAX), Ordering::Relaxed);
        misses.is_multiple_of(PROBE_EVERY)
    }

    pub(crate) fn hit(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn miss(&self) {
        let misses = self.0.load(Ordering::Relaxed);
        if misses < MISSES_MAX {
            self.0.store(misses + 1, Ordering::Relaxed);
        }
    }
}

impl FileInner {
    pub(crate) fn new(fd: OwnedFd, path: PathBuf, facts: &Facts) -> Self {
        let inner = Self {
            fd,
            path,
            id: facts.id,
            flags: AtomicU32::new(facts.fixed_flags()),
            align_request: AtomicUsize::new(1),
            align_memory: AtomicUsize::new(1),
            queue: BlockingQueue::new(BLOCKING_MAX),
            read_luck: Luck::new(),
            write_luck: Luck::new(),
        };
        inner.set_access(&facts.access);
        inner
    }

    /// Takes over what belongs to the way in which the file is open.
    pub(crate) fn set_access(&self, access: &Access) {
        let flags = self.flags.load(Ordering::Relaxed) & !FLAGS_OF_ACCESS;
        self.flags.store(flags | access.flags(), Ordering::Relaxed);
        self.align_request.store(access.align_request, Ordering::Relaxed);
        self.align_memory.store(access.align_memory, Ordering::Relaxed);
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags.load(Ordering::Relaxed) & flag as u32 != 0
    }

    pub(crate) fn set(&self, flag: Flag) {
        self.flags.fetch_or(flag as u32, Ordering::Relaxed);
    }

    /// What offsets and lengths of requests must be multiples of.
    pub(crate) fn align_request(&self) -> usize {
        self.align_request.load(Ordering::Relaxed)
    }

    /// What addresses of buffers must be multiples of.
    pub(crate) fn align_memory(&self) -> usize {
        self.align_memory.load(Ordering::Relaxed)
    }

    /// A flush failed. The kernel marks pages that it could not write as clean and reports that once, so a later flush
    /// that succeeds would claim that lost data is safe. Buffered files therefore fail every later flush, too.
    pub(crate) fn flush_failed(&self, errno: Errno) {
        // These say that nothing was tried.
        let was_tried =
            !matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::ROFS | Errno::BADF);
        if was_tried && !self.has(Flag::Direct) {
            self.set(Flag::FlushFailed);
        }
    }
}

impl AsFd for FileInner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
