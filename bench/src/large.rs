//! qcow2 images whose disk is far larger than their data, and whose tables say where all of it is.
//!
//! ```text
//!  | header | refcount table (empty) | L1 | data, noise | L2 tables, one for each 512 MiB of the disk |
//!                                           ^    ^   ^     every entry points in here
//!                                           '----'---'---- so clusters are shared: for reading only
//! ```
//! Writing 10 TiB to have 1.25 GiB of tables would take hours; `preallocation=metadata` takes no order but one, and a file
//! of holes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const CLUSTER: u64 = 64 << 10;
const ENTRIES: u64 = CLUSTER / 8;
/// Clusters of data: a power of two, 256 MiB.
const DATA_CLUSTERS: u64 = 4 << 10;
/// Odd, so that every cluster has its turn, and not small, so that none follows the one before.
const STRIDE: u64 = 2531;
/// Spec "Header", "L1 table": the cluster has no other user.
const COPIED: u64 = 1 << 63;

/// In which order the clusters of a disk lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// One behind the other.
    InOrder,
    /// None behind the one before.
    Scattered,
}

impl Order {
    /// As a row calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in order",
            Self::Scattered => "scattered",
        }
    }

    fn place(self, cluster: u64) -> u64 {
        match self {
            Self::InOrder => cluster % DATA_CLUSTERS,
            Self::Scattered => cluster.wrapping_mul(STRIDE) % DATA_CLUSTERS,
        }
    }
}

/// Makes an image of a disk of `len_gib` GiB.
pub(crate) fn write(path: &Path, len_gib: u64, order: Order) -> Result<(), String> {
    write_to(path, len_gib << 30, order).map_err(|error| format!("{}: {error}", path.display()))
}

fn write_to(path: &Path, len: u64, order: Order) -> std::io::Result<()> {
    let tables = len.div_ceil(CLUSTER * ENTRIES);
    let (refcounts_at, l1_at) = (CLUSTER, 2 * CLUSTER);
    let data_at = l1_at + (tables * 8).next_multiple_of(CLUSTER);
    let l2_at = data_at + DATA_CLUSTERS * CLUSTER;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut words = |words: &mut dyn Iterator<Item = u64>| {
        for word in words {
            file.write_all(&word.to_be_bytes())?;
        }
        Ok::<_, std::io::Error>(())
    };
    let u32s = |high: u64, low: u64| high << 32 | low;
    let header = [
        u32s(0x5146_49fb, 3),
        0,                               // no backing file
        u32s(0, CLUSTER.ilog2().into()), // its name's length
        len,
        u32s(0, tables), // no encryption
        l1_at,
        refcounts_at,
        u32s(1, 0), // clusters of refcount table, snapshots
        0,
        0,
        0,
        0,
        u32s(4, 104), // refcounts of 16 bits, length of the header
    ];
    let zeroes = |count: u64| std::iter::repeat_n(0, usize::try_from(count).unwrap_or(0));
    words(&mut header.into_iter().chain(zeroes(l1_at / 8 - header.len() as u64)))?;
    let l1 = (0..tables).map(|table| (l2_at + table * CLUSTER) | COPIED);
    words(&mut l1.chain(zeroes((data_at - l1_at) / 8 - tables)))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words(&mut noise.take(usize::try_from(DATA_CLUSTERS * ENTRIES).unwrap_or(0)))?;
    words(&mut (0..tables * ENTRIES).map(|cluster| (data_at + order.place(cluster) * CLUSTER) | COPIED))?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_clusters_all_have_their_turn_and_never_follow_each_other() {
        let mut seen: Vec<u64> = (0..DATA_CLUSTERS).map(|cluster| Order::Scattered.place(cluster)).collect();
        assert!(seen.windows(2).all(|pair| pair[1] != pair[0] + 1));
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..DATA_CLUSTERS));
    }
}
