//! Refcounts of another width, all of them elsewhere.
//!
//! ```text
//!   clusters in use | b b b b b | table |          behind everything; counts of the old table and blocks are one less
//! ```
//! Nothing refers to the new clusters before the header does, in one sector. From then on the old table and blocks are free.

use std::collections::BTreeSet;

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::request::io::Io;

use super::amend::place_of;
use super::refs::{Refs, put};
use super::{Qcow2, write_bytes};
use crate::qcow2::geometry::{ENTRY_BYTES, REFCOUNT_TABLE_BYTES_MAX};
use crate::qcow2::header::{HeaderChange, RefcountTable};
use crate::qcow2::refcount::RefcountWidth;

/// Where new counts are.
struct Plan {
    width: RefcountWidth,
    /// The first cluster behind those in use; the blocks are there, the table behind them.
    first: u64,
    blocks: u64,
    table_clusters: u64,
    /// Clusters of the old table and blocks.
    old: BTreeSet<u64>,
}

impl Qcow2 {
    /// Writes all counts anew. Everything is stored, nobody is inside, and the structure lock is held.
    pub(super) async fn recount(&self, io: Io<'_>, width: RefcountWidth) -> Result<()> {
        let plan = self.plan_recount(io, width).await?;
        let file = io.file()?;
        let per_block = width.per_block(self.cluster) as u64;
        let mut table = Vec::new();
        for number in 0..plan.blocks {
            let mut bytes = vec![0; self.cluster.buffer_len()];
            for (slot, cluster) in (0_usize..).zip(number * per_block..(number + 1) * per_block) {
                let count = self.new_count(io, &plan, cluster).await?;
                put(width, &mut bytes, slot, count);
            }
            let at = place_of(self.cluster, plan.first + number)?;
            write_bytes(file, at, &bytes).await?;
            table.extend_from_slice(&at.get().to_be_bytes());
        }
        let at = place_of(self.cluster, plan.first + plan.blocks)?;
        let len = plan.table_clusters * self.cluster.bytes();
        table.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        write_bytes(file, at, &table).await?;
        let refcounts =
            RefcountTable { at, clusters: u32::try_from(plan.table_clusters).unwrap_or(u32::MAX) };
        let change =
            HeaderChange { refcounts: Some(refcounts), width: Some(width), ..HeaderChange::default() };
        self.change_header(io, &change).await
    }

    async fn plan_recount(&self, io: Io<'_>, width: RefcountWidth) -> Result<Plan> {
        let old_table = self.header_now().refcounts();
        let start = self.cluster.host_cluster(old_table.at).index();
        let mut old: BTreeSet<u64> = (start..start + u64::from(old_table.clusters)).collect();
        old.extend(self.refs.all_blocks()?.iter().map(|at| self.cluster.host_cluster(*at).index()));
        let mut first = 0;
        // Block by block: most entries of a table for narrow counts have none.
        for index in 0..self.refs.table_len() {
            let counted = index as u64 * self.refs.per_block();
            for (cluster, count) in (counted..).zip(self.refs.counts(io, index).await?) {
                if count > width.count_max() {
                    let at = place_of(self.cluster, cluster).unwrap_or(HostOffset::ZERO);
                    let text =
                        format!("{} bits are too few: the cluster at {at} has {count} users", width.bits());
                    return Err(Error::new(Kind::InvalidInput, text).in_option("refcount_bits"));
                }
                first = if count > 0 { cluster + 1 } else { first };
            }
        }
        let per_block = width.per_block(self.cluster) as u64;
        let (mut blocks, mut table_clusters) = (1, 1);
        loop {
            let needed = (first + blocks + table_clusters).div_ceil(per_block);
            let tables = self.cluster.clusters(needed * ENTRY_BYTES);
            if needed * ENTRY_BYTES > REFCOUNT_TABLE_BYTES_MAX {
                let text = "the refcount table would exceed the largest size of its format";
                return Err(Error::new(Kind::NoSpace, text).in_option("refcount_bits"));
            }
            if (needed, tables) == (blocks, table_clusters) {
                return Ok(Plan { width, first, blocks, table_clusters, old });
            }
            (blocks, table_clusters) = (needed, tables);
        }
    }

    /// What a cluster's count is when the new table is in force.
    async fn new_count(&self, io: Io<'_>, plan: &Plan, cluster: u64) -> Result<u64> {
        if cluster >= plan.first {
            return Ok(u64::from(cluster < plan.first + plan.blocks + plan.table_clusters));
        }
        let count = self.refs.count_of(io, cluster).await?;
        debug_assert!(count <= plan.width.count_max(), "counts that are too large were refused");
        Ok(if plan.old.contains(&cluster) { count.saturating_sub(1) } else { count })
    }
}

impl Refs {
    /// All counts of a block; none if there is no such block.
    async fn counts(&self, io: Io<'_>, index: usize) -> Result<Vec<u64>> {
        loop {
            {
                let mut state = self.state();
                if self.block_at(&state, index)?.is_none() {
                    return Ok(Vec::new());
                }
                if let Some(block) = state.block(index) {
                    let slots = 0..self.width.per_block(self.cluster);
                    return Ok(slots.map(|slot| self.width.get(&block.bytes, slot).unwrap_or(0)).collect());
                }
            }
            self.load(io, index).await?;
        }
    }

    /// The count of a cluster; 0 where nothing is counted.
    async fn count_of(&self, io: Io<'_>, cluster: u64) -> Result<u64> {
        let (index, slot) = self.slot(cluster);
        loop {
            {
                let mut state = self.state();
                if self.block_at(&state, index)?.is_none() {
                    return Ok(0);
                }
                if let Some(block) = state.block(index) {
                    return Ok(self.width.get(&block.bytes, slot).unwrap_or(0));
                }
            }
            self.load(io, index).await?;
        }
    }
}
