//! Who makes requests: on a device or through the graph, by hand or at random, each answer checked against a model.
//!
//! ```text
//!  load (seeded) --> Watched --> Target: DiskClient (a device) | BackendClient (a lane and a backend)
//!                       |
//!                       +--> ByteModel, told at the begin and the end of each request
//! ```
//! Several clients share one model ([`SharedModel`]) and run as tasks of different threads. A request whose future is
//! dropped stays in flight for the model, as it does for the disk.

mod backend;
mod load;
mod watched;

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::{GuestRange, Result};
use drystone_core::disk::Preallocation;

pub use backend::BackendClient;
pub use load::{Load, Mix};
pub use watched::Watched;

use crate::disk::DiskClient;
use crate::model::ByteModel;

/// A model that several clients of one disk share.
pub type SharedModel = Rc<RefCell<ByteModel>>;

/// Something that takes requests, one at a time.
#[expect(async_fn_in_trait, reason = "clients stay on their thread")]
pub trait Target {
    /// Reads `range`.
    async fn read(&mut self, range: GuestRange) -> Result<Vec<u8>>;

    /// Writes `bytes` at `at`; they are durable then if `fua`.
    async fn write(&mut self, at: u64, bytes: &[u8], fua: bool) -> Result<()>;

    /// Zeroes `range`.
    async fn write_zeroes(&mut self, range: GuestRange, may_unmap: bool) -> Result<()>;

    /// Gives the contents of `range` up.
    async fn discard(&mut self, range: GuestRange) -> Result<()>;

    /// Makes durable what was done before.
    async fn flush(&mut self) -> Result<()>;

    /// Sets the length.
    async fn resize(&mut self, len: u64) -> Result<()>;
}

impl Target for DiskClient {
    async fn read(&mut self, range: GuestRange) -> Result<Vec<u8>> {
        Self::read(self, range.start().get(), range.len()).await
    }

    async fn write(&mut self, at: u64, bytes: &[u8], fua: bool) -> Result<()> {
        if fua { self.write_fua(at, bytes).await } else { Self::write(self, at, bytes).await }
    }

    async fn write_zeroes(&mut self, range: GuestRange, may_unmap: bool) -> Result<()> {
        Self::write_zeroes(self, range, may_unmap).await
    }

    async fn discard(&mut self, range: GuestRange) -> Result<()> {
        Self::discard(self, range).await
    }

    async fn flush(&mut self) -> Result<()> {
        Self::flush(self).await
    }

    async fn resize(&mut self, len: u64) -> Result<()> {
        self.truncate(len, Preallocation::Off).await
    }
}
