//! Copying from one file to another in the kernel (`copy_file_range`): by sharing the blocks where the file system can, else
//! without a way through this process.
//!
//! Invariant: what the kernel does not do between these two files is [`Kind::Unsupported`](drystone_base::Kind::Unsupported),
//! whatever it calls that; a device that is full or broken is a failure.

use std::os::fd::AsFd;

use drystone_base::GuestRange;
use rustix::fs::copy_file_range;
use rustix::io::Errno;

use super::inner::{FileInner, Flag};

/// The most that one call copies, so that a signal or the end of a program does not wait for long.
const PIECE_BYTES_MAX: u64 = 128 << 20;

/// Copies what `source` has from `from` on to all of `to`.
pub(super) fn copy(file: &FileInner, source: &FileInner, from: u64, to: GuestRange) -> Result<(), Errno> {
    if file.has(Flag::Block) || source.has(Flag::Block) {
        return Err(Errno::OPNOTSUPP);
    }
    let (mut from, mut at) = (from, to.start().get());
    while at < to.end().get() {
        let piece = usize::try_from((to.end().get() - at).min(PIECE_BYTES_MAX)).unwrap_or(usize::MAX);
        match copy_file_range(source.as_fd(), Some(&mut from), file.as_fd(), Some(&mut at), piece) {
            // The source ends here, or its file system does not know how: whoever reads it will see which.
            Ok(0) => return Err(Errno::OPNOTSUPP),
            Ok(_) | Err(Errno::INTR) => {}
            // Another file system; one that cannot; an offset or a pair of files that it does not like; a sandbox.
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::BADF) => {
                return Err(Errno::OPNOTSUPP);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
