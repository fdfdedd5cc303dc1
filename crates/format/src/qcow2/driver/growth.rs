//! A larger refcount table.
//!
//! ```text
//!   end of what the old table counts
//!   | b b b | table table table table |          the blocks count themselves, the table, and what follows
//! ```
//! Everything is written to clusters that nobody knows of, then the header points there. Until then, nothing has changed.

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::passes::Cause;
use super::refs::{BlockImage, Refs, Run, put};
use super::{Qcow2, write_bytes};
use crate::qcow2::geometry::{ENTRY_BYTES, HOST_END, HostCluster, REFCOUNT_TABLE_BYTES_MAX};
use crate::qcow2::header::{HeaderChange, RefcountTable};

/// A larger refcount table, with the blocks that count it.
struct Growth {
    table: Vec<u64>,
    at: HostOffset,
    clusters: u32,
    blocks: Vec<BlockImage>,
    /// All of the above.
    run: Run,
}

impl Qcow2 {
    /// Makes the refcount table larger, unless somebody else has since the caller looked.
    pub(super) async fn grow_refcount_table(&self, io: Io<'_>) -> Result<()> {
        let len_before = self.refs.table_len();
        let _structure = self.lock_structure(io).await;
        if self.refs.table_len() > len_before {
            return Ok(());
        }
        io.file()?.event(Event::ReftableGrow).await;
        self.store_locked(io).await?;
        let growth = self.refs.plan_growth()?;
        if self.owned.holds(growth.run) {
            return Err(Error::new(Kind::Corrupt, "clusters that hold tables are not counted"));
        }
        let file = io.file()?;
        file.event(Event::RefblockAllocWriteBlocks).await;
        for block in &growth.blocks {
            write_bytes(file, block.at, &block.bytes).await?;
        }
        let bytes: Vec<u8> = growth.table.iter().flat_map(|raw| raw.to_be_bytes()).collect();
        file.event(Event::RefblockAllocWriteTable).await;
        write_bytes(file, growth.at, &bytes).await?;
        file.event(Event::RefblockAllocSwitchTable).await;
        self.switch_refcount_table(io, growth).await
    }

    async fn switch_refcount_table(&self, io: Io<'_>, growth: Growth) -> Result<()> {
        let old = self.header_now().refcounts();
        let table = RefcountTable { at: growth.at, clusters: growth.clusters };
        self.change_header(io, &HeaderChange { refcounts: Some(table), ..HeaderChange::default() }).await?;
        let old = self.clusters_of(old.at, u64::from(old.clusters));
        self.owned.remove(old);
        for block in &growth.blocks {
            self.owned.add(self.clusters_of(block.at, 1))?;
        }
        self.owned.add(self.clusters_of(growth.at, u64::from(growth.clusters)))?;
        self.refs.install(growth);
        // Nobody reads the old table: its clusters need no grace period, but the order on disk is the same.
        self.frees.unlink(old, Cause::Other);
        Ok(())
    }
}

impl Refs {
    /// A table half as large again, placed behind everything that the present one can count, with blocks that count it.
    fn plan_growth(&self) -> Result<Growth> {
        let state = self.state();
        let per_cluster = self.cluster.entries();
        let old_len = state.table.len();
        let mut len = (old_len + old_len / 2).max(old_len + 1).next_multiple_of(per_cluster);
        let blocks = loop {
            let blocks = self.blocks_for(len.div_euclid(per_cluster) as u64);
            let needed = old_len + usize::try_from(blocks).unwrap_or(usize::MAX);
            if needed <= len {
                break blocks;
            }
            len = needed.next_multiple_of(per_cluster);
        };
        if len as u64 * ENTRY_BYTES > REFCOUNT_TABLE_BYTES_MAX {
            return Err(Error::new(
                Kind::NoSpace,
                "the refcount table has reached the largest size of its format",
            ));
        }
        let clusters = u32::try_from(len.div_euclid(per_cluster)).unwrap_or(u32::MAX);
        let first = old_len as u64 * self.per_block();
        let run = Run { first: HostCluster::new(first), count: blocks + u64::from(clusters) };
        let place = |number: u64| {
            let at = self.cluster.host_start(HostCluster::new(number)).filter(|at| at.get() < HOST_END);
            at.ok_or_else(|| {
                Error::new(Kind::NoSpace, "the image has reached the largest size of its format")
            })
        };
        let mut table = state.table.clone();
        // Entries whose blocks are not on disk yet are written later, to the new place.
        for index in &state.dirty_table {
            table.get_mut(*index).into_iter().for_each(|entry| *entry = 0);
        }
        let mut images = Vec::new();
        for (number, bytes) in (0..blocks).zip(self.counting_blocks(run.count)) {
            let at = place(first + number)?;
            images.push(BlockImage { index: table.len(), at, bytes });
            table.push(at.get());
        }
        table.resize(len, 0);
        Ok(Growth { table, at: place(first + blocks)?, clusters, blocks: images, run })
    }

    /// Blocks that count the first `count` of their clusters once.
    fn counting_blocks(&self, count: u64) -> impl Iterator<Item = Vec<u8>> + '_ {
        (0_u64..).map(move |number| {
            let mut bytes = vec![0; self.cluster.buffer_len()];
            let counted = count.saturating_sub(number * self.per_block()).min(self.per_block());
            for slot in 0..usize::try_from(counted).unwrap_or(0) {
                put(self.width, &mut bytes, slot, 1);
            }
            bytes
        })
    }

    /// The header points to the larger table now.
    fn install(&self, growth: Growth) {
        let mut state = self.state();
        // Entries that were made meanwhile are dirty and go to the new table.
        let old_len = state.table.len();
        state.table.extend_from_slice(growth.table.get(old_len..).unwrap_or_default());
        for image in growth.blocks {
            self.add_block(&mut state, image.index, image.bytes);
        }
    }
}
