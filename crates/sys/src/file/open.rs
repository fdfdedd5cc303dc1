//! Opening files and finding out what they are. Everything here may block and runs on a thread that may.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use drystone_base::{Error, Kind, Result};
use drystone_buf::{ALIGN, Buf};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::fs::{fcntl_getfl, fcntl_setfl, fstat, fstatfs, statx};
use rustix::io::Errno;

use super::inner::Flag;

/// statfs(2): `TMPFS_MAGIC`, `RAMFS_MAGIC`.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// File systems whose locks never leave this machine's kernel, so that taking and asking about them does not wait. statfs(2)
/// and their own documentation: ext2 to ext4, XFS, Btrfs, F2FS, bcachefs, ZFS, overlayfs.
const LOCAL_FILE_SYSTEMS: [u64; 7] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x794c_7630];
/// Alignments for direct I/O that a kernel might want, smallest first.
const ALIGN_CANDIDATES: [usize; 4] = [512, 1024, 2048, 4096];

/// Whether a file may or must be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Create {
    /// It must exist.
    #[default]
    No,
    /// It is made if it does not exist. An existing one is not emptied: lock it first, then set its length.
    IfMissing,
    /// It must not exist.
    New,
}

/// How to open a file. The default: an existing file, for reading, through the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// For writing, too.
    pub writable: bool,
    /// Past the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Whether to make it.
    pub create: Create,
}

/// Which file it is, whatever its name: device and inode of the file, and the device that a device node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    /// The device that holds the inode.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// What a device node stands for; 0 for regular files.
    pub rdev: u64,
}

/// What was learned about an open file.
pub(crate) struct Facts {
    pub(crate) id: FileId,
    pub(crate) is_block: bool,
    pub(crate) is_memory: bool,
    /// Locking it does not wait for anybody else's machine.
    pub(crate) is_local: bool,
    pub(crate) access: Access,
}

/// What belongs to the way in which it is open.
pub(crate) struct Access {
    pub(crate) writable: bool,
    pub(crate) direct: bool,
    pub(crate) align_request: usize,
    pub(crate) align_memory: usize,
}

impl Facts {
    pub(crate) fn fixed_flags(&self) -> u32 {
        let is = [(self.is_block, Flag::Block), (self.is_memory, Flag::Memory), (self.is_local, Flag::Local)];
        is.iter().filter(|(is, _)| *is).map(|(_, flag)| *flag as u32).sum()
    }
}

impl Access {
    pub(crate) fn flags(&self) -> u32 {
        let is = [(self.writable, Flag::Writable), (self.direct, Flag::Direct)];
        is.iter().filter(|(is, _)| *is).map(|(_, flag)| *flag as u32).sum()
    }
}

impl OpenOptions {
    fn flags(self) -> OFlags {
        let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY;
        flags |= if self.writable { OFlags::RDWR } else { OFlags::RDONLY };
        flags.set(OFlags::DIRECT, self.direct);
        match self.create {
            Create::No => flags,
            Create::IfMissing => flags | OFlags::CREATE,
            Create::New => flags | OFlags::CREATE | OFlags::EXCL,
        }
    }

    fn verb(self) -> &'static str {
        match (self.create, self.writable) {
            (Create::New, _) => "create",
            (_, true) => "open for writing",
            (_, false) => "open",
        }
    }
}

/// A descriptor without a file to read or write, for putting it in the place of one that is closed. It is there
/// before the first file is open, so that closing does not depend on a free descriptor.
pub(crate) fn nowhere() -> Option<&'static OwnedFd> {
    static NOWHERE: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let open = || rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
    NOWHERE.get_or_init(open).as_ref()
}

pub(crate) fn open(path: &Path, options: OpenOptions) -> Result<(OwnedFd, Facts)> {
    look_first(path).and_then(|()| open_name(path, options)).map_err(|error| error.at_path(path))
}

/// Opening alone makes some devices do something: a tape winds, a watchdog starts. What is there is looked at first,
/// and again when it is open, because it can change in between.
fn look_first(path: &Path) -> Result<()> {
    match rustix::fs::stat(path) {
        Ok(stat) => demand_bytes(FileType::from_raw_mode(stat.st_mode)),
        // Opening says what is wrong.
        Err(_) => Ok(()),
    }
}

fn demand_bytes(file_type: FileType) -> Result<()> {
    match file_type {
        FileType::RegularFile | FileType::BlockDevice => Ok(()),
        _ => Err(Error::new(Kind::InvalidInput, "it is neither a regular file nor a block device")),
    }
}

fn open_name(path: &Path, options: OpenOptions) -> Result<(OwnedFd, Facts)> {
    let mode = Mode::from_raw_mode(0o644);
    // A pipe without a writer would block here for ever, hence NONBLOCK; it is taken away again because a ring gives up
    // on files that have it where it would wait for others.
    let opened = loop {
        match rustix::fs::open(path, options.flags() | OFlags::NONBLOCK, mode) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let fd = opened.map_err(|errno| refused(errno, options))?;
    let _ = nowhere();
    let facts = examine(fd.as_fd(), options)?;
    fcntl_getfl(&fd)
        .and_then(|flags| fcntl_setfl(&fd, flags & !OFlags::NONBLOCK))
        .map_err(|errno| Error::os(errno.raw_os_error(), "set the mode of the descriptor"))?;
    Ok((fd, facts))
}

fn refused(errno: Errno, options: OpenOptions) -> Error {
    let error = Error::os(errno.raw_os_error(), options.verb());
    if errno == Errno::INVAL && options.direct {
        return Error::new(Kind::Unsupported, "the file system does not support direct I/O (O_DIRECT)")
            .because(error);
    }
    error
}

/// Looks at an open descriptor.
pub(crate) fn examine(fd: BorrowedFd<'_>, options: OpenOptions) -> Result<Facts> {
    let look = |errno: Errno| Error::os(errno.raw_os_error(), "look at the file");
    let stat = fstat(fd).map_err(look)?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let is_block = file_type == FileType::BlockDevice;
    demand_bytes(file_type)?;
    let magic = u64::try_from(fstatfs(fd).map_err(look)?.f_type).unwrap_or(0);
    // The file system of a device's node says nothing about the device.
    let is_memory = !is_block && MEMORY_FILE_SYSTEMS.contains(&magic);
    let (align_request, align_memory) = if options.direct { direct_align(fd, is_block)? } else { (1, 1) };
    let rdev = if is_block { stat.st_rdev } else { 0 };
    Ok(Facts {
        id: FileId { dev: stat.st_dev, ino: stat.st_ino, rdev },
        is_block,
        is_memory,
        is_local: MEMORY_FILE_SYSTEMS.contains(&magic) || LOCAL_FILE_SYSTEMS.contains(&magic),
        access: Access { writable: options.writable, direct: options.direct, align_request, align_memory },
    })
}

/// What direct I/O wants offsets and lengths, and addresses, to be multiples of: what the kernel says (Linux 6.1), else
/// the device's sector, else what reads turn out to work.
fn direct_align(fd: BorrowedFd<'_>, is_block: bool) -> Result<(usize, usize)> {
    if let Ok(stat) = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0
    {
        let aligns = (stat.stx_dio_offset_align as usize, stat.stx_dio_mem_align as usize);
        return match aligns {
            (0, _) | (_, 0) => {
                Err(Error::new(Kind::Unsupported, "the file does not support direct I/O (O_DIRECT)"))
            }
            aligns => Ok(aligns),
        };
    }
    if is_block && let Ok(sector_bytes) = rustix::fs::ioctl_blksszget(fd) {
        let sector_bytes = sector_bytes as usize;
        return Ok((sector_bytes, sector_bytes));
    }
    let mut probe = Buf::zeroed(ALIGN);
    let works = ALIGN_CANDIDATES.into_iter().find(|align| {
        let bytes = probe.as_mut_slice().get_mut(..*align).unwrap_or_default();
        // A file shorter than that answers nothing about alignment.
        matches!(rustix::io::pread(fd, bytes, 0), Ok(moved) if moved > 0)
    });
    let align = works.unwrap_or(ALIGN);
    Ok((align, align))
}

/// Opens the file behind `fd` again, with other options. `path` is the second choice, for systems without /proc; what it
/// names is then compared with `id`.
pub(crate) fn open_again(
    fd: BorrowedFd<'_>,
    path: &Path,
    id: FileId,
    options: OpenOptions,
) -> Result<(OwnedFd, Facts)> {
    let by_number = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let opened = match open_name(Path::new(&by_number), options) {
        Err(error) if error.kind() == Kind::NotFound => open_name(path, options),
        other => other,
    };
    let (opened, facts) = opened.map_err(|error| error.at_path(path))?;
    if facts.id != id {
        return Err(
            Error::new(Kind::NotFound, "cannot reopen: the name stands for another file now").at_path(path)
        );
    }
    Ok((opened, facts))
}
