//! Files and block devices.
//!
//! ```text
//!   Disk::submit --> inline (done on the spot?) --no--> engine: ring or threads --> Completion
//!                      |                                  |
//!                      '--------------- job --------------'        space: discard, zero, truncate, extents
//! ```
//! | module | what |
//! |---|---|
//! | `open` | opening, reopening, what a descriptor is, alignment of direct I/O |
//! | `inner` | the descriptor and what was learned about it |
//! | `job` | one operation, step by step |
//! | `hints` | wishes about new files |
//! | `inline` | what can be done without waiting |
//! | `offload` | copies between two files |
//! | `space` | discard, write zeroes, truncate, where data is |
//!
//! Invariant: no operation blocks the thread that submitted it. Not here: image locks (`lock`), and who may do what.

mod hints;
mod inline;
pub(crate) mod inner;
pub(crate) mod job;
mod known;
mod offload;
mod open;
mod space;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::runtime::{Local, LocalRef};
use rustix::io::Errno;

pub use self::hints::FileHints;
use self::inner::{FileInner, Flag};
use self::job::{FileJob, Steps};
pub use self::open::{Create, FileId, OpenOptions};
use crate::local::SysLocal;
use crate::pool::BlockingQueue;

/// An open regular file or block device. Clones are the same open file; any thread may use it.
///
/// As a [`Disk`], it needs threads of this crate ([`crate::Threads`]): operations submitted on another runtime fail with
/// [`Kind::Unsupported`].
#[derive(Clone)]
pub struct File {
    pub(crate) inner: Arc<FileInner>,
}

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileExtent {
    /// From where it was asked for to where it ends; longer than nothing.
    pub range: GuestRange,
    /// Whether there is data. A hole reads as zeroes.
    pub is_data: bool,
}

/// A file opened a second time, with other options, to take the place of the first: see [`File::reopen`]. Dropping it
/// closes it and leaves the file as it was.
#[must_use = "dropping it gives the reopen up"]
pub struct Reopened {
    file: File,
    fd: Arc<OwnedFd>,
    access: open::Access,
}

impl File {
    /// Opens or makes the file at `path`.
    ///
    /// # Errors
    /// Those of the operating system; [`Kind::InvalidInput`] if it is neither a regular file nor a block device;
    /// [`Kind::Unsupported`] if direct I/O is asked for and the file system has none.
    pub async fn open(local: &dyn Local, path: impl Into<PathBuf>, options: OpenOptions) -> Result<Self> {
        let path = path.into();
        let sys = SysLocal::of(local)?;
        let queue = BlockingQueue::new(std::num::NonZeroUsize::MIN);
        let is_instant = known::opens_at_once(&path, options);
        let open = move || open::open(&path, options).map(|opened| (path, opened));
        let (path, (fd, facts)) = if is_instant { open()? } else { sys.blocking(&queue, open).await?? };
        if facts.is_local {
            known::note_local(facts.id.dev);
        }
        Ok(Self { inner: Arc::new(FileInner::new(fd, path, &facts)) })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.inner.path()
    }

    /// Which file it is.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.inner.id()
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.inner.has(Flag::Block)
    }

    /// Whether it is open for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.inner.has(Flag::Writable)
    }

    /// Whether it is open for direct I/O.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.inner.has(Flag::Direct)
    }

    /// What offsets and lengths of operations must be multiples of, in bytes; 1 unless it is open for direct I/O.
    /// (Buffers need no alignment: a badly aligned one costs a copy.)
    #[must_use]
    pub fn align_request_bytes(&self) -> usize {
        self.inner.align_request()
    }

    /// The length in bytes, now.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn len_bytes(&self, local: &dyn Local) -> Result<u64> {
        if self.inner.has(Flag::Memory) {
            return self.answer("find the length of", space::length(&self.inner));
        }
        self.ask(local, "find the length of", space::length).await
    }

    /// How many bytes the file takes up on its file system, now; 0 for a device.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn allocated_bytes(&self, local: &dyn Local) -> Result<u64> {
        self.ask(local, "find the space taken up by", space::allocated).await
    }

    /// As [`Self::allocated_bytes`], asked on this thread: for reports about many files that are open anyway.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn allocated_bytes_now(&self) -> Result<u64> {
        self.answer("find the space taken up by", space::allocated(&self.inner))
    }

    /// The stretch of data or the hole that `offset` lies in, from `offset` on; `None` at and after the end.
    ///
    /// # Errors
    /// Those of the operating system. A file system that does not know holes answers that all is data.
    pub async fn next_extent(&self, local: &dyn Local, offset: u64) -> Result<Option<FileExtent>> {
        let found = self.ask(local, "find data in", move |file| space::extent_at(file, offset)).await?;
        Ok(found.map(|(is_data, range)| FileExtent { range, is_data }))
    }

    /// Gets all of `to` from another file, from `from` on there, without the bytes coming through this process.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the kernel does not do that between these files; a part may be copied then. Those of the
    /// operating system.
    pub async fn copy_from(&self, local: &dyn Local, source: &Self, from: u64, to: GuestRange) -> Result<()> {
        if !self.is_writable() {
            return Err(Error::new(Kind::ReadOnly, "it is open for reading only").at_path(self.path()));
        }
        let source = Arc::clone(&source.inner);
        self.ask(local, "copy to", move |file| offload::copy(file, &source, from, to)).await
    }

    /// Tells the file system what is wished for a file without bytes; what it does not know is left out.
    ///
    /// # Errors
    /// Those of starting threads.
    pub async fn hint(&self, local: &dyn Local, hints: FileHints) -> Result<()> {
        if self.is_block_device() || self.inner.has(Flag::Memory) {
            return Ok(());
        }
        let told = move |file: &FileInner| {
            hints::tell(file, hints);
            Ok(())
        };
        self.ask(local, "tell wishes about", told).await
    }

    /// Opens the same file again (never another one that has taken its name), for [`Reopened::commit`]. `create` of the
    /// options is not looked at.
    ///
    /// # Errors
    /// As for [`Self::open`]; [`Kind::NotFound`] if the file cannot be reached any more.
    pub async fn reopen(&self, local: &dyn Local, options: OpenOptions) -> Result<Reopened> {
        let inner = Arc::clone(&self.inner);
        let options = OpenOptions { create: Create::No, ..options };
        let opened = SysLocal::of(local)?.blocking(&self.inner.queue, move || {
            open::open_again(inner.as_fd(), inner.path(), inner.id(), options)
        });
        let (fd, facts) = opened.await??;
        Ok(Reopened { file: self.clone(), fd: Arc::new(fd), access: facts.access })
    }

    /// Closes the descriptor, and with it gives up image locks, whoever still has a clone. Operations of clones fail
    /// from then on; the caller sees to it that none is under way.
    pub async fn close(&self, local: &dyn Local) {
        let inner = Arc::clone(&self.inner);
        let Ok(sys) = SysLocal::of(local) else { return };
        // Closing can take as long as writing does.
        let closed = sys.blocking(&self.inner.queue, move || {
            if let Some(nowhere) = open::nowhere() {
                replace_descriptor(&inner, nowhere);
            }
        });
        // A pool that cannot run the call leaves the closing to the last clone.
        let _ = closed.await;
    }

    /// Asks the kernel about the file, on a thread that may block: even in memory, a search for data takes its time.
    async fn ask<T: Send + 'static>(
        &self,
        local: &dyn Local,
        what: &'static str,
        question: impl FnOnce(&FileInner) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let asked = SysLocal::of(local)?.blocking(&self.inner.queue, move || question(&inner));
        self.answer(what, asked.await?)
    }

    fn answer<T>(&self, what: &str, answer: Result<T, Errno>) -> Result<T> {
        answer.map_err(|errno| {
            Error::os(errno.raw_os_error(), format_args!("{what} the file")).at_path(self.path())
        })
    }

    /// Why `op` is not even tried.
    fn refusal(&self, op: &DiskOp) -> Option<Error> {
        let is_read = matches!(op, DiskOp::Read { .. } | DiskOp::Flush);
        if !is_read && !self.inner.has(Flag::Writable) {
            return Some(Error::new(Kind::ReadOnly, "it is open for reading only").at_path(self.path()));
        }
        if matches!(op, DiskOp::Flush) && self.inner.has(Flag::FlushFailed) {
            let text = "an earlier flush failed, and what was written before it may be lost";
            return Some(Error::new(Kind::Io, text).at_path(self.path()));
        }
        None
    }
}

impl Disk for File {
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion {
        let sys = match SysLocal::of(&**local) {
            Ok(sys) => sys,
            Err(error) => return Completion::ready(Err(error), buf_of(op)),
        };
        if let Some(error) = self.refusal(&op) {
            return Completion::ready(Err(error), buf_of(op));
        }
        let mut steps = Steps::new(&self.inner, op);
        match inline::try_inline(&self.inner, &mut steps, sys.is_batch()) {
            Some(result) => sys.done(result, steps.into_buf()),
            None => sys.start_file(FileJob { file: Arc::clone(&self.inner), steps }),
        }
    }

    fn read_now(&self, _local: &LocalRef, at: u64, bytes: &mut [u8]) -> bool {
        inline::read_now(&self.inner, at, bytes)
    }

    fn can_grow(&self) -> bool {
        !self.is_block_device()
    }
}

fn buf_of(op: DiskOp) -> Option<Buf> {
    match op {
        DiskOp::Read { buf, .. } | DiskOp::Write { buf, .. } => Some(buf),
        _ => None,
    }
}

impl Reopened {
    /// Puts the newly opened file in the place of the old one, whose image locks end with it. Never blocks for long,
    /// never fails. Operations submitted from now on use it; the caller sees to it that none is under way.
    ///
    /// # Panics
    /// If the kernel refuses to exchange two open descriptors, for which there is no reason.
    pub fn commit(self) {
        let inner = &self.file.inner;
        replace_descriptor(inner, &self.fd);
        inner.set_access(&self.access);
    }

    /// What offsets and lengths of operations must be multiples of after the commit, in bytes; see
    /// [`File::align_request_bytes`].
    #[must_use]
    pub fn align_request_bytes(&self) -> usize {
        self.access.align_request
    }

    /// The descriptor of what will take the old one's place.
    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }
}

/// Puts `new`'s open file behind `inner`'s descriptor number.
fn replace_descriptor(inner: &FileInner, new: &OwnedFd) {
    use std::os::fd::AsRawFd;
    loop {
        // SAFETY: both descriptors are open and owned for the whole call. The number of the first stays open throughout
        // and keeps its owner; only the open file behind it changes.
        let number = unsafe { libc::dup3(new.as_raw_fd(), inner.as_fd().as_raw_fd(), libc::O_CLOEXEC) };
        if number >= 0 {
            return;
        }
        let error = std::io::Error::last_os_error();
        assert!(
            matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)),
            "cannot exchange descriptors of '{}': {error}",
            inner.path().display()
        );
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path()).field("id", &self.id()).finish_non_exhaustive()
    }
}
