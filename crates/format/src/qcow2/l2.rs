//! How the L2 tables of an image are to be read: entries of 8 or of 16 bytes, and what these can say.
//! ```text
//!  guest offset:   63 ..            cluster_bits + l2_bits        cluster_bits              0
//!                  |     L1 index   |           L2 index          |   byte in the cluster   |
//!                                    l2_bits = cluster_bits - 3, or - 4 with extended entries: a table is one cluster
//!  extended entry: | descriptor (8 bytes) | bitmap: 32 bits "reads as zeroes", 32 bits "has data" |
//! ```
//! With extended entries a cluster has 32 subclusters; without them it has one, itself. So code that speaks of subclusters
//! serves both.
//!
//! Invariant: extended entries exist with clusters of 16 KiB and more only. Not here: what entries say ([`super::entry`]).

use drystone_base::GuestOffset;

use super::entry::RawEntry;
use super::geometry::{ClusterBits, ENTRY_BYTES, MapPlace};
use super::header::Version;

/// Subclusters of a cluster with extended entries (spec "Extended L2 Entries").
const SUBCLUSTERS: u32 = 32;
/// Smallest clusters with extended entries (spec "Header": `cluster_bits`).
pub const EXTENDED_CLUSTER_BYTES_MIN: u64 = 16 << 10;

/// How L2 tables are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L2Format {
    cluster: ClusterBits,
    version: Version,
    is_extended: bool,
    has_data_file: bool,
}

impl L2Format {
    /// Entries of 8 bytes, data in the same file.
    #[must_use]
    pub const fn standard(cluster: ClusterBits, version: Version) -> Self {
        Self { cluster, version, is_extended: false, has_data_file: false }
    }

    /// The same with entries of 16 bytes, or not; `None` if clusters are too small for that.
    #[must_use]
    pub const fn with_extended(self, is_extended: bool) -> Option<Self> {
        if is_extended && self.cluster.bytes() < EXTENDED_CLUSTER_BYTES_MIN {
            return None;
        }
        Some(Self { is_extended, ..self })
    }

    /// The same with data in a file of its own, or not.
    #[must_use]
    pub const fn with_data_file(self, has_data_file: bool) -> Self {
        Self { has_data_file, ..self }
    }

    /// The size of clusters.
    #[must_use]
    pub const fn cluster(self) -> ClusterBits {
        self.cluster
    }

    /// The version of the format.
    #[must_use]
    pub const fn version(self) -> Version {
        self.version
    }

    /// Whether clusters have subclusters.
    #[must_use]
    pub const fn is_extended(self) -> bool {
        self.is_extended
    }

    /// Whether data is in a file of its own, where each cluster is at its guest offset.
    #[must_use]
    pub const fn has_data_file(self) -> bool {
        self.has_data_file
    }

    /// Numbers of 8 bytes in an entry, as a power of two: 0 or 1.
    #[must_use]
    pub const fn words_bits(self) -> u32 {
        self.is_extended as u32
    }

    /// Bytes of an entry: 8 or 16.
    #[must_use]
    pub const fn entry_bytes(self) -> u64 {
        ENTRY_BYTES << self.words_bits()
    }

    /// How many entries a table has, as a power of two: 6 to 18.
    #[must_use]
    pub const fn entries_bits(self) -> u32 {
        self.cluster.bits() - 3 - self.words_bits()
    }

    /// How many entries a table has.
    #[must_use]
    pub const fn entries(self) -> usize {
        1 << self.entries_bits()
    }

    /// How many bytes of the virtual disk one table maps (32 KiB to 512 GiB).
    #[must_use]
    pub const fn span_bytes(self) -> u64 {
        1 << (self.cluster.bits() + self.entries_bits())
    }

    /// How many L1 entries a disk of `len_guest` bytes needs.
    #[must_use]
    pub const fn l1_entries(self, len_guest: u64) -> u64 {
        len_guest.div_ceil(self.span_bytes())
    }

    /// Where a guest offset is mapped.
    #[must_use]
    pub const fn place(self, at: GuestOffset) -> MapPlace {
        let cluster = at.get() >> self.cluster.bits();
        #[expect(clippy::cast_possible_truncation, reason = "masked to less than the entries of a table")]
        let l2_index = cluster as usize & (self.entries() - 1);
        MapPlace {
            l1_index: at.get() / self.span_bytes(),
            l2_index,
            byte: at.get() & (self.cluster.bytes() - 1),
        }
    }

    /// Subclusters of a cluster: 1 or 32.
    #[must_use]
    pub const fn subclusters(self) -> u32 {
        if self.is_extended { SUBCLUSTERS } else { 1 }
    }

    /// Bytes of a subcluster.
    #[must_use]
    pub const fn subcluster_bytes(self) -> u64 {
        self.cluster.bytes() / self.subclusters() as u64
    }

    /// One bit for each subcluster of a cluster.
    #[must_use]
    pub const fn all_subclusters(self) -> u32 {
        if self.is_extended { u32::MAX } else { 1 }
    }

    /// One bit for each subcluster of a cluster that bytes `from .. to` of it touch. `from` is less than `to`, which is at
    /// most the size of a cluster.
    #[must_use]
    pub fn touched(self, from: u64, to: u64) -> u32 {
        let bytes = self.subcluster_bytes();
        let count = to.div_ceil(bytes).saturating_sub(from / bytes);
        let ones = u32::try_from((1_u64 << count.min(32)) - 1).unwrap_or(u32::MAX);
        ones << (from / bytes)
    }

    /// The entries of a table, or a part of one, as it is in the file.
    pub fn raws(self, bytes: &[u8]) -> impl Iterator<Item = RawEntry> + '_ {
        let words = bytes.as_chunks::<8>().0;
        words.chunks_exact(1 << self.words_bits()).map(|entry| {
            let word = |index: usize| entry.get(index).copied().map_or(0, u64::from_be_bytes);
            RawEntry { descriptor: word(0), bitmap: word(1) }
        })
    }

    /// An entry as it is in a file.
    pub fn bytes_of(self, raw: RawEntry) -> impl Iterator<Item = u8> {
        [raw.descriptor, raw.bitmap].into_iter().take(1 << self.words_bits()).flat_map(u64::to_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use drystone_base::LEN_MAX;

    use super::*;
    use crate::qcow2::geometry::L1_BYTES_MAX;

    fn every_format() -> impl Iterator<Item = L2Format> {
        let standard =
            (9..=21).filter_map(ClusterBits::checked).map(|cluster| L2Format::standard(cluster, Version::V3));
        standard.flat_map(|l2| [Some(l2), l2.with_extended(true)]).flatten()
    }

    #[test]
    fn a_place_gives_back_the_guest_offset() {
        assert_eq!(every_format().count(), 13 + 8);
        for l2 in every_format() {
            let cluster = l2.cluster().bytes();
            for at in [0, 1, cluster - 1, cluster, l2.span_bytes() - 1, l2.span_bytes(), LEN_MAX] {
                let place = l2.place(GuestOffset::new(at));
                assert!(place.l2_index < l2.entries());
                assert!(place.byte < cluster);
                let back = place.l1_index * l2.span_bytes() + place.l2_index as u64 * cluster + place.byte;
                assert_eq!(back, at, "{l2:?}");
            }
            assert_eq!(l2.entries() as u64 * l2.entry_bytes(), cluster);
            assert_eq!(l2.subclusters() as u64 * l2.subcluster_bytes(), cluster);
        }
    }

    #[test]
    fn a_largest_l1_table_covers_what_the_specification_says() {
        let entries = L1_BYTES_MAX / ENTRY_BYTES;
        let [small, large] = [ClusterBits::MIN, ClusterBits::MAX].map(|c| L2Format::standard(c, Version::V3));
        assert_eq!(small.span_bytes() * entries, 128 << 30);
        assert_eq!(large.span_bytes() * entries, 2 << 60);
        assert_eq!(small.l1_entries(128 << 30), entries);
        assert_eq!(small.l1_entries((128 << 30) + 1), entries + 1);
        assert_eq!(large.with_extended(true).map(L2Format::span_bytes), Some(256 << 30));
    }

    #[test]
    fn touched_subclusters_are_those_with_a_byte_in_the_range() {
        let l2 = L2Format::standard(ClusterBits::DEFAULT, Version::V3).with_extended(true).unwrap();
        for (from, to, expected) in [
            (0, 1, 1),
            (2047, 2048, 1),
            (2047, 2049, 3),
            (2048, 4096, 2),
            (65535, 65536, 1 << 31),
            (0, 65536, u32::MAX),
        ] {
            assert_eq!(l2.touched(from, to), expected, "{from}..{to}");
        }
        assert_eq!(L2Format::standard(ClusterBits::DEFAULT, Version::V3).touched(5, 6), 1);
    }
}
