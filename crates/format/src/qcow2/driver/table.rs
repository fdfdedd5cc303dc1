//! L2 tables that may be written: new ones, and copies of those that internal snapshots use, too.

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::cache::SliceId;
use super::passes::Cause;
use super::refs::Run;
use super::{Qcow2, load_table, write_bytes};
use crate::qcow2::entry::{Allocated, encode_l1};

impl Qcow2 {
    /// Makes sure that a slice is of a table that may be written in place.
    pub(super) async fn own_table(&self, io: Io<'_>, slice: SliceId) -> Result<()> {
        if self.map.l1_index(slice) >= self.map.l1_len() {
            return Err(Error::new(Kind::OutOfRange, "the L1 table does not reach that far"));
        }
        if self.map.table(slice)?.is_some_and(|table| table.copied) {
            return Ok(());
        }
        let _table = self.map.lock_table(io, slice).await;
        let old = self.map.table(slice)?;
        if old.is_some_and(|table| table.copied) {
            return Ok(());
        }
        let run = self.reserve(io, 1).await?;
        let result = self.make_table(io, slice, run, old).await;
        if result.is_err() {
            self.give_back(io, run).await;
        }
        result
    }

    /// Writes a new table, empty or a copy of one that others use, too, and links it.
    async fn make_table(&self, io: Io<'_>, slice: SliceId, run: Run, old: Option<Allocated>) -> Result<()> {
        let file = io.file()?;
        let len = self.cluster.buffer_len();
        let bytes = match old {
            None => vec![0; len],
            Some(table) => {
                file.event(Event::L2AllocCowRead).await;
                load_table(file, table.at, len).await?
            }
        };
        let at = self.cluster.host_start(run.first).unwrap_or(HostOffset::ZERO);
        file.event(Event::L2AllocWrite).await;
        write_bytes(file, at, &bytes).await?;
        io.sim_point().await;
        self.owned.add(run)?;
        self.map.set_table(slice, encode_l1(Some(Allocated { at, copied: true })));
        if let Some(table) = old {
            let old = self.clusters_of(table.at, 1);
            self.owned.remove(old);
            self.frees.unlink(old, Cause::Other);
        }
        Ok(())
    }
}
