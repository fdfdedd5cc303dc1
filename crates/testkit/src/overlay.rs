//! [`SimOverlay`]: copy on write without a format, for tests of what happens around one.
//!
//! ```text
//!   overlay --backing--> what shows through
//!      \-------file----> its own blocks, at the same offsets
//! ```
//! Which blocks are its own is kept in memory only, so nothing of it survives a power cut. A block is copied as a whole by
//! the first write to it, under a range lock.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::control::NewNode;
use drystone_core::disk::Preallocation;
use drystone_core::driver::{
    Access, BackingFile, BufResult, Driver, Extent, NodeFacts, Place, Tail, WriteFlags,
};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::role::Role;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

use crate::index;

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 4096;

/// A driver that stores what is written in its file and reads the rest from its backing child.
#[derive(Default)]
pub struct SimOverlay {
    own: Mutex<BTreeSet<u64>>,
    backing: Mutex<Option<BackingFile>>,
}

impl SimOverlay {
    /// An empty overlay called `name` of `len_bytes` bytes: what is written is stored in `file`, the rest is that of
    /// `backing`, or zeroes.
    #[must_use]
    pub fn node(name: &str, len_bytes: u64, file: NodeId, backing: Option<NodeId>) -> NewNode {
        let mut children = vec![(ChildKey::File, Role::IMAGE, file)];
        children.extend(backing.map(|backing| (ChildKey::Backing, Role::COW, backing)));
        NewNode {
            name: Some(name.to_owned()),
            driver: Box::new(Self::default()),
            facts: NodeFacts { len: len_bytes, request_alignment: 1, read_only: false },
            children,
            owned: true,
            force_share: false,
        }
    }

    /// The backing file that it was told to name last.
    pub fn backing_file(&self) -> Option<BackingFile> {
        self.backing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_own(&self, at: GuestOffset) -> bool {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).contains(&(at.get() / BLOCK_BYTES))
    }

    fn take(&self, at: GuestOffset) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(at.get() / BLOCK_BYTES);
    }

    /// What the block at `block` shows, with `buf` at `at` of it.
    async fn merged(io: Io<'_>, block: GuestOffset, at: GuestOffset, buf: &Buf) -> Result<Buf> {
        let mut whole = Buf::zeroed(index(BLOCK_BYTES));
        if let Some(backing) = io.child(ChildKey::Backing).filter(|backing| block.get() < backing.len()) {
            let len = BLOCK_BYTES.min(backing.len() - block.get());
            let rest = whole.split_off(index(len));
            let (result, filled) = backing.read(block, whole).await;
            result?;
            whole = filled;
            assert!(whole.rejoin(rest).is_ok(), "two parts of one block");
        }
        let from = index(at.get() - block.get());
        let part = whole.as_mut_slice().get_mut(from..from + buf.len());
        part.unwrap_or_default().copy_from_slice(buf.as_slice());
        Ok(whole)
    }
}

impl Driver for SimOverlay {
    fn format_name(&self) -> &'static str {
        "sim-overlay"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        let at = range.start();
        let place = match (self.is_own(at), access) {
            (true, _) => Place::Child {
                child: ChildKey::File,
                at: HostOffset::new(at.get()),
                tail: Tail::Zeroes,
                transparent: false,
            },
            (false, Access::Write) => Place::Ask,
            (false, Access::Read | Access::Status) => Place::Backing,
        };
        Ok(Extent { len: BLOCK_BYTES - at.get() % BLOCK_BYTES, place })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let block = at.align_down(BLOCK_BYTES);
            let _range = io.lock_range(GuestRange::new(block, BLOCK_BYTES)).await;
            let file = match io.file() {
                Ok(file) => file,
                Err(error) => return (Err(error), buf),
            };
            // Another write to the block may have copied it while this one waited.
            if self.is_own(at) {
                return file.write(at, buf, flags).await;
            }
            let whole = match Self::merged(io, block, at, &buf).await {
                Ok(whole) => whole,
                Err(error) => return (Err(error), buf),
            };
            let (result, _) = file.write(block, whole, flags).await;
            if result.is_ok() {
                self.take(block);
            }
            (result, buf)
        })
    }

    fn change_backing_file<'a>(
        &'a self,
        io: Io<'a>,
        backing: Option<&'a BackingFile>,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            io.file()?.flush().await?;
            *self.backing.lock().unwrap_or_else(PoisonError::into_inner) = backing.cloned();
            Ok(())
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }

    /// To more bytes only, which read as zeroes as long as the backing child is not longer than the overlay.
    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            if len < io.len() {
                return Err(Error::new(Kind::Unsupported, "an overlay without a format does not shrink"));
            }
            io.file()?.resize(len, preallocation).await
        })
    }
}
