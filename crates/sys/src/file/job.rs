//! [`Steps`]: one operation of a file, step by step, whoever carries the steps out.
//!
//! ```text
//!   inline   attempt without waiting ----.
//!   ring     entry() -> kernel -> result |--> on_result() --> Again | Done | Blocking
//!   pool     run_blocking() -------------'
//! ```
//! Kernels read and write less than asked, stop at signals and refuse flags. All of that is answered here, once.
//!
//! Steps borrow their file, so that what is done inline touches no count that threads share; a [`FileJob`] keeps the file.
//!
//! Invariants: the steps own their buffer, and a second, aligned one if the file is open for direct I/O and the first is
//! not aligned; a piece handed to the kernel is at most [`PIECE_BYTES_MAX`] long.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::DiskOp;
use io_uring::{opcode, squeue, types};
use rustix::io::{Errno, ReadWriteFlags};

use super::inline::COPY_BYTES_MAX;
use super::inner::{FileInner, Flag};
use super::space;

/// Kernels move at most 2 GiB less a page at a time; we hand over no more than this.
const PIECE_BYTES_MAX: usize = 1 << 30;
/// How often in a row an operation that makes no progress is tried on the ring before a thread takes it over.
const RETRIES_MAX: u8 = 16;

/// An operation that goes on after the call that started it.
pub(crate) struct FileJob {
    pub(crate) file: Arc<FileInner>,
    pub(crate) steps: Steps,
}

/// What is left to do of one operation.
pub(crate) struct Steps {
    op: DiskOp,
    /// The caller's buffer while an aligned one stands in for it.
    origin: Option<Buf>,
    done_bytes: usize,
    retries: u8,
}

/// What comes after one answer of the kernel.
pub(crate) enum Step {
    /// The rest, or the same again.
    Again,
    /// It is done.
    Done(Result<()>),
    /// A thread that may block has to go on.
    Blocking,
}

/// The piece that comes next.
enum Piece<'a> {
    Read { at: u64, bytes: &'a mut [u8] },
    Write { at: u64, bytes: &'a [u8], fua: bool },
    Other,
}

impl Steps {
    pub(crate) fn new(file: &FileInner, op: DiskOp) -> Self {
        let mut steps = Self { op, origin: None, done_bytes: 0, retries: 0 };
        if file.has(Flag::Direct) {
            steps.align_memory(file.align_memory());
        }
        steps
    }

    /// Puts an aligned buffer in the place of one that direct I/O would refuse.
    fn align_memory(&mut self, align: usize) {
        let is_write = matches!(self.op, DiskOp::Write { .. });
        if let DiskOp::Read { buf, .. } | DiskOp::Write { buf, .. } = &mut self.op
            && !buf.is_aligned(align)
        {
            let mut aligned = Buf::zeroed(buf.len());
            if is_write {
                aligned.as_mut_slice().copy_from_slice(buf.as_slice());
            }
            self.origin = Some(std::mem::replace(buf, aligned));
        }
    }

    pub(crate) fn op(&self) -> &DiskOp {
        &self.op
    }

    /// The buffer of the operation, for giving it back.
    pub(crate) fn into_buf(self) -> Option<Buf> {
        let is_read = matches!(self.op, DiskOp::Read { .. });
        let (DiskOp::Read { buf, .. } | DiskOp::Write { buf, .. }) = self.op else { return None };
        let Some(mut origin) = self.origin else { return Some(buf) };
        if is_read {
            origin.as_mut_slice().copy_from_slice(buf.as_slice());
        }
        Some(origin)
    }

    fn piece(&mut self) -> Piece<'_> {
        let done = self.done_bytes;
        match &mut self.op {
            DiskOp::Read { at, buf } => {
                let at = at.saturating_add(done as u64);
                let rest = buf.as_mut_slice().get_mut(done..).unwrap_or_default();
                let len = rest.len().min(PIECE_BYTES_MAX);
                Piece::Read { at, bytes: rest.get_mut(..len).unwrap_or_default() }
            }
            DiskOp::Write { at, buf, fua } => {
                let at = at.saturating_add(done as u64);
                let rest = buf.as_slice().get(done..).unwrap_or_default();
                let len = rest.len().min(PIECE_BYTES_MAX);
                Piece::Write { at, bytes: rest.get(..len).unwrap_or_default(), fua: *fua }
            }
            _ => Piece::Other,
        }
    }

    /// The next piece as an entry of a ring, or `None` if a thread has to do it.
    ///
    /// The entry points into the job's buffer: the job must be kept until the entry's completion.
    pub(crate) fn entry(&mut self, file: &FileInner) -> Option<squeue::Entry> {
        let fd = types::Fd(file.as_fd().as_raw_fd());
        let is_direct = file.has(Flag::Direct);
        let copies = |bytes: &[u8]| !is_direct && bytes.len() as u64 > COPY_BYTES_MAX;
        let has_dsync = !file.has(Flag::NoDsync);
        let is_flush = matches!(self.op, DiskOp::Flush);
        match self.piece() {
            Piece::Read { at, bytes } => {
                let len = u32::try_from(bytes.len()).ok()?;
                let flags = elsewhere_if(copies(bytes));
                Some(opcode::Read::new(fd, bytes.as_mut_ptr(), len).offset(at).build().flags(flags))
            }
            Piece::Write { fua: true, .. } if !has_dsync => None,
            Piece::Write { at, bytes, fua } => {
                let len = u32::try_from(bytes.len()).ok()?;
                let flags = elsewhere_if(copies(bytes));
                let rw_flags = if fua { libc::RWF_DSYNC } else { 0 };
                let write = opcode::Write::new(fd, bytes.as_ptr(), len).offset(at).rw_flags(rw_flags);
                Some(write.build().flags(flags))
            }
            Piece::Other if is_flush => {
                Some(opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build())
            }
            Piece::Other => None,
        }
    }

    /// Takes the kernel's answer to the piece: bytes moved, or a negative errno.
    pub(crate) fn on_result(&mut self, file: &FileInner, result: i32) -> Step {
        let errno = match usize::try_from(result) {
            Ok(moved) => return self.on_moved(file, moved),
            Err(_) => Errno::from_raw_os_error(result.wrapping_neg()),
        };
        let is_fua = matches!(self.op, DiskOp::Write { fua: true, .. });
        match errno {
            Errno::INTR | Errno::AGAIN if self.retries < RETRIES_MAX => {
                self.retries += 1;
                Step::Again
            }
            Errno::INTR | Errno::AGAIN => Step::Blocking,
            Errno::OPNOTSUPP if is_fua && !file.has(Flag::NoDsync) => {
                file.set(Flag::NoDsync);
                Step::Blocking
            }
            errno => {
                if matches!(self.op, DiskOp::Flush) {
                    file.flush_failed(errno);
                }
                Step::Done(Err(self.error(file, errno)))
            }
        }
    }

    fn on_moved(&mut self, file: &FileInner, moved: usize) -> Step {
        self.retries = 0;
        let direct_align = if file.has(Flag::Direct) { file.align_request().max(1) } else { 1 };
        match &mut self.op {
            DiskOp::Read { buf, .. } => {
                self.done_bytes += moved;
                let rest = buf.as_mut_slice().get_mut(self.done_bytes..).unwrap_or_default();
                // Direct I/O stops within a block only at the end of the file, and could not go on from there.
                if moved == 0 || !self.done_bytes.is_multiple_of(direct_align) {
                    rest.fill(0);
                } else if !rest.is_empty() {
                    return Step::Again;
                }
                Step::Done(Ok(()))
            }
            DiskOp::Write { buf, .. } => {
                let whole = self.done_bytes + moved == buf.len();
                let moved = if whole { moved } else { moved - moved % direct_align };
                self.done_bytes += moved;
                if whole {
                    Step::Done(Ok(()))
                } else if moved == 0 {
                    Step::Done(Err(self.error(file, Errno::NOSPC)))
                } else {
                    Step::Again
                }
            }
            _ => Step::Done(Ok(())),
        }
    }

    /// The error of an operation that the kernel refused.
    fn error(&self, file: &FileInner, errno: Errno) -> Error {
        let errno = errno.raw_os_error();
        let error = match &self.op {
            DiskOp::Read { at, buf } => Error::os(errno, format_args!("read {} bytes at {at:#x}", buf.len())),
            DiskOp::Write { at, buf, .. } => {
                Error::os(errno, format_args!("write {} bytes at {at:#x}", buf.len()))
            }
            DiskOp::Flush => Error::os(errno, "flush"),
            DiskOp::Discard(range) => Error::os(errno, format_args!("discard {range}")),
            DiskOp::WriteZeroes { range, .. } => Error::os(errno, format_args!("write zeroes to {range}")),
            DiskOp::Truncate { len, .. } => Error::os(errno, format_args!("set the length to {len} bytes")),
        };
        error.at_path(file.path())
    }

    /// Moves the next piece without waiting for a device, as far as the kernel can tell.
    pub(crate) fn attempt(&mut self, file: &FileInner, flags: ReadWriteFlags) -> Result<usize, Errno> {
        match self.piece() {
            Piece::Read { at, bytes } if flags.is_empty() => rustix::io::pread(file.as_fd(), bytes, at),
            Piece::Read { at, bytes } => {
                rustix::io::preadv2(file.as_fd(), &mut [std::io::IoSliceMut::new(bytes)], at, flags)
            }
            Piece::Write { at, bytes, .. } if flags.is_empty() => rustix::io::pwrite(file.as_fd(), bytes, at),
            Piece::Write { at, bytes, .. } => {
                rustix::io::pwritev2(file.as_fd(), &[std::io::IoSlice::new(bytes)], at, flags)
            }
            Piece::Other => Err(Errno::OPNOTSUPP),
        }
    }

    /// Does the rest of the operation on the calling thread, however long that takes.
    pub(crate) fn run_blocking(&mut self, file: &FileInner) -> Result<()> {
        let done = match &self.op {
            DiskOp::Read { .. } | DiskOp::Write { .. } => return self.move_blocking(file),
            DiskOp::Flush => flush(file),
            DiskOp::Discard(range) => space::discard(file, *range),
            DiskOp::WriteZeroes { range, may_unmap, fast_only } => {
                space::write_zeroes(file, *range, *may_unmap, *fast_only)
            }
            DiskOp::Truncate { len, preallocation } => {
                return space::truncate(file, *len, *preallocation).map_err(|cause| match cause {
                    space::TruncateError::Os(errno) => self.error(file, errno),
                    space::TruncateError::Refused(why) => {
                        Error::new(Kind::InvalidInput, why).at_path(file.path())
                    }
                });
            }
        };
        done.map_err(|errno| self.error(file, errno))
    }

    fn move_blocking(&mut self, file: &FileInner) -> Result<()> {
        let is_fua = matches!(self.op, DiskOp::Write { fua: true, .. });
        loop {
            let dsync = is_fua && !file.has(Flag::NoDsync);
            let flags = if dsync { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            let result = match self.attempt(file, flags) {
                Ok(moved) => i32::try_from(moved).unwrap_or(i32::MAX),
                Err(errno) => -errno.raw_os_error(),
            };
            match self.on_result(file, result) {
                Step::Done(Ok(())) if is_fua && !dsync => {
                    return flush(file).map_err(|errno| self.error(file, errno));
                }
                Step::Done(result) => return result,
                Step::Again => {}
                // A file that stays at EAGAIN on a blocking descriptor is broken, not busy.
                Step::Blocking if self.retries >= RETRIES_MAX => return Err(self.error(file, Errno::AGAIN)),
                Step::Blocking => {}
            }
        }
    }
}

/// Long copies from and to the page cache are for a thread of the kernel, not for the one that submits.
fn elsewhere_if(is_long: bool) -> squeue::Flags {
    if is_long { squeue::Flags::ASYNC } else { squeue::Flags::empty() }
}

fn flush(file: &FileInner) -> Result<(), Errno> {
    loop {
        match rustix::fs::fdatasync(file.as_fd()) {
            Err(Errno::INTR) => {}
            other => return other.inspect_err(|errno| file.flush_failed(*errno)),
        }
    }
}

#[cfg(test)]
mod tests;
