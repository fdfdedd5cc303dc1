//! An image that was not closed after lazy refcount updates: its counts are repaired before the first write.
//!
//! Readers go on meanwhile: a repair moves no data, and what they use of the mapping stays as it is. Nobody looks at an L2
//! table until all is read again, so that no old "copied" flag survives in memory.
//!
//! Invariant: nothing was written to the image since it was opened.

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::request::io::Io;

use super::mark::HeaderNow;
use super::open::load_image;
use super::{Qcow2, write_bytes};
use crate::qcow2::check::Source;
use crate::qcow2::check::repair::{Repair, Target, repair};
use crate::qcow2::feature::IncompatibleBit;

/// The image's file, to be repaired.
struct FileTarget<'t>(Io<'t>);

impl Source for FileTarget<'_> {
    fn len_bytes(&self) -> u64 {
        self.0.len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.read_new(at.in_child(), len_bytes).await?.as_slice().to_vec())
    }
}

impl Target for FileTarget<'_> {
    async fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> Result<()> {
        write_bytes(self.0, at, &bytes).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}

impl Qcow2 {
    /// Repairs the image if it says that its counts may be wrong.
    pub(super) async fn repair_if_dirty(&self, io: Io<'_>) -> Result<()> {
        let is_dirty = || self.header_now().incompatible().has(IncompatibleBit::Dirty);
        if self.condition.is_marked() || !is_dirty() {
            return Ok(());
        }
        let _tables = self.map.lock_all_tables(io).await;
        let _structure = self.lock_structure(io).await;
        if self.condition.is_marked() || !is_dirty() {
            return Ok(());
        }
        let cannot =
            || Error::new(Kind::InvalidImage, "the image was not closed properly and cannot be repaired");
        let repaired = repair(&FileTarget(io.file()?), &self.header_now(), Repair::All, |_| {}).await;
        let repaired = repaired.map_err(|error| cannot().because(error))?;
        if repaired.outcome.check_errors > 0 {
            return Err(cannot());
        }
        let loaded = load_image(io.file()?, self.options()).await?;
        self.map.reset(&loaded.l1);
        self.refs.reset(loaded.refcounts);
        self.decompressed.forget();
        self.header.replace(HeaderNow::new(loaded.header, &loaded.bytes));
        Ok(())
    }
}
