//! What a protocol driver's bytes lie on: a device that takes operations and says when each is done.
//!
//! ```text
//!   core, drivers --submit(op, buffer)--> Disk   (io_uring, thread pool, simulated disk, memory)
//!                 <---- Completion -----         ready at once, or finished later through its Finisher
//! ```
//! An operation owns its buffer until the device is done with it. Dropping a [`Completion`] abandons the *answer*, never
//! the operation: the device still owns the buffer, and frees it when it has finished.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_buf::Buf;

use crate::answer::Answer;
use crate::runtime::{LocalFuture, LocalRef};

/// One operation on a device. Offsets are the device's own bytes and, like lengths, multiples of its alignment.
#[derive(Debug)]
pub enum DiskOp {
    /// Fill the buffer from `at`. Bytes past the device's end read as zeroes.
    Read {
        /// First byte on the device.
        at: u64,
        /// Filled on success; its contents are unspecified after an error.
        buf: Buf,
    },
    /// Store the buffer at `at`.
    Write {
        /// First byte on the device.
        at: u64,
        /// The bytes.
        buf: Buf,
        /// The bytes must be on stable storage before the operation is done.
        fua: bool,
    },
    /// Everything that was done before this operation began is on stable storage when it is done.
    Flush,
    /// The contents of the range do not matter any more. Advice: a device may do nothing.
    Discard(GuestRange),
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// What to zero.
        range: GuestRange,
        /// The range may become a hole; otherwise its space stays allocated.
        may_unmap: bool,
        /// Refuse with [`Kind::Unsupported`] rather than write zero bytes the slow way.
        fast_only: bool,
    },
    /// Set the device's length in bytes. New bytes read as zeroes.
    Truncate {
        /// The new length.
        len: u64,
        /// Whether and how space for new bytes is reserved.
        preallocation: Preallocation,
    },
}

/// How space is reserved when a file is made or grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// Not at all: the file is sparse.
    #[default]
    Off,
    /// The format's metadata only. Files do not know this mode.
    Metadata,
    /// By asking the file system (`fallocate`).
    Falloc,
    /// By writing zero bytes.
    Full,
}

/// What a finished operation leaves: its result and its buffer, if it had one.
#[derive(Debug)]
pub struct DiskDone {
    /// Whether it worked.
    pub result: Result<()>,
    /// The buffer of a read or write.
    pub buf: Option<Buf>,
    /// The device has lost the operation (its connection broke, say) and cannot take it again before this time of
    /// [`Local::now_ns`](crate::runtime::Local::now_ns). `result` is an error; a request that can steps back and comes again.
    pub again_ns: Option<u64>,
}

impl DiskDone {
    fn gone() -> Self {
        let error = Error::new(Kind::Cancelled, "the device went away");
        Self { result: Err(error), buf: None, again_ns: None }
    }
}

/// A device. Any I/O thread submits to it.
pub trait Disk: Any + Send + Sync {
    /// Starts `op` on the calling thread. Never blocks.
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion;

    /// Fills `bytes` from `at`, if that takes no wait, and says whether it did. Otherwise the contents of `bytes` are
    /// unspecified, and nothing else has happened: who wants them submits a read, which also tells what is wrong.
    fn read_now(&self, local: &LocalRef, at: u64, bytes: &mut [u8]) -> bool {
        let _ = (local, at, bytes);
        false
    }

    /// Gets what `source` has from `from` on for all of `to`, in its own way, and without a buffer of ours.
    ///
    /// Fails with [`Kind::Unsupported`] if it cannot do so; the range may be written in part then.
    fn copy_from<'a>(
        &'a self,
        local: &'a LocalRef,
        source: &'a dyn Disk,
        from: u64,
        to: GuestRange,
    ) -> LocalFuture<'a, Result<()>> {
        let _ = (local, source, from, to);
        Box::pin(async { Err(Error::new(Kind::Unsupported, "the device copies from no other one")) })
    }

    /// Whether a write past the end makes the device longer, as a file's does. A device of a fixed length refuses it
    /// and has stored nothing of it.
    fn can_grow(&self) -> bool {
        true
    }
}

/// The answer to a submitted operation, now or later.
#[must_use = "the operation goes on, but nobody learns whether it worked"]
pub struct Completion(State);

enum State {
    Ready(Option<DiskDone>),
    Pending(Rc<OpCell>),
    Away(Answer<DiskDone>),
}

/// Where the device leaves the result for whoever awaits it. One thread, so no locks.
struct OpCell(RefCell<Progress>);

enum Progress {
    Running(Option<Waker>),
    Done(DiskDone),
    Taken,
}

/// The device's end of a [`Completion`]. Dropping it unfinished fails the operation with [`Kind::Cancelled`].
#[must_use = "an operation whose finisher is dropped fails"]
pub struct Finisher(Rc<OpCell>);

impl Completion {
    /// The operation was done synchronously.
    pub fn ready(result: Result<()>, buf: Option<Buf>) -> Self {
        Self(State::Ready(Some(DiskDone { result, buf, again_ns: None })))
    }

    /// The device cannot take the operation now: [`DiskDone::again_ns`].
    pub fn handed_back(error: Error, buf: Option<Buf>, again_ns: u64) -> Self {
        Self(State::Ready(Some(DiskDone { result: Err(error), buf, again_ns: Some(again_ns) })))
    }

    /// The operation goes on, perhaps on another thread. Whoever drops the other end fails it with [`Kind::Cancelled`].
    pub fn away(answer: Answer<DiskDone>) -> Self {
        Self(State::Away(answer))
    }

    /// The operation goes on; the device keeps the [`Finisher`] and, until it calls it, the buffer.
    pub fn pending() -> (Self, Finisher) {
        let cell = Rc::new(OpCell(RefCell::new(Progress::Running(None))));
        (Self(State::Pending(Rc::clone(&cell))), Finisher(cell))
    }

    /// The result, if the operation was done synchronously or has finished already.
    pub fn try_take(&mut self) -> Option<DiskDone> {
        match &mut self.0 {
            State::Ready(done) => done.take(),
            State::Pending(cell) => cell.take(),
            State::Away(_) => None,
        }
    }
}

impl OpCell {
    fn take(&self) -> Option<DiskDone> {
        let mut progress = self.0.borrow_mut();
        match std::mem::replace(&mut *progress, Progress::Taken) {
            Progress::Done(done) => Some(done),
            other => {
                *progress = other;
                None
            }
        }
    }
}

impl Finisher {
    /// Ends the operation and wakes whoever awaits it.
    pub fn finish(self, result: Result<()>, buf: Option<Buf>) {
        self.set(DiskDone { result, buf, again_ns: None });
    }

    /// Ends the operation as one that the device has lost: [`DiskDone::again_ns`].
    pub fn hand_back(self, error: Error, buf: Option<Buf>, again_ns: u64) {
        self.set(DiskDone { result: Err(error), buf, again_ns: Some(again_ns) });
    }

    /// Whether somebody still holds the other end.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    fn set(&self, done: DiskDone) {
        let before = self.0.0.replace(Progress::Done(done));
        if let Progress::Running(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        if matches!(&*self.0.0.borrow(), Progress::Running(_)) {
            self.set(DiskDone::gone());
        }
    }
}

impl Future for Completion {
    type Output = DiskDone;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DiskDone> {
        if let Some(done) = self.try_take() {
            return Poll::Ready(done);
        }
        if let State::Away(answer) = &mut self.0 {
            return answer.poll(cx).map(|done| done.unwrap_or_else(DiskDone::gone));
        }
        if let State::Pending(cell) = &self.0
            && let Progress::Running(waker) = &mut *cell.0.borrow_mut()
        {
            match waker {
                Some(known) => known.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            State::Ready(_) => "Completion(ready)",
            State::Pending(_) => "Completion(pending)",
            State::Away(_) => "Completion(away)",
        })
    }
}
