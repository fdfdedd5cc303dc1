//! `null-co` and `null-aio`: a disk that forgets what is written and takes as long as it is told to.
//!
//! For measuring what is above it. The two names mean the same here: there is one way to wait.
//!
//! Reads give zeroes, with or without `read-zeroes`: that option only lets block status promise it. (A buffer that was
//! left as it was would show a client old memory of this process.)

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, Place, Status};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef};

/// What a null disk is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NullOptions {
    /// `size`: length of the disk in bytes, at most [`drystone_base::LEN_MAX`].
    pub len_bytes: u64,
    /// `latency-ns`: how long every request takes; 0 for no time at all.
    pub latency_ns: u64,
    /// `read-zeroes`: block status says that the disk reads as zeroes.
    pub read_zeroes: bool,
}

impl Default for NullOptions {
    fn default() -> Self {
        Self { len_bytes: 1 << 30, latency_ns: 0, read_zeroes: false }
    }
}

/// The driver of both names.
pub struct Null {
    format_name: &'static str,
    read_zeroes: bool,
    disk: NullDisk,
}

struct NullDisk {
    len_bytes: u64,
    latency_ns: u64,
}

impl Null {
    /// A disk of driver `null-co`.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] for a length past [`drystone_base::LEN_MAX`].
    pub fn co(options: NullOptions) -> Result<(Self, NodeFacts)> {
        Self::named("null-co", options)
    }

    /// A disk of driver `null-aio`.
    ///
    /// # Errors
    /// As [`Self::co`].
    pub fn aio(options: NullOptions) -> Result<(Self, NodeFacts)> {
        Self::named("null-aio", options)
    }

    fn named(format_name: &'static str, options: NullOptions) -> Result<(Self, NodeFacts)> {
        let NullOptions { len_bytes, latency_ns, read_zeroes } = options;
        let facts = crate::facts_of(len_bytes)?;
        Ok((Self { format_name, read_zeroes, disk: NullDisk { len_bytes, latency_ns } }, facts))
    }
}

impl Driver for Null {
    fn format_name(&self) -> &'static str {
        self.format_name
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.disk)
    }

    fn device_status<'a>(
        &'a self,
        _io: Io<'a>,
        _local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        Box::pin(async move { Ok(crate::device_status(range, !self.read_zeroes)) })
    }
}

impl Disk for NullDisk {
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion {
        let (result, buf) = self.done(op);
        if self.latency_ns == 0 {
            return Completion::ready(result, buf);
        }
        let (completion, finisher) = Completion::pending();
        let end = local.sleep_until(local.now_ns().saturating_add(self.latency_ns));
        local.spawn(Box::pin(async move {
            end.await;
            finisher.finish(result, buf);
        }));
        completion
    }

    fn can_grow(&self) -> bool {
        false
    }
}

impl NullDisk {
    fn done(&self, op: DiskOp) -> (Result<()>, Option<Buf>) {
        match op {
            DiskOp::Read { mut buf, .. } => {
                buf.fill_zero();
                (Ok(()), Some(buf))
            }
            DiskOp::Write { at, buf, .. } => (self.demand_inside(at, buf.len() as u64), Some(buf)),
            DiskOp::WriteZeroes { range, .. } => (self.demand_inside(range.start().get(), range.len()), None),
            DiskOp::Flush | DiskOp::Discard(_) => (Ok(()), None),
            DiskOp::Truncate { len, .. } if len == self.len_bytes => (Ok(()), None),
            DiskOp::Truncate { .. } => {
                (Err(Error::new(Kind::Unsupported, "a null disk cannot be resized")), None)
            }
        }
    }

    /// A writer that may resize is let past the end by the core.
    fn demand_inside(&self, at: u64, len: u64) -> Result<()> {
        if at.checked_add(len).is_some_and(|end| end <= self.len_bytes) {
            return Ok(());
        }
        Err(Error::new(Kind::NoSpace, "a null disk does not grow"))
    }
}
