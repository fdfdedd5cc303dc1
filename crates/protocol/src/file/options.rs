//! What can be said of a file or host device.

use std::path::PathBuf;

use drystone_base::{Error, Kind, Result};
use drystone_sys::Locking;

/// Which driver opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileKind {
    /// `file` for a regular file, `host_device` for a block device: whatever the path names.
    #[default]
    ByPath,
    /// `file`: a regular file and nothing else.
    File,
    /// `host_device`: a block device and nothing else.
    HostDevice,
}

/// `aio`: how requests reach the kernel. The I/O threads have one engine for all files; the option is checked, kept for
/// whoever asks, and changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aio {
    /// As the I/O threads do it.
    #[default]
    Engine,
    /// `threads`.
    Threads,
    /// `io_uring`.
    IoUring,
    /// `native`: as `io_uring`, but only with [`FileOptions::cache_direct`], as in the C tools.
    Native,
}

/// `discard`: what becomes of discarded ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discard {
    /// `ignore`: they keep their space.
    #[default]
    Ignore,
    /// `unmap`: their space is given back.
    Unmap,
}

/// How to open a file or device. Also what a reopen takes: `path`, `aio` and `locking` cannot change
/// then, and `kind` has to be what the node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileOptions {
    /// `filename`.
    pub path: PathBuf,
    /// `driver`.
    pub kind: FileKind,
    /// `read-only`: how it is opened. Later, the node's mode says.
    pub read_only: bool,
    /// `auto-read-only`: the descriptor can write only while somebody wants to write.
    pub auto_read_only: bool,
    /// `cache.direct`: past the page cache.
    pub cache_direct: bool,
    /// `cache.no-flush`: flushes do nothing. A crash of the host loses what it likes.
    pub cache_no_flush: bool,
    /// `aio`.
    pub aio: Aio,
    /// `locking`: whether other processes are told how the image is used.
    pub locking: Locking,
    /// `discard`.
    pub discard: Discard,
}

impl FileOptions {
    /// Everything as it is by default.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |option, text| Err(Error::new(Kind::InvalidInput, text).in_option(option));
        if self.aio == Aio::Native && !self.cache_direct {
            return refuse("aio", "'native' requires cache.direct=on");
        }
        Ok(())
    }

    /// Whether a node that was opened with these options can be reopened with `new` ones.
    pub(super) fn check_reopen(&self, new: &Self) -> Result<()> {
        new.check()?;
        let fixed = [
            ("filename", self.path == new.path),
            ("aio", self.aio == new.aio),
            ("locking", self.locking == new.locking),
        ];
        match fixed.into_iter().find(|(_, same)| !same) {
            Some((option, _)) => {
                Err(Error::new(Kind::InvalidInput, "it cannot be changed").in_option(option))
            }
            None => Ok(()),
        }
    }
}
