//! Operations of the core as requests of the protocol.
//!
//! | operation | request | without it |
//! |---|---|---|
//! | read, write | `READ`, `WRITE`, each at most the maximum block size | |
//! | flush | `FLUSH` | nothing to do: the server says so by not offering it |
//! | discard | `TRIM` | nothing to do: it is advice |
//! | zeroes | `WRITE_ZEROES`, with `NO_HOLE` and `FAST_ZERO` as wanted | refused: the core writes zero bytes |
//! | resize | | refused |
//!
//! Disks are whole sectors, exports need not be: what is read past the end of an export is zeroes, and only zeroes can be
//! written there.
//!
//! An operation that is one request, as nearly all are, is one message and one answer. Others are done one request after the
//! other, by a task.

use std::sync::Arc;

use drystone_base::{Error, GuestRange, Kind};
use drystone_buf::Buf;
use drystone_core::answer::answer;
use drystone_core::disk::{Completion, DiskDone, DiskOp};
use drystone_core::runtime::LocalRef;
use drystone_nbd::{Command, CommandFlags, Request, Session, TransmissionFlags};

use super::conn::{Job, Reply};
use super::link::Link;

/// The most bytes that are zeroed or trimmed by one request: the length has 32 bits, and a server may take its time over it.
const RANGE_BYTES_MAX: u64 = 1 << 30;

/// The start of `len_bytes` that a request can be about.
pub(super) fn aligned(len_bytes: u64, promise: &Session) -> u64 {
    let min = u64::from(promise.block.min_bytes);
    (len_bytes / min * min).max(len_bytes.min(min))
}

/// Leaves a request for the server, or ends it.
pub(super) fn push(link: &Arc<Link>, local: &LocalRef, job: Job) {
    let mut job = job;
    loop {
        match link.conn(local) {
            Err(lost) => return job.fail(lost),
            // It has ended in between.
            Ok(conn) => match conn.push(job) {
                Ok(()) => return,
                Err(back) => job = *back,
            },
        }
    }
}

/// Starts an operation.
pub(super) fn submit(link: &Arc<Link>, local: &LocalRef, op: DiskOp) -> Completion {
    let offers = |flag| link.promise.flags.has(flag);
    let done = |result| Completion::ready(result, None);
    match op {
        DiskOp::Read { at, buf } => transfer(link, local, (Command::Read, CommandFlags::NONE), at, buf),
        DiskOp::Write { at, buf, fua: true } if !offers(TransmissionFlags::SEND_FUA) => {
            then_flush(link, local, at, buf)
        }
        DiskOp::Write { at, buf, fua } => {
            let flags = if fua { CommandFlags::FUA } else { CommandFlags::NONE };
            transfer(link, local, (Command::Write, flags), at, buf)
        }
        DiskOp::Flush if !offers(TransmissionFlags::SEND_FLUSH) => done(Ok(())),
        DiskOp::Flush => one(link, local, request(Command::Flush, CommandFlags::NONE, 0, 0), None),
        DiskOp::Discard(_) if !offers(TransmissionFlags::SEND_TRIM) => done(Ok(())),
        DiskOp::Discard(range) => ranged(link, local, (Command::Trim, CommandFlags::NONE), range),
        DiskOp::WriteZeroes { range, may_unmap, fast_only } => {
            let lacks_fast = fast_only && !offers(TransmissionFlags::SEND_FAST_ZERO);
            if lacks_fast || !offers(TransmissionFlags::SEND_WRITE_ZEROES) {
                let text = "the NBD server does not offer to write zeroes that way";
                return done(Err(Error::new(Kind::Unsupported, text)));
            }
            let hole = if may_unmap { CommandFlags::NONE } else { CommandFlags::NO_HOLE };
            let fast = if fast_only { CommandFlags::FAST_ZERO } else { CommandFlags::NONE };
            ranged(link, local, (Command::WriteZeroes, hole.with(fast)), range)
        }
        DiskOp::Truncate { len, .. } => {
            let is_as_it_is =
                len.div_ceil(super::SECTOR_BYTES) == link.promise.len_bytes.div_ceil(super::SECTOR_BYTES);
            done(if is_as_it_is {
                Ok(())
            } else {
                Err(Error::new(Kind::Unsupported, "an NBD export cannot be resized"))
            })
        }
    }
}

const fn request(command: Command, flags: CommandFlags, offset_bytes: u64, len_bytes: u64) -> Request {
    Request { cookie: 0, offset_bytes, len_bytes, command, flags }
}

/// One request.
fn one(link: &Arc<Link>, local: &LocalRef, request: Request, buf: Option<Buf>) -> Completion {
    let (reply, answer) = answer();
    push(link, local, Job { request, buf, reply: Reply::Device(reply) });
    Completion::away(answer)
}

fn transfer(
    link: &Arc<Link>,
    local: &LocalRef,
    (command, flags): (Command, CommandFlags),
    at: u64,
    buf: Buf,
) -> Completion {
    let len = buf.len() as u64;
    let is_inside = at.checked_add(len).is_some_and(|end| end <= link.promise.len_bytes);
    if is_inside && len <= u64::from(link.promise.block.max_bytes) {
        return one(link, local, request(command, flags, at, len), Some(buf));
    }
    if command != Command::Read && is_past_end(link, at.checked_add(len)) {
        return Completion::ready(Err(past_end()), Some(buf));
    }
    let (link, on) = (Arc::clone(link), local.clone());
    in_task(local, async move { in_parts(&link, &on, (command, flags), at, buf).await })
}

/// Whether bytes up to `end` are not all on the disk, which is the export up to a whole sector.
fn is_past_end(link: &Link, end: Option<u64>) -> bool {
    end.is_none_or(|end| end > link.promise.len_bytes.next_multiple_of(super::SECTOR_BYTES))
}

fn past_end() -> Error {
    Error::new(Kind::NoSpace, "the write ends past the end of the NBD export")
}

fn ranged(
    link: &Arc<Link>,
    local: &LocalRef,
    (command, flags): (Command, CommandFlags),
    range: GuestRange,
) -> Completion {
    let at = range.start().get();
    if command == Command::WriteZeroes && is_past_end(link, Some(range.end().get())) {
        return Completion::ready(Err(past_end()), None);
    }
    let end = range.end().get().min(link.promise.len_bytes).max(at);
    if end - at <= RANGE_BYTES_MAX && end > at {
        return one(link, local, request(command, flags, at, end - at), None);
    }
    let (link, on) = (Arc::clone(link), local.clone());
    in_task(local, async move {
        let mut at = at;
        while at < end {
            let len = aligned((end - at).min(RANGE_BYTES_MAX), &link.promise);
            let done = one(&link, &on, request(command, flags, at, len), None).await;
            if done.result.is_err() {
                return done;
            }
            at += len;
        }
        DiskDone { result: Ok(()), buf: None, again_ns: None }
    })
}

fn then_flush(link: &Arc<Link>, local: &LocalRef, at: u64, buf: Buf) -> Completion {
    let (link, on) = (Arc::clone(link), local.clone());
    in_task(local, async move {
        let written = submit(&link, &on, DiskOp::Write { at, buf, fua: false }).await;
        if written.result.is_err() {
            return written;
        }
        let flushed = submit(&link, &on, DiskOp::Flush).await;
        DiskDone { buf: written.buf, ..flushed }
    })
}

fn in_task(local: &LocalRef, work: impl Future<Output = DiskDone> + 'static) -> Completion {
    let (completion, finisher) = Completion::pending();
    local.spawn(Box::pin(async move {
        let DiskDone { result, buf, again_ns } = work.await;
        match (result, again_ns) {
            (Err(error), Some(again_ns)) => finisher.hand_back(error, buf, again_ns),
            (result, _) => finisher.finish(result, buf),
        }
    }));
    completion
}

/// A transfer that is too long for one request, or reaches past the end of the export.
async fn in_parts(
    link: &Arc<Link>,
    local: &LocalRef,
    (command, flags): (Command, CommandFlags),
    at: u64,
    mut buf: Buf,
) -> DiskDone {
    let served = usize::try_from(link.promise.len_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
    let mut tail = buf.split_off(served.min(buf.len()));
    if command == Command::Read {
        tail.fill_zero();
    } else if tail.as_slice().iter().any(|byte| *byte != 0) {
        return DiskDone { result: Err(past_end()), buf: Some(joined(buf, tail)), again_ns: None };
    }
    let max = usize::try_from(link.promise.block.max_bytes).unwrap_or(usize::MAX);
    let mut whole = Buf::empty();
    let (mut rest, mut at) = (buf, at);
    while !rest.is_empty() {
        let behind = rest.split_off(rest.len().min(max));
        let len = rest.len() as u64;
        let done = one(link, local, request(command, flags, at, len), Some(rest)).await;
        whole = joined(whole, done.buf.unwrap_or_else(Buf::empty));
        if done.result.is_err() {
            return DiskDone { buf: Some(joined(joined(whole, behind), tail)), ..done };
        }
        rest = behind;
        at += len;
    }
    DiskDone { result: Ok(()), buf: Some(joined(whole, tail)), again_ns: None }
}

/// Two neighbours as one again. (A part that was lost leaves a gap; the operation has failed then.)
fn joined(mut first: Buf, next: Buf) -> Buf {
    if first.is_empty() {
        return next;
    }
    match first.rejoin(next) {
        Ok(()) | Err(_) => first,
    }
}
