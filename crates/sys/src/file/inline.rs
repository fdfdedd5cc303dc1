//! Operations that need not wait: done on the spot, without a hop through a ring or a thread.
//!
//! | file | attempt | measured, 4 KiB |
//! |---|---|---|
//! | in memory (tmpfs) | plain call: it copies bytes | 0.8 µs; a ring hands tmpfs to a kernel thread: 5-56 µs |
//! | buffered, page cached | `RWF_NOWAIT` | read 0.8 µs, ring 1.1 µs |
//! | buffered, page not cached | `RWF_NOWAIT` says so after 0.2 µs, then the ring | |
//! | direct | none: the device is always waited for | |
//!
//! ext4 refuses buffered writes that must not wait; they go to the ring, because a plain write may wait for the journal
//! or for dirty pages. A thread that nobody waits for ([`EngineKind::Batch`]) makes plain writes all the same, of any
//! length: the way of the ring leads through a kernel thread, and a large copy has 0.8 of its rate there. What a file
//! refuses is remembered; attempts that mostly miss become rare ([`super::inner::Luck`]).

use std::io::IoSliceMut;
use std::os::fd::AsFd;

use drystone_base::Result;
use drystone_core::disk::DiskOp;
use rustix::io::{Errno, ReadWriteFlags};

use super::inner::{FileInner, Flag};
use super::job::{Step, Steps};
#[cfg(doc)]
use crate::EngineKind;

/// The longest copy that an I/O thread does itself; about a quarter of a millisecond.
pub(super) const COPY_BYTES_MAX: u64 = 1 << 20;

/// Does all or a part of what is left to do, if that needs no waiting, or no more than copies to the page cache do with
/// `is_batch`. `None`: it is not done, and goes to the engine.
pub(crate) fn try_inline(file: &FileInner, steps: &mut Steps, is_batch: bool) -> Option<Result<()>> {
    let is_memory = file.has(Flag::Memory);
    let cost_bytes = match steps.op() {
        DiskOp::Read { buf, .. } | DiskOp::Write { buf, .. } => buf.len() as u64,
        DiskOp::Flush if is_memory => 0,
        DiskOp::Discard(range) | DiskOp::WriteZeroes { range, .. } if is_memory => range.len(),
        _ => return None,
    };
    if cost_bytes > COPY_BYTES_MAX && !is_batch {
        return None;
    }
    let is_direct = file.has(Flag::Direct);
    let may_wait = is_batch && !is_direct && matches!(steps.op(), DiskOp::Write { fua: false, .. });
    if is_memory || may_wait {
        return Some(steps.run_blocking(file));
    }
    if is_direct { None } else { try_page_cache(file, steps) }
}

/// Fills all of `bytes`, if memory has them.
pub(crate) fn read_now(file: &FileInner, at: u64, bytes: &mut [u8]) -> bool {
    let len = bytes.len();
    if len as u64 > COPY_BYTES_MAX {
        return false;
    }
    if file.has(Flag::Memory) {
        return rustix::io::pread(file.as_fd(), bytes, at) == Ok(len);
    }
    if file.has(Flag::Direct) || file.has(Flag::NoNowaitRead) || !file.read_luck.is_worth_trying() {
        return false;
    }
    let slice = &mut [IoSliceMut::new(bytes)];
    match rustix::io::preadv2(file.as_fd(), slice, at, ReadWriteFlags::NOWAIT) {
        Ok(moved) if moved == len => {
            file.read_luck.hit();
            return true;
        }
        Err(Errno::OPNOTSUPP) => file.set(Flag::NoNowaitRead),
        // The read that follows tries again, and notes the miss.
        _ => {}
    }
    false
}

fn try_page_cache(file: &FileInner, steps: &mut Steps) -> Option<Result<()>> {
    let (luck, refused, is_write) = match steps.op() {
        DiskOp::Read { .. } => (&file.read_luck, Flag::NoNowaitRead, false),
        DiskOp::Write { fua: false, .. } => (&file.write_luck, Flag::NoNowaitWrite, true),
        _ => return None,
    };
    if file.has(refused) || !luck.is_worth_trying() {
        return None;
    }
    match steps.attempt(file, ReadWriteFlags::NOWAIT) {
        Ok(0) if is_write => luck.miss(),
        Ok(moved) => match steps.on_result(file, i32::try_from(moved).unwrap_or(i32::MAX)) {
            Step::Done(result) => {
                luck.hit();
                return Some(result);
            }
            Step::Again | Step::Blocking => luck.miss(),
        },
        // An error of the device is met again, and answered, by the engine's own attempt.
        Err(Errno::OPNOTSUPP) => file.set(refused),
        Err(_) => luck.miss(),
    }
    None
}
