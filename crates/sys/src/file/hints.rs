//! What a file system is told about a new file, as far as it wants to hear.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::inner::FileInner;

/// linux/fs.h: `FS_IOC_FSGETXATTR`, `_IOR('X', 31, struct fsxattr)`.
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f;
/// linux/fs.h: `FS_IOC_FSSETXATTR`, `_IOW('X', 32, struct fsxattr)`.
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;
/// linux/fs.h: `FS_XFLAG_EXTSIZE`.
const HAS_EXTENT_BYTES: u32 = 0x0000_0800;

/// Wishes about a file that has no bytes yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHints {
    /// Its bytes are overwritten in place (`FS_NOCOW_FL`), on file systems that write elsewhere by default.
    pub no_copy_on_write: bool,
    /// Space is reserved in pieces of so many bytes (`fsx_extsize`).
    pub extent_bytes: Option<NonZeroU32>,
}

impl Default for FileHints {
    /// Pieces of 1 MiB, which keeps images that grow in few pieces.
    fn default() -> Self {
        Self { no_copy_on_write: false, extent_bytes: NonZeroU32::new(1 << 20) }
    }
}

/// linux/fs.h: `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_bytes: u32,
    extents: u32,
    project: u32,
    copy_extent_bytes: u32,
    padding: [u8; 8],
}

/// Tells the file system. What it refuses is left out: these are wishes.
pub(super) fn tell(file: &FileInner, hints: FileHints) {
    if hints.no_copy_on_write
        && let Ok(flags) = ioctl_getflags(file.as_fd())
    {
        let _ = ioctl_setflags(file.as_fd(), flags | IFlags::NOCOW);
    }
    if let Some(extent_bytes) = hints.extent_bytes {
        let mut attributes = Attributes::default();
        if call(file, GET_ATTRIBUTES, &mut attributes) {
            attributes.flags |= HAS_EXTENT_BYTES;
            attributes.extent_bytes = extent_bytes.get();
            let _ = call(file, SET_ATTRIBUTES, &mut attributes);
        }
    }
}

fn call(file: &FileInner, request: libc::Ioctl, attributes: &mut Attributes) -> bool {
    let attributes: *mut Attributes = attributes;
    // SAFETY: both requests read or write one `struct fsxattr` at the address given, which lives until the call returns and
    // has its size and layout.
    unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request, attributes) == 0 }
}
