//! What a file system is told about a new file, as far as it wants to hear.

use std::num::NonZeroU32;
use std::os::fd::AsFd;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::inner::FileInner;

/// linux/fs.h: `FS_IOC_FSGETXATTR`.
const GET_ATTRIBUTES: Opcode = opcode::read::<Attributes>(b'X', 31);
/// linux/fs.h: `FS_IOC_FSSETXATTR`.
const SET_ATTRIBUTES: Opcode = opcode::write::<Attributes>(b'X', 32);
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
        if call::<GET_ATTRIBUTES>(file, &mut attributes) {
            attributes.flags |= HAS_EXTENT_BYTES;
            attributes.extent_bytes = extent_bytes.get();
            let _ = call::<SET_ATTRIBUTES>(file, &mut attributes);
        }
    }
}

fn call<const REQUEST: Opcode>(file: &FileInner, attributes: &mut Attributes) -> bool {
    // SAFETY: both requests read or write one `struct fsxattr`, whose size and layout `Attributes` has.
    unsafe { ioctl(file.as_fd(), Updater::<REQUEST, Attributes>::new(attributes)).is_ok() }
}
