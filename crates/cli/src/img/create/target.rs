//! [`Target`]: where a new image goes.
//!
//! | target | before | afterwards |
//! |---|---|---|
//! | a file | made, or emptied | as long as the image needs |
//! | an export of a server | must be long enough | as long as it was |
//!
//! Invariant: what makes the bytes at a node an image is written last, when everything else is safe.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_blockdev::name::{self, Name};
use drystone_buf::Buf;
use drystone_core::backend::ReadWrite;
use drystone_core::disk::Preallocation;
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_protocol::file::create::Contents;
use drystone_sys::{File, FileId, OpenOptions};

use crate::tool::Tool;
use crate::tool::disk::Disk;
use crate::tool::image::ImageArgs;

/// What is overwritten of a disk that becomes a raw image: enough that no old image is recognised.
const START_BYTES: u64 = 512;

/// Where a new image goes.
#[derive(Debug)]
pub(super) enum Target {
    /// A file, or a device.
    File(PathBuf),
    /// The node that a name stands for; it keeps its length.
    Node(OsString),
}

impl Target {
    /// What a name stands for. That there is none without a name is left to whoever opens it.
    ///
    /// # Errors
    /// A name without a meaning; [`Kind::Unsupported`] for options.
    pub(super) fn named(name: &OsStr) -> Result<Self> {
        if name.is_empty() {
            return Ok(Self::File(PathBuf::new()));
        }
        let refused = || Error::new(Kind::Unsupported, "a new image is named by its file, not by options");
        match name::parse(name)? {
            Name::Path { path, .. } => Ok(Self::File(path)),
            Name::Node(mut options) => match options.take_text("driver")?.as_deref() {
                Some("nbd") => Ok(Self::Node(name.to_owned())),
                _ => Err(refused()),
            },
            Name::Options(_) => Err(refused()),
        }
    }

    /// Fails if the file that is to be overwritten is one of `chain`: it would lose what the new image is to show.
    pub(super) async fn refuse_overlap(&self, local: &LocalRef, chain: &BTreeSet<FileId>) -> Result<()> {
        let Self::File(path) = self else { return Ok(()) };
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
}

/// Stores `contents` at the node that `name` stands for.
///
/// # Errors
/// [`Kind::NoSpace`] if it is too short; those of opening and writing.
pub(super) async fn store(tool: &Tool, name: &OsStr, contents: Contents) -> Result<()> {
    if contents.pieces.is_empty() && contents.preallocation != Preallocation::Off {
        let text = "no space can be reserved where the disk is there already";
        return Err(Error::new(Kind::Unsupported, text).in_option("preallocation"));
    }
    let disk = tool.open_writer(&ImageArgs::of(name, Some("raw".to_owned())), false).await?;
    if disk.len_bytes < contents.len_bytes {
        let text = format!("there are {} bytes, and the image needs {}", disk.len_bytes, contents.len_bytes);
        return Err(Error::new(Kind::NoSpace, text));
    }
    fill(&mut tool.lane(), &disk, contents).await?;
    tool.close(disk).await
}

async fn fill(lane: &mut Lane, disk: &Disk<ReadWrite>, contents: Contents) -> Result<()> {
    let Contents { len_bytes, mut pieces, .. } = contents;
    // What is written nowhere below must not be what was there before.
    let zeroed = if pieces.is_empty() { START_BYTES.min(len_bytes) } else { len_bytes };
    if zeroed > 0 {
        let range = GuestRange::new(GuestOffset::ZERO, zeroed);
        let flags = ZeroFlags { may_unmap: true, ..ZeroFlags::default() };
        lane.enter(&disk.backend).await.write_zeroes(range, flags).await?;
    }
    let last = pieces.pop();
    for (at, bytes) in pieces {
        write(lane, disk, at, &bytes).await?;
    }
    lane.enter(&disk.backend).await.flush().await?;
    if let Some((at, bytes)) = last {
        write(lane, disk, at, &bytes).await?;
    }
    lane.enter(&disk.backend).await.flush().await
}

async fn write(lane: &mut Lane, disk: &Disk<ReadWrite>, at: u64, bytes: &[u8]) -> Result<()> {
    let (at, buf) = (GuestOffset::new(at), Buf::copy_of(bytes));
    lane.enter(&disk.backend).await.write(at, buf, WriteFlags::default()).await.0
}
