//! Cluster sizes and cluster numbers.
//!
//! Invariants: cluster sizes are powers of two from 512 bytes to 2 MiB, so every length below is small or was checked;
//! a number of a guest cluster never becomes a number of a host cluster without a table entry in between.
//! Not here: the mapping ([`super::l2`]), refcount geometry ([`super::refcount`]), entries ([`super::entry`]).

use drystone_base::{GuestOffset, HostOffset, LEN_MAX};

/// Bytes of an entry in an L1 or refcount table, and of one in an L2 table that is not extended (spec "Cluster mapping", "Host cluster management").
pub const ENTRY_BYTES: u64 = 8;
/// Everything that a table can point to lies below this offset in the file (spec "Cluster mapping": bits 9-55).
pub const HOST_END: u64 = 1 << 56;
/// Largest L1 table, active or of a snapshot, in bytes (the limit that spec "Header" states for `size`).
pub const L1_BYTES_MAX: u64 = 32 << 20;
/// Largest refcount table in bytes (the limit that spec "Host cluster management" states).
pub const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;

/// The size of a cluster as a power of two: 9 (512 bytes) to 21 (2 MiB).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterBits(u8);

/// The number of a cluster of the virtual disk: guest offset divided by cluster size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestCluster(u64);

/// The number of a cluster of the file: host offset divided by cluster size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostCluster(u64);

/// Where the mapping of a guest offset is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapPlace {
    /// Index into the L1 table; not checked against the length of one.
    pub l1_index: u64,
    /// Index into the L2 table; less than the entries of one.
    pub l2_index: usize,
    /// Byte in the cluster; less than the cluster size.
    pub byte: u64,
}

impl ClusterBits {
    /// Clusters of 512 bytes.
    pub const MIN: Self = Self(9);
    /// Clusters of 2 MiB.
    pub const MAX: Self = Self(21);
    /// Clusters of 64 KiB, what images have unless somebody asks for another size.
    pub const DEFAULT: Self = Self(16);

    /// Clusters of `1 << bits` bytes, or `None` outside of 512 bytes to 2 MiB.
    #[must_use]
    pub const fn checked(bits: u32) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "at most 21")]
        if bits >= Self::MIN.0 as u32 && bits <= Self::MAX.0 as u32 { Some(Self(bits as u8)) } else { None }
    }

    /// Clusters of `bytes` bytes, or `None` unless that is a power of two from 512 bytes to 2 MiB.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() { Self::checked(bytes.trailing_zeros()) } else { None }
    }

    /// The power of two.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Bytes in a cluster.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Bytes in a cluster, as the length of a buffer.
    #[must_use]
    pub const fn buffer_len(self) -> usize {
        1 << self.0
    }

    /// How many 8-byte entries a cluster holds.
    #[must_use]
    pub const fn entries(self) -> usize {
        self.buffer_len() >> 3
    }

    /// How many clusters `len_bytes` bytes fill, rounded up.
    #[must_use]
    pub const fn clusters(self, len_bytes: u64) -> u64 {
        // `div_ceil` would divide: the compiler does not know that the size is a power of two.
        (len_bytes >> self.0) + (len_bytes & (self.bytes() - 1) != 0) as u64
    }

    /// Whether a host offset is where a cluster starts.
    #[must_use]
    pub const fn is_aligned(self, at: HostOffset) -> bool {
        at.is_aligned(self.bytes())
    }

    /// The cluster of the virtual disk that holds a guest offset.
    #[must_use]
    pub const fn guest_cluster(self, at: GuestOffset) -> GuestCluster {
        GuestCluster(at.get() >> self.0)
    }

    /// The cluster of the file that holds a host offset.
    #[must_use]
    pub const fn host_cluster(self, at: HostOffset) -> HostCluster {
        HostCluster(at.get() >> self.0)
    }

    /// Where a cluster of the virtual disk starts, or `None` past [`LEN_MAX`].
    #[must_use]
    pub const fn guest_start(self, cluster: GuestCluster) -> Option<GuestOffset> {
        if cluster.0 > LEN_MAX >> self.0 { None } else { GuestOffset::checked(cluster.0 << self.0) }
    }

    /// Where a cluster of the file starts, or `None` past [`LEN_MAX`].
    #[must_use]
    pub const fn host_start(self, cluster: HostCluster) -> Option<HostOffset> {
        if cluster.0 > LEN_MAX >> self.0 { None } else { HostOffset::checked(cluster.0 << self.0) }
    }
}

impl GuestCluster {
    /// The cluster with this number, counted from 0.
    #[must_use]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// Its number, counted from 0.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0
    }
}

impl HostCluster {
    /// The cluster with this number, counted from 0.
    #[must_use]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// Its number, counted from 0.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_size() -> impl Iterator<Item = ClusterBits> {
        (9..=21).filter_map(ClusterBits::checked)
    }

    #[test]
    fn only_powers_of_two_from_512_bytes_to_2_mib_are_cluster_sizes() {
        assert_eq!(every_size().count(), 13);
        for bytes in [0, 256, 511, 513, 1000, 4 << 20, u64::MAX] {
            assert_eq!(ClusterBits::from_bytes(bytes), None, "{bytes}");
        }
        assert_eq!(ClusterBits::from_bytes(65536), Some(ClusterBits::DEFAULT));
    }

    #[test]
    fn the_start_of_a_cluster_past_the_largest_disk_does_not_exist() {
        for bits in every_size() {
            assert_eq!(bits.host_start(HostCluster::new(u64::MAX)), None);
            assert_eq!(bits.guest_start(GuestCluster::new(u64::MAX >> bits.bits())), None);
            let at = HostOffset::new(5 * bits.bytes());
            assert_eq!(bits.host_start(bits.host_cluster(at)), Some(at));
        }
    }
}
