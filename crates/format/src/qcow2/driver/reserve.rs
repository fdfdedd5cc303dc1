//! The search for free clusters.
//!
//! A cluster is free if its count is zero, and a region of clusters without a refcount block is free altogether: its block
//! is made in memory, in the region's own first cluster, when one of the region is taken. Larger pieces take regions in a
//! row, with all their blocks in front:
//! ```text
//!   region r            r + 1              r + 2
//!   | b b b ############|##################|#######           |
//! ```

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::owned::Owned;
use super::passes::Cause;
use super::refs::{Refs, Run, State, put};
use crate::qcow2::geometry::{HOST_END, HostCluster};
use crate::qcow2::refcount::RefcountWidth;

/// How long a request that finds no space waits for freed space before it looks again.
const SPACE_RETRY_NS: u64 = 1_000_000;

/// How many clusters are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    UpTo(u64),
    Exactly(u64),
}

/// What a search for free clusters has come to.
enum Search {
    Found(Run),
    /// This block must be in memory to go on at this cluster.
    Load(usize, u64),
    /// The table must be larger.
    GrowTable,
}

impl Qcow2 {
    /// Reserves 1 to `count_max` consecutive clusters: their counts are one.
    pub(super) async fn reserve(&self, io: Io<'_>, count_max: u64) -> Result<Run> {
        self.reserve_as(io, Want::UpTo(count_max)).await
    }

    /// Reserves exactly `count` consecutive clusters.
    pub(super) async fn reserve_exactly(&self, io: Io<'_>, count: u64) -> Result<Run> {
        self.reserve_as(io, Want::Exactly(count)).await
    }

    async fn reserve_as(&self, io: Io<'_>, want: Want) -> Result<Run> {
        io.file()?.event(Event::ClusterAlloc).await;
        io.file()?.event(Event::RefblockAlloc).await;
        // The blocks that were looked at before may have left memory: the search never goes back to them.
        let mut from = None;
        loop {
            match self.refs.search(&self.owned, want, from) {
                Ok(Search::Found(run)) => return Ok(run),
                Ok(Search::Load(index, at)) => {
                    from = Some(at);
                    self.refs.load(io, index).await?;
                }
                Ok(Search::GrowTable) => self.grow_refcount_table(io).await?,
                Err(error) => return Err(self.step_back_for_space(io, error).await),
            }
        }
    }

    /// An operation has failed. If that was for want of space and freed space is on its way back, the request comes again
    /// when that may have arrived.
    pub(super) async fn step_back_for_space(&self, io: Io<'_>, error: Error) -> Error {
        if error.kind() != Kind::NoSpace || !self.frees.any_on_its_way() {
            return error;
        }
        if self.store_metadata(io).await.is_err() || self.reap(io).await.is_err() {
            return error;
        }
        io.step_back(io.now_ns() + SPACE_RETRY_NS)
    }

    /// Clusters that were reserved and are not used. Something may have been written there.
    pub(super) async fn give_back(&self, io: Io<'_>, mut run: Run) {
        if self.refs.release(io, &mut run).await.is_err() {
            self.frees.make_ready(run, Cause::Other);
        }
    }
}

impl Want {
    fn count_min(self) -> u64 {
        match self {
            Self::UpTo(_) => 1,
            Self::Exactly(count) => count,
        }
    }
}

impl Refs {
    /// Searches from cluster `from` on, or from the first that may be free.
    fn search(&self, owned: &Owned, want: Want, from: Option<u64>) -> Result<Search> {
        let mut state = self.state();
        let mut at = from.unwrap_or(state.hint);
        loop {
            let (index, slot) = self.slot(at);
            let next_region = (index as u64 + 1) * self.per_block();
            if index >= state.table.len() {
                return Ok(Search::GrowTable);
            }
            if self.block_at(&state, index)?.is_none() {
                let blocks = self.blocks_for(want.count_min());
                match regions_from(&state.table, index, blocks) {
                    Regions::Free => {}
                    Regions::Occupied => {
                        at = next_region;
                        continue;
                    }
                    Regions::PastTheEnd => return Ok(Search::GrowTable),
                }
                let piece = self.open_regions(&mut state, owned, (index, blocks))?;
                if let Want::Exactly(count) = want {
                    return self.take(&mut state, owned, Run { first: piece, count });
                }
            }
            let Some(block) = state.block(index) else { return Ok(Search::Load(index, at)) };
            if let Some((slot, count)) = find_free(self.width, &block.bytes, slot, want) {
                let first = HostCluster::new(index as u64 * self.per_block() + slot as u64);
                return self.take(&mut state, owned, Run { first, count });
            }
            // Space may have become free in front of it since the search began.
            if matches!(want, Want::UpTo(_)) && state.hint == at {
                state.hint = next_region;
            }
            at = next_region;
        }
    }

    /// How many regions hold `clusters` clusters and their own blocks.
    pub(super) fn blocks_for(&self, clusters: u64) -> u64 {
        clusters.div_ceil(self.per_block() - 1)
    }

    /// Makes the blocks of `blocks` regions in a row that have none; the first cluster behind them.
    fn open_regions(
        &self,
        state: &mut State,
        owned: &Owned,
        (index, blocks): (usize, u64),
    ) -> Result<HostCluster> {
        let first = index as u64 * self.per_block();
        let run = Run { first: HostCluster::new(first), count: blocks };
        let starts = (first..first + blocks).map(|number| self.cluster.host_start(HostCluster::new(number)));
        let starts: Option<Vec<HostOffset>> = starts.collect();
        let starts =
            starts.filter(|starts| starts.iter().all(|at| at.get() < HOST_END)).ok_or_else(no_space)?;
        if owned.holds(run) {
            return Err(Error::new(Kind::Corrupt, "clusters that hold tables are not counted"));
        }
        for (index, at) in (index..).zip(starts) {
            owned.add(Run { first: self.cluster.host_cluster(at), count: 1 })?;
            if let Some(entry) = state.table.get_mut(index) {
                *entry = at.get();
            }
            state.dirty_table.insert(index);
            self.add_block(state, index, vec![0; self.cluster.buffer_len()]);
        }
        self.count_once(state, run);
        Ok(HostCluster::new(first + blocks))
    }

    /// Counts free clusters whose blocks are in memory.
    fn take(&self, state: &mut State, owned: &Owned, run: Run) -> Result<Search> {
        if run.bounds().1 << self.cluster.bits() > HOST_END {
            return Err(no_space());
        }
        if owned.holds(run) {
            return Err(Error::new(Kind::Corrupt, "the refcounts give away clusters that hold tables"));
        }
        self.count_once(state, run);
        if state.hint == run.first.index() {
            state.hint = run.bounds().1;
        }
        Ok(Search::Found(run))
    }

    /// Takes one cluster, which is known to be free; `false` if none may be there.
    pub(super) fn take_next(&self, state: &mut State, owned: &Owned, cluster: u64) -> Result<bool> {
        if (cluster + 1) << self.cluster.bits() > HOST_END {
            return Ok(false);
        }
        self.take(state, owned, Run::between(cluster, cluster + 1)).map(|_| true)
    }

    fn count_once(&self, state: &mut State, run: Run) {
        let (first, end) = run.bounds();
        for number in first..end {
            let (index, slot) = self.slot(number);
            let Some(block) = state.block(index) else { panic!("refcount block {index} is not in memory") };
            put(self.width, &mut block.bytes, slot, 1);
            state.note_dirty(index);
        }
    }
}

/// What follows a region that has no block.
enum Regions {
    /// Enough regions without a block.
    Free,
    /// One that has a block.
    Occupied,
    /// The end of the table.
    PastTheEnd,
}

fn regions_from(table: &[u64], index: usize, count: u64) -> Regions {
    let end = index.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
    let entries = table.get(index..end.min(table.len())).unwrap_or_default();
    match entries.iter().all(|raw| *raw == 0) {
        true if end <= table.len() => Regions::Free,
        true => Regions::PastTheEnd,
        false => Regions::Occupied,
    }
}

/// The first run of zero counts from slot `from` on that is long enough: where it starts, and how much of it is wanted.
fn find_free(width: RefcountWidth, block: &[u8], from: usize, want: Want) -> Option<(usize, u64)> {
    let (least, most) = match want {
        Want::UpTo(most) => (1, most),
        Want::Exactly(count) => (count, count),
    };
    let (mut start, mut count) = (from, 0);
    for slot in from.. {
        match width.get(block, slot) {
            Some(0) => count += 1,
            Some(_) if count >= least => break,
            Some(_) => (start, count) = (slot + 1, 0),
            None => break,
        }
        if count == most {
            break;
        }
    }
    (count >= least).then_some((start, count))
}

fn no_space() -> Error {
    Error::new(Kind::NoSpace, "the image has reached the largest size of its format")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_runs_are_found_in_a_block() {
        let width = RefcountWidth::from_bits(8).unwrap();
        let block = [1, 0, 0, 1, 0, 0, 0, 1, 0];
        let find = |from, want| find_free(width, &block, from, want);
        assert_eq!(find(0, Want::UpTo(5)), Some((1, 2)));
        assert_eq!(find(2, Want::UpTo(1)), Some((2, 1)));
        assert_eq!(find(0, Want::Exactly(3)), Some((4, 3)));
        assert_eq!(find(5, Want::UpTo(9)), Some((5, 2)));
        assert_eq!(find(7, Want::UpTo(9)), Some((8, 1)));
        assert_eq!(find(0, Want::Exactly(4)), None);
        assert_eq!(find(9, Want::UpTo(1)), None);
    }
}
