//! All refcounts made anew: blocks and table in free space, then the header says where they are.
//! ```text
//!  1 what is referred to, old refcounts too  ──► free clusters for new blocks and a new table
//!  2 the same without the old refcounts      ──► the counts to be stored
//!  3 blocks, table, flush, header, flush: before the header, the old ones are in force
//! ```
//! Invariant: nothing that is referred to is overwritten, the old blocks and table included.

use std::collections::{BTreeMap, BTreeSet};

use drystone_base::HostOffset;

use super::{Run, Target};
use crate::qcow2::check::count::Counters;
use crate::qcow2::check::finding::{Finding, Structure};
use crate::qcow2::check::{CLUSTERS_MAX, Check, CheckError};
use crate::qcow2::geometry::{ClusterBits, ENTRY_BYTES, HostCluster, REFCOUNT_TABLE_BYTES_MAX};
use crate::qcow2::header::{HeaderChange, RefcountTable};
use crate::qcow2::refcount::RefcountWidth;

/// Where new refcounts go.
struct Layout {
    cluster: ClusterBits,
    per_block: u64,
    /// Blocks by their index in the table.
    blocks: BTreeMap<u64, u64>,
    /// The first cluster of the table, and how many there are.
    table: (u64, u64),
}

impl<T: Target> Run<'_, T> {
    /// Makes the refcounts anew. `check` has counted everything, the old ones included.
    pub(super) async fn rebuild<F: FnMut(&Finding)>(
        &mut self,
        check: &mut Check<'_, T, F>,
    ) -> Result<(), CheckError> {
        let (cluster, width) = (self.header.cluster(), self.header.width());
        let layout = Layout::find(&mut check.counters, cluster, width)?;
        // The counters have done their work; two of them would be too much memory.
        check.counters = Counters::new(0, super::super::Memory(0))?;
        let header = self.header.clone();
        let mut recount = Check::new(self.target, &header, |_: &Finding| {})?;
        recount.mending = Some(super::Mending::default());
        recount.walk().await?;
        layout.count_in(&mut recount.counters, width)?;
        self.write_layout(&layout, &recount.counters).await?;
        let at = cluster.host_start(HostCluster::new(layout.table.0)).ok_or(CheckError::RefcountTable)?;
        let clusters = u32::try_from(layout.table.1).map_err(|_| CheckError::RefcountTable)?;
        let refcounts = Some(RefcountTable { at, clusters });
        self.change_header(&HeaderChange { refcounts, ..HeaderChange::default() }).await
    }

    async fn write_layout(&self, layout: &Layout, counters: &Counters) -> Result<(), CheckError> {
        let (cluster, width) = (self.header.cluster(), self.header.width());
        let start = |index| cluster.host_start(HostCluster::new(index)).ok_or(CheckError::RefcountTable);
        let table_len = layout.table.1 * cluster.bytes();
        let mut table = vec![0; usize::try_from(table_len).map_err(|_| CheckError::Memory)?];
        for (&index, &at) in &layout.blocks {
            let mut block = vec![0; cluster.buffer_len()];
            for (slot, of) in (index * layout.per_block..(index + 1) * layout.per_block).enumerate() {
                let references = counters.get(HostCluster::new(of)).references;
                if references > 0 {
                    let stored = width.set(&mut block, slot, references);
                    assert!(stored.is_some(), "references stop at what can be stored");
                }
            }
            let at = start(at)?;
            self.write(Structure::RefcountBlock, at, block).await?;
            put_entry(&mut table, index, at);
        }
        self.write(Structure::RefcountTable, start(layout.table.0)?, table).await
    }
}

impl Layout {
    /// Finds room, and counts it as used: the blocks in the first free clusters, then the table behind or between them.
    fn find(counters: &mut Counters, cluster: ClusterBits, width: RefcountWidth) -> Result<Self, CheckError> {
        let per_block = width.per_block(cluster) as u64;
        let mut layout = Self { cluster, per_block, blocks: BTreeMap::new(), table: (0, 0) };
        let mut wanted = counters.blocks_in_use(per_block);
        layout.place_blocks(counters, &mut wanted)?;
        let mut clusters = layout.table_clusters();
        loop {
            if clusters * cluster.bytes() > REFCOUNT_TABLE_BYTES_MAX {
                return Err(CheckError::RefcountTable);
            }
            let first = take_run(counters, clusters)?;
            wanted = (first..first + clusters).map(|index| index / per_block).collect();
            layout.place_blocks(counters, &mut wanted)?;
            let needed = layout.table_clusters();
            if needed <= clusters {
                layout.table = (first, clusters);
                return Ok(layout);
            }
            for index in first..first + clusters {
                counters.clear(HostCluster::new(index))?;
            }
            clusters = needed;
        }
    }

    /// Gives every wanted block a place. A place can want another block.
    fn place_blocks(
        &mut self,
        counters: &mut Counters,
        wanted: &mut BTreeSet<u64>,
    ) -> Result<(), CheckError> {
        while let Some(index) = wanted.pop_first() {
            if self.blocks.contains_key(&index) {
                continue;
            }
            let at = take_run(counters, 1)?;
            self.blocks.insert(index, at);
            wanted.insert(at / self.per_block);
        }
        Ok(())
    }

    /// Clusters of a table with an entry for each block.
    fn table_clusters(&self) -> u64 {
        let entries = self.blocks.last_key_value().map_or(1, |(&last, _)| last + 1);
        self.cluster.clusters(entries.saturating_mul(ENTRY_BYTES))
    }

    /// Counts the blocks and the table.
    fn count_in(&self, counters: &mut Counters, width: RefcountWidth) -> Result<(), CheckError> {
        let (first, clusters) = self.table;
        for index in self.blocks.values().copied().chain(first..first + clusters) {
            counters.extend_to(index + 1)?;
            counters.add(HostCluster::new(index), 1, width.count_max())?;
        }
        Ok(())
    }
}

/// Takes the first free clusters in a row.
fn take_run(counters: &mut Counters, clusters: u64) -> Result<u64, CheckError> {
    let first = counters.free_run(clusters, 0);
    let end = first + clusters;
    if end > CLUSTERS_MAX {
        return Err(CheckError::Clusters(end));
    }
    counters.extend_to(end)?;
    for index in first..end {
        counters.add(HostCluster::new(index), 1, 1)?;
    }
    Ok(first)
}

fn put_entry(table: &mut [u8], index: u64, block: HostOffset) {
    let at = usize::try_from(index * ENTRY_BYTES).unwrap_or(usize::MAX);
    let entry = table.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<8>());
    let Some(entry) = entry else { panic!("the table has no entry {index}") };
    *entry = block.get().to_be_bytes();
}
