//! Putting a new image on disk.
//!
//! Order on disk: nothing of the old file is left, then the tables, then a flush, then the header, then a flush. A crash
//! in between leaves a file that is no image yet.

use std::collections::BTreeSet;
use std::path::Path;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, LEN_MAX, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Disk, DiskOp, Preallocation};
use drystone_core::runtime::LocalRef;
use drystone_format::qcow2::create::{CreateError, Layout};
use drystone_format::raw;
use drystone_sys::{Create, File, FileId, OpenOptions};

use super::table::Values;

/// Fails if the file that is to be overwritten is one of `chain`: it would lose what the new image is to show.
pub(super) async fn refuse_overlap(local: &LocalRef, path: &Path, chain: &BTreeSet<FileId>) -> Result<()> {
    if chain.is_empty() {
        return Ok(());
    }
    // What cannot be opened is not there, or fails with its reason when it is to be written.
    match File::open(&**local, path, OpenOptions::default()).await {
        Ok(file) if chain.contains(&file.id()) => {
            Err(Error::new(Kind::InvalidInput, "the file is in the backing chain of the new image"))
        }
        _ => Ok(()),
    }
}

/// Makes a raw image.
pub(super) async fn raw(local: &LocalRef, path: &Path, values: &Values) -> Result<()> {
    let file = Target::open(local, path).await?;
    let preallocation = match values.preallocation()? {
        Preallocation::Metadata => {
            let text = "a raw image has no metadata to allocate";
            return Err(Error::new(Kind::InvalidInput, text).in_option("preallocation"));
        }
        preallocation => preallocation,
    };
    let len = raw::len_file_of_new(values.size().unwrap_or(0))?;
    file.set_len(len, preallocation).await
}

/// Makes a qcow2 image.
pub(super) async fn qcow2(local: &LocalRef, path: &Path, values: &Values) -> Result<()> {
    let file = Target::open(local, path).await?;
    if values.preallocation()? != Preallocation::Off {
        let text = "qcow2 images cannot be preallocated yet";
        return Err(Error::new(Kind::Unsupported, text).in_option("preallocation"));
    }
    let invalid =
        |cause: CreateError| Error::new(Kind::InvalidInput, "cannot make such an image").because(cause);
    let layout = values.to_qcow2()?.layout().map_err(invalid)?;
    file.store(layout).await
}

/// A file that is being made into an image.
struct Target {
    local: LocalRef,
    file: File,
}

impl Target {
    async fn open(local: &LocalRef, path: &Path) -> Result<Self> {
        let options = OpenOptions { writable: true, create: Create::IfMissing, ..OpenOptions::default() };
        Ok(Self { local: local.clone(), file: File::open(&**local, path, options).await? })
    }

    async fn run(&self, op: DiskOp) -> Result<()> {
        self.file.submit(&self.local, op).await.result
    }

    /// Makes it `len` zero bytes long.
    async fn set_len(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        if self.file.is_block_device() {
            return self.clear_device(len).await;
        }
        self.run(DiskOp::Truncate { len: 0, preallocation: Preallocation::Off }).await?;
        self.run(DiskOp::Truncate { len, preallocation }).await
    }

    /// A device keeps its length; its first bytes must read as zeroes.
    async fn clear_device(&self, len: u64) -> Result<()> {
        let len_device = self.file.len_bytes(&*self.local).await?;
        if len > len_device {
            let text = format!("the device holds {len_device} bytes, the image needs {len}");
            return Err(Error::new(Kind::NoSpace, text));
        }
        let range = GuestRange::new(GuestOffset::ZERO, len.min(LEN_MAX));
        self.run(DiskOp::WriteZeroes { range, may_unmap: true, fast_only: false }).await
    }

    async fn store(&self, layout: Layout) -> Result<()> {
        self.set_len(layout.len_file, Preallocation::Off).await?;
        let last = layout.pieces.len().saturating_sub(1);
        for (index, (at, bytes)) in layout.pieces.into_iter().enumerate() {
            if index == last {
                self.run(DiskOp::Flush).await?;
            }
            self.run(DiskOp::Write { at: at.get(), buf: Buf::copy_of(&bytes), fua: false }).await?;
        }
        self.run(DiskOp::Flush).await
    }
}
