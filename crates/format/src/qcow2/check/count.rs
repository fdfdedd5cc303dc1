//! How often every cluster of the file is referred to, in little memory.
//! ```text
//!  slots:   [ None | chunk | chunk | None | ... ]         one slot per 4096 clusters of the file
//!  chunk:   references  1 1 0 1 2 ..                      counts in 1, 2, 4 .. 64 bits, as many as the largest needs
//!           writable    1 1 0 0 0 ..                      references of the active tables with the "copied" flag
//!           shared      0 0 0 1 1 ..                      references of the active tables without it
//! ```
//! Invariants: memory is at most what was allowed; an ordinary image takes two bits per cluster.
//! Not here: who refers to what ([`super::walk`]), what the image says about it ([`super::compare`]).

use std::collections::BTreeSet;
use std::ops::Range;

use crate::qcow2::geometry::HostCluster;
use crate::qcow2::refcount::RefcountWidth;

/// Clusters of a chunk.
pub(super) const CHUNK: usize = 4096;

/// The memory that was allowed is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfMemory;

/// Memory that is left, in bytes.
#[derive(Debug)]
pub(super) struct Memory(pub(super) usize);

impl Memory {
    /// Takes some of it.
    pub(super) fn take(&mut self, len_bytes: usize) -> Result<(), OutOfMemory> {
        self.0 = self.0.checked_sub(len_bytes).ok_or(OutOfMemory)?;
        Ok(())
    }
}

/// Whether a reference says that it is the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It does.
    Writable,
    /// It says that there may be others.
    Shared,
}

/// The references to every cluster.
#[derive(Debug)]
pub(super) struct Counters {
    slots: Vec<Option<Box<Chunk>>>,
    memory: Memory,
    /// What [`Self::free_run`] leaves alone as well: sorted, without overlaps.
    avoided: Vec<Range<u64>>,
}

/// The references to the clusters of a chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    references: Packed,
    writable: Option<Packed>,
    shared: Option<Packed>,
}

/// The references to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    /// All of them.
    pub(super) references: u64,
    /// Those of active tables that say that they are the only one.
    pub(super) writable: u64,
    /// Those of active tables that do not.
    pub(super) shared: u64,
}

impl Counters {
    /// Counters for the first `clusters` clusters of a file.
    pub(super) fn new(clusters: u64, mut memory: Memory) -> Result<Self, OutOfMemory> {
        let slots = usize::try_from(clusters.div_ceil(CHUNK as u64)).map_err(|_| OutOfMemory)?;
        memory.take(slots.saturating_mul(size_of::<Option<Box<Chunk>>>()))?;
        Ok(Self { slots: std::iter::repeat_with(|| None).take(slots).collect(), memory, avoided: Vec::new() })
    }

    /// Memory that is left.
    pub(super) const fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Adds references to a cluster, at most so many that there are `max`; how many were too many.
    pub(super) fn add(&mut self, to: HostCluster, times: u64, max: u64) -> Result<u64, OutOfMemory> {
        self.change(to, |chunk, index, memory| {
            let before = chunk.references.get(index);
            let after = before.saturating_add(times).min(max);
            chunk.references.set(index, after, memory)?;
            Ok(times - (after - before))
        })
    }

    /// Notes what references to a cluster, which were added already, say about themselves.
    pub(super) fn claim(&mut self, to: HostCluster, times: u64, claim: Claim) -> Result<(), OutOfMemory> {
        self.change(to, |chunk, index, memory| {
            let counts = match claim {
                Claim::Writable => &mut chunk.writable,
                Claim::Shared => &mut chunk.shared,
            };
            let counts = match counts {
                Some(counts) => counts,
                None => counts.insert(Packed::new(memory)?),
            };
            counts.set(index, counts.get(index).saturating_add(times), memory)
        })
    }

    /// The references to a cluster.
    pub(super) fn get(&self, of: HostCluster) -> Count {
        let (slot, index) = place(of);
        self.chunk(slot).map_or_else(Count::default, |chunk| chunk.get(index))
    }

    /// Makes room for the first `clusters` clusters.
    pub(super) fn extend_to(&mut self, clusters: u64) -> Result<(), OutOfMemory> {
        let slots = usize::try_from(clusters.div_ceil(CHUNK as u64)).map_err(|_| OutOfMemory)?;
        if let Some(more) = slots.checked_sub(self.slots.len()) {
            self.memory.take(more.saturating_mul(size_of::<Option<Box<Chunk>>>()))?;
            self.slots.resize_with(slots, || None);
        }
        Ok(())
    }

    /// Forgets the references to a cluster.
    pub(super) fn clear(&mut self, of: HostCluster) -> Result<(), OutOfMemory> {
        self.change(of, |chunk, index, memory| chunk.references.set(index, 0, memory))
    }

    /// Clusters, behind the end of the file, that are not free although nothing is counted there.
    pub(super) fn avoid(&mut self, mut ranges: Vec<Range<u64>>) {
        ranges.sort_unstable_by_key(|range| range.start);
        self.avoided = Vec::new();
        for range in ranges {
            match self.avoided.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => self.avoided.push(range),
            }
        }
    }

    /// The first of `clusters` clusters in a row without references, from `from` on; the row may end behind everything
    /// that is counted.
    pub(super) fn free_run(&self, clusters: u64, from: u64) -> u64 {
        let end = self.slots.len() as u64 * CHUNK as u64;
        let (mut start, mut next) = (from, from);
        while next - start < clusters {
            let chunk = usize::try_from(next / CHUNK as u64).ok().and_then(|slot| self.chunk(slot));
            let after = self.avoided.partition_point(|range| range.start <= next);
            let avoided = after.checked_sub(1).and_then(|last| self.avoided.get(last));
            if let Some(range) = avoided.filter(|range| range.end > next) {
                (start, next) = (range.end, range.end);
            } else if next < end && chunk.is_some() && self.get(HostCluster::new(next)).references > 0 {
                (start, next) = (next + 1, next + 1);
            } else {
                next += 1;
            }
        }
        start
    }

    /// The indices of the blocks of `per_block` clusters that have references.
    pub(super) fn blocks_in_use(&self, per_block: u64) -> BTreeSet<u64> {
        let mut blocks = BTreeSet::new();
        for (slot, chunk) in self.slots.iter().enumerate() {
            let Some(chunk) = chunk else { continue };
            let first = slot as u64 * CHUNK as u64;
            let used = (0..CHUNK).filter(|&index| chunk.references.get(index) > 0);
            blocks.extend(used.map(|index| (first + index as u64) / per_block));
        }
        blocks
    }

    /// The references to the clusters from `slot * CHUNK` on; `None` if there are none.
    pub(super) fn chunk(&self, slot: usize) -> Option<&Chunk> {
        self.slots.get(slot)?.as_deref()
    }

    fn change<T>(
        &mut self,
        to: HostCluster,
        with: impl FnOnce(&mut Chunk, usize, &mut Memory) -> Result<T, OutOfMemory>,
    ) -> Result<T, OutOfMemory> {
        let (slot, index) = place(to);
        let Some(slot) = self.slots.get_mut(slot) else { panic!("{to:?} is not a cluster of the file") };
        let chunk = match slot {
            Some(chunk) => chunk,
            None => {
                self.memory.take(size_of::<Chunk>())?;
                let references = Packed::new(&mut self.memory)?;
                slot.insert(Box::new(Chunk { references, writable: None, shared: None }))
            }
        };
        with(chunk, index, &mut self.memory)
    }
}

impl Chunk {
    /// The references to the cluster with this index in the chunk.
    pub(super) fn get(&self, index: usize) -> Count {
        let of = |counts: &Option<Packed>| counts.as_ref().map_or(0, |counts| counts.get(index));
        Count {
            references: self.references.get(index),
            writable: of(&self.writable),
            shared: of(&self.shared),
        }
    }
}

/// The slot of a cluster and its index in the chunk there.
fn place(of: HostCluster) -> (usize, usize) {
    let index = usize::try_from(of.index()).unwrap_or(usize::MAX);
    (index / CHUNK, index % CHUNK)
}

/// Counts of equal width, which grows when one of them does not fit.
#[derive(Debug)]
struct Packed {
    width: RefcountWidth,
    bytes: Vec<u8>,
}

impl Packed {
    fn new(memory: &mut Memory) -> Result<Self, OutOfMemory> {
        Self::with_width(RefcountWidth::MIN, memory)
    }

    fn with_width(width: RefcountWidth, memory: &mut Memory) -> Result<Self, OutOfMemory> {
        let len = CHUNK * width.bits() as usize / 8;
        memory.take(len)?;
        Ok(Self { width, bytes: vec![0; len] })
    }

    fn get(&self, index: usize) -> u64 {
        let count = self.width.get(&self.bytes, index);
        assert!(count.is_some(), "index {index} in a chunk");
        count.unwrap_or(0)
    }

    fn set(&mut self, index: usize, count: u64, memory: &mut Memory) -> Result<(), OutOfMemory> {
        if count > self.width.count_max() {
            self.widen(count, memory)?;
        }
        let stored = self.width.set(&mut self.bytes, index, count);
        assert!(stored.is_some(), "index {index} in a chunk");
        Ok(())
    }

    /// The old bytes are not given back to `memory` before the new ones exist.
    fn widen(&mut self, to_hold: u64, memory: &mut Memory) -> Result<(), OutOfMemory> {
        let mut orders = self.width.order()..=RefcountWidth::MAX.order();
        let width = orders
            .find_map(|order| RefcountWidth::from_order(order).filter(|width| to_hold <= width.count_max()));
        let mut wider = Self::with_width(width.unwrap_or(RefcountWidth::MAX), memory)?;
        let bits = self.width.bits() as usize;
        let (unit_bytes, unit_counts) = ((bits / 8).max(1), (8 / bits).max(1));
        let units = self.bytes.chunks(unit_bytes).enumerate();
        for (unit, _) in units.filter(|(_, unit)| unit.iter().any(|&byte| byte != 0)) {
            for index in unit * unit_counts..(unit + 1) * unit_counts {
                let stored = wider.width.set(&mut wider.bytes, index, self.get(index));
                assert!(stored.is_some(), "a wider count holds a narrower one");
            }
        }
        memory.0 += self.bytes.len();
        *self = wider;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn counters(clusters: u64, memory: usize) -> Counters {
        Counters::new(clusters, Memory(memory)).unwrap()
    }

    #[test]
    fn counts_of_any_size_live_side_by_side() {
        let mut counters = counters(10_000, 1 << 20);
        let mut model = BTreeMap::new();
        let mut rng = drystone_base::rng::Rng::new(7);
        for _ in 0..20_000 {
            let (cluster, times) = (rng.below(10_000), rng.next_u64() >> (20 + rng.below(44)));
            assert_eq!(counters.add(HostCluster::new(cluster), times, u64::MAX), Ok(0));
            *model.entry(cluster).or_insert(0) += times;
        }
        for cluster in 0..10_000 {
            let expected = model.get(&cluster).copied().unwrap_or(0);
            assert_eq!(counters.get(HostCluster::new(cluster)).references, expected);
        }
    }

    #[test]
    fn references_stop_at_what_the_image_can_store() {
        let mut counters = counters(1, 1 << 20);
        let cluster = HostCluster::new(0);
        assert_eq!(counters.add(cluster, 2, 3), Ok(0));
        assert_eq!(counters.add(cluster, 5, 3), Ok(4));
        assert_eq!(counters.get(cluster).references, 3);
    }

    #[test]
    fn claims_are_counted_apart() {
        let mut counters = counters(5000, 1 << 20);
        let cluster = HostCluster::new(4999);
        counters.claim(cluster, 1, Claim::Writable).unwrap();
        counters.claim(cluster, 300, Claim::Shared).unwrap();
        counters.claim(cluster, 1, Claim::Shared).unwrap();
        assert_eq!(counters.get(cluster), Count { references: 0, writable: 1, shared: 301 });
        assert_eq!(counters.get(HostCluster::new(4998)), Count::default());
    }

    #[test]
    fn an_ordinary_image_takes_two_bits_per_cluster() {
        let mut counters = counters(1 << 20, 300 << 10);
        for index in 0..1 << 20 {
            counters.add(HostCluster::new(index), 1, 1).unwrap();
            counters.claim(HostCluster::new(index), 1, Claim::Writable).unwrap();
        }
        assert_eq!(counters.add(HostCluster::new(0), u64::MAX - 1, u64::MAX), Err(OutOfMemory));
    }
}
