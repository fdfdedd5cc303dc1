//! [`CopySpec`]: what is copied and how; [`Watch`]: who is told.

use drystone_base::Error;
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::driver::WriteFlags;

/// A disk that is copied.
pub struct CopySource {
    /// Whence.
    pub backend: Backend<ReadOnly>,
    /// The first byte of it that is copied.
    pub start: u64,
    /// How many bytes from there on.
    pub len_bytes: u64,
}

/// Which zeroes are left out, or written as zeroes instead of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroes {
    /// None: everything is written byte for byte, holes as well.
    Written,
    /// What is known to be zero without reading it.
    Known,
    /// That, and zero bytes where at least so many come together.
    Found {
        /// How many.
        bytes_min: u64,
    },
}

/// What counts as the sources' own, and where nothing else is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Up to which byte.
    pub until: u64,
    /// How many layers below the top ones count.
    pub layers_below: u32,
    /// The sources were opened without what lies below those layers: where the lowest one has nothing, that is not zeroes.
    pub is_cut: bool,
}

impl Own {
    /// Everything is copied.
    pub const ALL: Self = Self { until: 0, layers_below: 0, is_cut: false };

    /// The top layers, up to the byte `until`.
    #[must_use]
    pub const fn top(until: u64) -> Self {
        Self { until, layers_below: 0, is_cut: false }
    }
}

/// In which order data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// That of the disk, whoever has read it, so that the target comes out the same each time.
    Disk,
    /// One piece after the other as well, but the one that is ready first.
    Ready,
    /// Several at the same time, as they come.
    Free,
}

/// What is copied and how.
pub struct CopySpec {
    /// The disks, which lie one after the other on the target.
    pub sources: Vec<CopySource>,
    /// Where to. At least as long as all sources together.
    pub target: Backend<ReadWrite>,
    /// The target's own unit (a cluster), a power of two from 512 bytes on: what is written and what is left out are whole
    /// units, as far as the disk is.
    pub unit_bytes: u64,
    /// Zero bytes are looked for in blocks of so many bytes, of which a unit or more make one.
    pub block_bytes: u64,
    /// What is done about zeroes.
    pub zeroes: Zeroes,
    /// From here on, the target reads as zeroes where nothing is written. `u64::MAX` if nothing is known of it.
    pub zero_from: u64,
    /// Where only what the sources have of their own is copied, because the target shows the rest already.
    pub own: Own,
    /// How data is written.
    pub flags: WriteFlags,
    /// Data that both sides have on devices as it is are copied by these, where they know how, and not looked at for zeroes.
    pub offloads: bool,
    /// In which order.
    pub order: Order,
    /// Bytes of data per second; 0 for no limit.
    pub bytes_per_second: u64,
    /// What cannot be read is taken for zeroes.
    pub salvages: bool,
}

/// Who is told how a copy goes. On the threads of the workers.
pub trait Watch: Send + Sync {
    /// `done` of `all` bytes are done.
    fn advanced(&self, done: u64, all: u64);

    /// The sector at `offset` of the target could not be read, and is taken for zeroes.
    fn unreadable(&self, offset: u64, error: &Error);
}
