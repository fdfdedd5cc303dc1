//! Discarding, zeroing and resizing: the operations that a ring does not do, on a thread that may block.
//!
//! | operation | regular file | block device | if refused |
//! |---|---|---|---|
//! | discard | punch hole | `BLKDISCARD` | nothing: it is advice |
//! | zero, may unmap | punch hole, zero range | punch hole | as "zero" |
//! | zero | zero range, or punch hole and allocate | `BLKZEROOUT` | write zeroes, unless `fast_only` |
//! | truncate | `ftruncate`, then allocate or write zeroes; an empty file's start is written | only to its own length | |
//!
//! Invariants: work is cut into pieces of at most [`PIECE_BYTES_MAX`]; a file that ends before a zeroed range's end is
//! extended to it by writing inside the range, never by setting a length, which could cut off a write that another
//! request has just appended.

use std::os::fd::{AsFd, AsRawFd};

use drystone_base::GuestRange;
use drystone_buf::Buf;
use drystone_core::disk::Preallocation;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstat, ftruncate, seek};
use rustix::io::Errno;

use super::inner::{FileInner, Flag};

/// The most that one call discards, zeroes or allocates.
const PIECE_BYTES_MAX: u64 = 1 << 30;
/// The most zero bytes that one call writes.
const ZEROES_BYTES_MAX: usize = 1 << 20;
/// So much of a new file has its space from the beginning.
const START_BYTES: u64 = 4096;
/// linux/fs.h: `_IO(0x12, 119)`.
const BLKDISCARD: libc::Ioctl = 0x1277;
/// linux/fs.h: `_IO(0x12, 127)`.
const BLKZEROOUT: libc::Ioctl = 0x127f;
/// The sector of a device that does not say.
const SECTOR_BYTES: u64 = 512;

/// Why a length was not set.
pub(crate) enum TruncateError {
    /// The kernel refused.
    Os(Errno),
    /// We refused.
    Refused(&'static str),
}

impl From<Errno> for TruncateError {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

pub(crate) fn discard(file: &FileInner, range: GuestRange) -> Result<(), Errno> {
    if file.has(Flag::NoDiscard) {
        return Ok(());
    }
    let done = if file.has(Flag::Block) {
        // Inwards to whole sectors: what is outside must stay.
        let sector_bytes = sector_bytes(file);
        let start = range.start().get().next_multiple_of(sector_bytes);
        let end = range.end().get() & !(sector_bytes - 1);
        for_pieces(start, end.saturating_sub(start), |at, len| block_ioctl(file, BLKDISCARD, at, len))
    } else {
        punch(file, range)
    };
    match done {
        Err(Errno::OPNOTSUPP) => {
            file.set(Flag::NoDiscard);
            Ok(())
        }
        other => other,
    }
}

pub(crate) fn write_zeroes(
    file: &FileInner,
    range: GuestRange,
    may_unmap: bool,
    fast_only: bool,
) -> Result<(), Errno> {
    let done = if file.has(Flag::Block) {
        zero_block(file, range, may_unmap, fast_only)
    } else {
        zero_regular(file, range, may_unmap)
    };
    match done {
        Err(Errno::OPNOTSUPP) if !fast_only => write_zero_bytes(file, range.start().get(), range.end().get()),
        other => other,
    }
}

/// Tries the calls that suit, best first; `OPNOTSUPP` if the file system has none of them.
fn zero_regular(file: &FileInner, range: GuestRange, may_unmap: bool) -> Result<(), Errno> {
    if may_unmap {
        match punch(file, range).and_then(|()| extend_to(file, range)) {
            Err(Errno::OPNOTSUPP) => {}
            other => return other,
        }
    }
    let zeroed = remember(file, Flag::NoZeroRange, || {
        for_range(range, |at, len| fallocate(file.as_fd(), FallocateFlags::ZERO_RANGE, at, len))
    });
    match zeroed {
        Err(Errno::OPNOTSUPP) => {}
        other => return other,
    }
    punch(file, range)?;
    remember(file, Flag::NoAllocate, || {
        for_range(range, |at, len| fallocate(file.as_fd(), FallocateFlags::empty(), at, len))
    })
}

fn zero_block(file: &FileInner, range: GuestRange, may_unmap: bool, fast_only: bool) -> Result<(), Errno> {
    if may_unmap {
        match punch(file, range) {
            Err(Errno::OPNOTSUPP) => {}
            other => return other,
        }
    }
    // The kernel writes zero bytes itself where the device cannot zero, and does not say so beforehand.
    if fast_only || !range.is_aligned(sector_bytes(file)) {
        return Err(Errno::OPNOTSUPP);
    }
    for_range(range, |at, len| block_ioctl(file, BLKZEROOUT, at, len))
}

fn punch(file: &FileInner, range: GuestRange) -> Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    remember(file, Flag::NoPunch, || for_range(range, |at, len| fallocate(file.as_fd(), flags, at, len)))
}

/// Does not ask again for what was refused once. (`EINVAL` may be about this range only.)
fn remember(file: &FileInner, refused: Flag, call: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    if file.has(refused) {
        return Err(Errno::OPNOTSUPP);
    }
    match call() {
        Err(Errno::INVAL) => Err(Errno::OPNOTSUPP),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => {
            file.set(refused);
            Err(Errno::OPNOTSUPP)
        }
        other => other,
    }
}

/// A file that ends inside the zeroed range gets its length from a write of zeroes at the range's end.
fn extend_to(file: &FileInner, range: GuestRange) -> Result<(), Errno> {
    let end = range.end().get();
    if range.is_empty() || length(file)? >= end {
        return Ok(());
    }
    let tail = (file.align_request() as u64).min(range.len());
    write_zero_bytes(file, end - tail, end)
}

fn write_zero_bytes(file: &FileInner, start: u64, end: u64) -> Result<(), Errno> {
    let len = usize::try_from(end - start).unwrap_or(usize::MAX).min(ZEROES_BYTES_MAX);
    let zeroes = Buf::zeroed(len);
    let mut at = start;
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeroes.len());
        let bytes = zeroes.as_slice().get(..len).unwrap_or_default();
        match rustix::io::pwrite(file.as_fd(), bytes, at) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(moved) => at += moved as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The file's or device's length now.
pub(crate) fn length(file: &FileInner) -> Result<u64, Errno> {
    if file.has(Flag::Block) {
        return seek(file.as_fd(), SeekFrom::End(0));
    }
    Ok(u64::try_from(fstat(file.as_fd())?.st_size).unwrap_or(0))
}

/// What the file system has reserved for the file, in bytes.
pub(crate) fn allocated(file: &FileInner) -> Result<u64, Errno> {
    /// stat(2): the unit of `st_blocks`, whatever the file system.
    const BLOCK_BYTES: u64 = 512;
    let blocks = fstat(file.as_fd())?.st_blocks;
    Ok(u64::try_from(blocks).unwrap_or(0).saturating_mul(BLOCK_BYTES))
}

pub(crate) fn truncate(
    file: &FileInner,
    len: u64,
    preallocation: Preallocation,
) -> Result<(), TruncateError> {
    let old_len = length(file)?;
    if file.has(Flag::Block) {
        return if len == old_len {
            Ok(())
        } else {
            Err(TruncateError::Refused("a device has the length that it has"))
        };
    }
    if len < old_len && preallocation != Preallocation::Off {
        return Err(TruncateError::Refused("preallocation is for files that grow"));
    }
    if old_len == 0 && preallocation == Preallocation::Falloc {
        allocate_start(file, len);
    }
    let grown = match preallocation {
        Preallocation::Off => retry(|| ftruncate(file.as_fd(), len)),
        Preallocation::Metadata => {
            return Err(TruncateError::Refused("a file has no metadata to preallocate"));
        }
        Preallocation::Falloc => allocate(file, old_len, len),
        Preallocation::Full => {
            ftruncate(file.as_fd(), len).and_then(|()| write_zero_bytes_aligned(file, old_len, len))
        }
    };
    if grown.is_ok() && old_len == 0 && preallocation == Preallocation::Off {
        allocate_start(file, len);
    }
    grown.map_err(|errno| {
        // As if it had not begun. The caller has the only request on the file's end.
        let _ = retry(|| ftruncate(file.as_fd(), old_len));
        TruncateError::Os(errno)
    })
}

/// Gives the start of a file its space: who asks by direct I/O what alignment it wants would learn nothing from a hole. If it
/// fails, nothing is lost.
fn allocate_start(file: &FileInner, len: u64) {
    let _ = write_zero_bytes_aligned(file, 0, len.min(START_BYTES));
}

fn allocate(file: &FileInner, start: u64, end: u64) -> Result<(), Errno> {
    let allocated = remember(file, Flag::NoAllocate, || {
        for_pieces(start, end - start, |at, len| fallocate(file.as_fd(), FallocateFlags::empty(), at, len))
    });
    match allocated {
        Err(Errno::OPNOTSUPP) => {
            ftruncate(file.as_fd(), end).and_then(|()| write_zero_bytes_aligned(file, start, end))
        }
        other => other,
    }
}

/// Writes zeroes to the new part of a file. Direct I/O cannot begin or end within a block: the rest of the old end's
/// block is zero already because the length was set first, and so is the rest of the new end's.
fn write_zero_bytes_aligned(file: &FileInner, start: u64, end: u64) -> Result<(), Errno> {
    let align = if file.has(Flag::Direct) { file.align_request().max(1) as u64 } else { 1 };
    let (start, end) = (start.next_multiple_of(align), end - end % align);
    if start < end { write_zero_bytes(file, start, end) } else { Ok(()) }
}

fn for_range(range: GuestRange, call: impl FnMut(u64, u64) -> Result<(), Errno>) -> Result<(), Errno> {
    for_pieces(range.start().get(), range.len(), call)
}

/// Calls `call(start, len)` for pieces that follow each other; a call that a signal stopped is made again.
fn for_pieces(
    start: u64,
    len: u64,
    mut call: impl FnMut(u64, u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let Some(mut rest) = GuestRange::checked(start, len) else { return Err(Errno::INVAL) };
    while !rest.is_empty() {
        let piece = rest.take(PIECE_BYTES_MAX);
        retry(|| call(piece.start().get(), piece.len()))?;
        rest = rest.skip(piece.len());
    }
    Ok(())
}

fn retry(mut call: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What the ioctls of a device want ranges to be multiples of.
fn sector_bytes(file: &FileInner) -> u64 {
    let told = rustix::fs::ioctl_blksszget(file.as_fd()).ok().map(u64::from);
    told.filter(|bytes| bytes.is_power_of_two()).unwrap_or(SECTOR_BYTES)
}

fn block_ioctl(file: &FileInner, request: libc::Ioctl, start: u64, len: u64) -> Result<(), Errno> {
    let range = [start, len];
    // SAFETY: both requests read two 64-bit numbers at the address given, which lives until the call returns.
    match unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// Where data or a hole that begins at or holds `offset` ends. `None` past the end of the file.
pub(crate) fn extent_at(file: &FileInner, offset: u64) -> Result<Option<(bool, GuestRange)>, Errno> {
    let len = length(file)?;
    let Some(rest) = len.checked_sub(offset).filter(|rest| *rest > 0) else { return Ok(None) };
    let all = |is_data| Ok(GuestRange::checked(offset, rest).map(|range| (is_data, range)));
    if file.has(Flag::Block) {
        return all(true);
    }
    let up_to = |is_data, end: u64| {
        Ok(GuestRange::checked(offset, end.min(len) - offset).map(|range| (is_data, range)))
    };
    match seek(file.as_fd(), SeekFrom::Data(offset)) {
        Ok(data) if data > offset => up_to(false, data),
        Ok(_) => match seek(file.as_fd(), SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => up_to(true, hole),
            // The file changed between the two questions: data is the answer that is never wrong.
            Ok(_) | Err(Errno::NXIO) => all(true),
            Err(errno) => Err(errno),
        },
        Err(Errno::NXIO) => all(false),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => all(true),
        Err(errno) => Err(errno),
    }
}
