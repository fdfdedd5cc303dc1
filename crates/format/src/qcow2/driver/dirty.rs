//! Images that were not closed after lazy refcount updates: their counts are made right before the first write.
//!
//! ```text
//!   dirty bit ─► repair, as `check -r all` does it ─► the bit is cleared ─► header and tables are read again ─► the write
//! ```
//! Reading needs no counts, so such an image can be opened by anybody; an image that is only read stays as it is. We write
//! counts always in time, so we leave no image like that behind, also where the image allows it (`lazy_refcounts`).

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::driver::WriteFlags;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::mark::HeaderNow;
use super::open::{load_header_bytes, load_words};
use crate::qcow2::check::repair::{Repair, Target, repair};
use crate::qcow2::feature::IncompatibleBit;

impl Target for Io<'_> {
    async fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> Result<()> {
        self.write(at.in_child(), Buf::copy_of(&bytes), WriteFlags::default()).await.0
    }

    async fn flush(&self) -> Result<()> {
        Io::flush(*self).await
    }
}

impl Qcow2 {
    fn is_dirty(&self) -> bool {
        self.header_now().incompatible().has(IncompatibleBit::Dirty)
    }

    /// Makes the counts of a dirty image right. Nobody has written to it yet.
    pub(super) async fn repair_if_dirty(&self, io: Io<'_>) -> Result<()> {
        if !self.is_dirty() {
            return Ok(());
        }
        let _tables = self.map.lock_all_tables(io).await;
        let _structure = self.lock_structure(io).await;
        if !self.is_dirty() {
            return Ok(());
        }
        let file = io.file()?;
        let failed = || Error::new(Kind::Corrupt, "the image was not closed properly and cannot be repaired");
        let repaired = repair(&file, &self.header_now(), Repair::All, |_| {}).await;
        let repaired = repaired.map_err(|error| failed().because(error))?;
        if repaired.outcome.corruptions + repaired.outcome.check_errors > 0 {
            return Err(failed());
        }
        let (header, bytes) = load_header_bytes(file).await?;
        let l1 = load_words(file, header.l1().at, u64::from(header.l1().entries)).await?;
        let entries = u64::from(header.refcounts().clusters) * header.cluster().entries() as u64;
        let refcounts = load_words(file, header.refcounts().at, entries).await?;
        self.map.reset(&l1);
        self.refs.reset(refcounts);
        self.header.replace(HeaderNow::new(header, &bytes));
        Ok(())
    }
}
