//! Making files and what is in them at first, for new images.
//!
//! ```text
//!   open ── lock ── length 0 ═ the new length ── pieces ── flush ── last piece ── flush ── unlock, close
//!                            ═ a flush, if there was something before
//! ```
//! Invariants: an image that somebody uses is not touched; a creation that was cut off leaves no valid image, because
//! what makes it one (the last piece) is written when everything else is safe, unless it leaves the old one as it was: that
//! is gone for good before anything else is touched; a file that was made for a creation that failed is removed.

use std::path::{Path, PathBuf};

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Disk, DiskOp, Preallocation};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::runtime::LocalRef;
use drystone_sys::{Create, File, FileHints, ImageLock, Locking, OpenOptions, path};

/// What of a device is overwritten when nothing is to be stored on it: enough that no old image is recognised.
const DEVICE_START_BYTES: u64 = 512;

/// Without these first bytes nothing is recognised as the image that it was. A multiple of the sectors of all devices.
const HEADER_BYTES: u64 = 4096;

/// Whoever makes an image: the permissions of the C tools.
const MAKER: Grant = Grant { perm: Perm::WRITE.with(Perm::RESIZE), shared: Perm::ALL.without(Perm::RESIZE) };

/// What a new file holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Length of the file in bytes. A block device must be as long at least.
    pub len_bytes: u64,
    /// How the space is reserved.
    pub preallocation: Preallocation,
    /// What the file system is told.
    pub hints: FileHints,
    /// What to write, and where; all else reads as zeroes. The last is written when the others are safe.
    pub pieces: Vec<(u64, Vec<u8>)>,
}

/// What becomes of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is emptied, unless somebody uses it as an image.
    Replace,
    /// It stays as it is, and so does a link; [`Kind::AlreadyExists`].
    Keep,
}

/// Makes the file at `path`. A block device keeps its length; if there are no pieces, it keeps its contents too, except
/// for the first sector.
///
/// # Errors
/// Those of the operating system; [`Kind::InUse`] if another process uses the image; [`Kind::NoSpace`] if a device is too
/// small. A file that was there is empty or incomplete after an error past the lock.
pub async fn create(
    local: &LocalRef,
    path: impl Into<PathBuf>,
    existing: Existing,
    locking: Locking,
    contents: Contents,
) -> Result<()> {
    let path = path.into();
    let (file, is_new) = open(local, &path, existing).await?;
    let new = NewFile { local, lock: ImageLock::new(&file, locking), file };
    let mut result = new.fill(contents, !is_new).await.map_err(|error| error.at_path(&path));
    if result.is_ok() && is_new {
        result = path::sync_folder_of(&**local, &path).await;
    }
    if let Err(error) = &result
        && error.kind() != Kind::InUse
        && is_new
    {
        // While it is locked still, so that nobody has begun to use it. An error here would hide the first one.
        let _ = path::remove_file(&**local, &path).await;
    }
    new.lock.give_up();
    new.file.close(&**local).await;
    result
}

/// The file, and whether it was made now. A link that leads nowhere makes the file that it names, if it may be replaced.
async fn open(local: &LocalRef, path: &Path, existing: Existing) -> Result<(File, bool)> {
    let how = |create| OpenOptions { writable: true, direct: false, create };
    match File::open(&**local, path, how(Create::New)).await {
        Err(error) if error.kind() == Kind::AlreadyExists && existing == Existing::Replace => {
            Ok((File::open(&**local, path, how(Create::IfMissing)).await?, false))
        }
        opened => Ok((opened?, true)),
    }
}

struct NewFile<'l> {
    local: &'l LocalRef,
    lock: ImageLock,
    file: File,
}

impl NewFile<'_> {
    async fn fill(&self, contents: Contents, has_old: bool) -> Result<()> {
        self.lock.prepare(&**self.local, MAKER).await?.commit();
        if self.file.can_grow() {
            // A file that has bytes is as it was made.
            let empty = DiskOp::Truncate { len: 0, preallocation: Preallocation::Off };
            self.file.submit(self.local, empty).await.result?;
            self.file.hint(&**self.local, contents.hints).await?;
        }
        let len = if self.file.can_grow() { 0 } else { self.file.len_bytes(&**self.local).await? };
        store(self.local, &self.file, contents, Before { has_old, len }).await
    }
}

/// What was there before new contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Something may have been there.
    pub has_old: bool,
    /// Length in bytes of a device that has a fixed one.
    pub len: u64,
}

/// Stores `contents` on `disk`, a file or a device, instead of what was there.
///
/// # Errors
/// [`Kind::NoSpace`] if a device is too small; those of the disk.
pub async fn store(local: &LocalRef, disk: &dyn Disk, contents: Contents, before: Before) -> Result<()> {
    let Contents { len_bytes, preallocation, mut pieces, .. } = contents;
    let run = async |op| disk.submit(local, op).await.result;
    if disk.can_grow() {
        run(DiskOp::Truncate { len: 0, preallocation: Preallocation::Off }).await?;
        if before.has_old {
            run(DiskOp::Flush).await?;
        }
        run(DiskOp::Truncate { len: len_bytes, preallocation }).await?;
    } else {
        clear_device(local, disk, (before.len, len_bytes), pieces.is_empty()).await?;
    }
    let last = pieces.pop();
    for (at, bytes) in pieces {
        run(DiskOp::Write { at, buf: Buf::copy_of(&bytes), fua: false }).await?;
    }
    run(DiskOp::Flush).await?;
    if let Some((at, bytes)) = last {
        run(DiskOp::Write { at, buf: Buf::copy_of(&bytes), fua: false }).await?;
        run(DiskOp::Flush).await?;
    }
    Ok(())
}

/// Zeroes what a new image will use of a device; its start first, so that no old image is half there.
async fn clear_device(
    local: &LocalRef,
    disk: &dyn Disk,
    (len_device, len_bytes): (u64, u64),
    keeps_contents: bool,
) -> Result<()> {
    if len_bytes > len_device {
        let text = format!("the device has {len_device} bytes, and the image needs {len_bytes}");
        return Err(Error::new(Kind::NoSpace, text));
    }
    let zero = async |len: u64| {
        let range = GuestRange::new(GuestOffset::ZERO, len);
        let op = DiskOp::WriteZeroes { range, may_unmap: true, fast_only: false };
        if len == 0 { Ok(()) } else { disk.submit(local, op).await.result }
    };
    if keeps_contents {
        return zero(DEVICE_START_BYTES.min(len_device)).await;
    }
    zero(HEADER_BYTES.min(len_bytes)).await?;
    disk.submit(local, DiskOp::Flush).await.result?;
    zero(len_bytes).await
}
