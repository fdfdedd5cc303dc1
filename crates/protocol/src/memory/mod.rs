//! `memory`: a disk in the memory of this process, gone with it.
//!
//! Sparse: what was never written, or was zeroed or discarded in whole chunks, takes no memory. For tests, scratch
//! overlays and fleecing.

mod store;

use drystone_base::{GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, Place, Status};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef};

use store::Store;

/// What a disk in memory is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryOptions {
    /// `size`: length of the disk in bytes, at most [`drystone_base::LEN_MAX`]. It can be resized.
    pub len_bytes: u64,
}

/// The driver `memory`.
pub struct Memory {
    store: Store,
}

impl Memory {
    /// A disk of zeroes.
    ///
    /// # Errors
    /// [`drystone_base::Kind::InvalidInput`] for a length past [`drystone_base::LEN_MAX`].
    pub fn open(options: MemoryOptions) -> Result<(Self, NodeFacts)> {
        let facts = crate::facts_of(options.len_bytes)?;
        Ok((Self { store: Store::default() }, facts))
    }
}

impl Driver for Memory {
    fn format_name(&self) -> &'static str {
        "memory"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.store)
    }

    fn device_status<'a>(
        &'a self,
        _io: Io<'a>,
        _local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        Box::pin(async move {
            let (is_data, len) = self.store.extent(range);
            Ok(crate::device_status(range.take(len), is_data))
        })
    }

    fn close<'a>(&'a self, _local: &'a LocalRef) -> LocalFuture<'a, ()> {
        Box::pin(async { self.store.truncate(0) })
    }
}

impl Disk for Store {
    fn submit(&self, _local: &LocalRef, op: DiskOp) -> Completion {
        let (result, buf): (Result<()>, Option<Buf>) = match op {
            DiskOp::Read { at, mut buf } => {
                self.read(at, buf.as_mut_slice());
                (Ok(()), Some(buf))
            }
            DiskOp::Write { at, buf, .. } => (self.write(at, buf.as_slice()), Some(buf)),
            DiskOp::Flush => (Ok(()), None),
            DiskOp::Discard(range) | DiskOp::WriteZeroes { range, .. } => {
                self.zero(range);
                (Ok(()), None)
            }
            DiskOp::Truncate { len, .. } => {
                self.truncate(len);
                (Ok(()), None)
            }
        };
        Completion::ready(result, buf)
    }

    fn read_now(&self, _local: &LocalRef, at: u64, bytes: &mut [u8]) -> bool {
        self.read(at, bytes);
        true
    }
}
