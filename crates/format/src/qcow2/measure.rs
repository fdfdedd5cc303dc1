//! How long the file of an image becomes, before there is one.
//! ```text
//!  header | refcount table | refcount blocks | L1 table | L2 tables | data clusters        | bitmaps
//!  '------------------ fully allocated: for every cluster of the disk ------------------'  on top of it
//! ```
//! The tables are those of a disk that is written all over, so what is measured for less data is an upper bound.
//!
//! Not here: what a disk holds; options that an image cannot have ([`super::create`]).

use drystone_base::LEN_MAX;

use super::geometry::{ClusterBits, ENTRY_BYTES, L1_BYTES_MAX};
use super::refcount::RefcountWidth;

/// The length of a disk is a multiple of this many bytes.
const SECTOR_BYTES: u64 = 512;
/// Spec "Extended L2 Entries": bytes of an entry.
const EXTENDED_ENTRY_BYTES: u64 = 16;
/// Spec "Bitmap directory": bytes of an entry before its name, and what its length is a multiple of.
const DIRECTORY_ENTRY_BYTES: u64 = 24;
const DIRECTORY_ALIGN_BYTES: u64 = 8;

/// What decides how much room tables take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Cluster size.
    pub cluster: ClusterBits,
    /// Width of counts.
    pub width: RefcountWidth,
    /// Subclusters.
    pub extended_l2: bool,
}

impl Shape {
    /// Bytes of a disk of `len_guest` bytes that lie in whole clusters; `None` past the largest disk.
    #[must_use]
    pub fn len_rounded(self, len_guest: u64) -> Option<u64> {
        let sectors = len_guest.checked_next_multiple_of(SECTOR_BYTES).filter(|len| *len <= LEN_MAX)?;
        sectors.checked_next_multiple_of(self.cluster.bytes())
    }

    /// Bytes of everything but data, for a disk of `len_guest` bytes that is written all over. `None` if the disk is too
    /// large for clusters of this size.
    #[must_use]
    pub fn metadata_bytes(self, len_guest: u64) -> Option<u64> {
        let len = self.len_rounded(len_guest)?;
        let cluster = self.cluster;
        let entry_bytes = if self.extended_l2 { EXTENDED_ENTRY_BYTES } else { ENTRY_BYTES };
        let data_clusters = cluster.clusters(len);
        let l2_tables = data_clusters.div_ceil(cluster.bytes() / entry_bytes);
        let l1_bytes = l2_tables * ENTRY_BYTES;
        if l1_bytes > L1_BYTES_MAX {
            return None;
        }
        let counted = 1 + cluster.clusters(l1_bytes) + l2_tables + data_clusters;
        Some((counted - data_clusters + self.refcount_clusters(counted)) * cluster.bytes())
    }

    /// Clusters of refcount blocks and their table, which count `others` clusters and themselves.
    fn refcount_clusters(self, others: u64) -> u64 {
        let (mut blocks, mut tables) = (1, 1);
        // A block counts at least 64 clusters: a few rounds do.
        loop {
            let needed = (others + blocks + tables).div_ceil(self.width.per_block(self.cluster) as u64);
            let table = self.cluster.clusters(needed * ENTRY_BYTES);
            if (needed, table) == (blocks, tables) {
                return blocks + tables;
            }
            (blocks, tables) = (needed, table);
        }
    }

    /// Bytes that bitmaps of a disk of `len_guest` bytes take, given by the lengths of their names in bytes and their
    /// granularities as powers of two.
    #[must_use]
    pub fn bitmaps_bytes(self, len_guest: u64, bitmaps: impl IntoIterator<Item = (u64, u8)>) -> u64 {
        let (mut clusters, mut directory_bytes) = (0, 0);
        for (name_bytes, granularity_bits) in bitmaps {
            let bits = len_guest.div_ceil(1 << granularity_bits.min(63));
            let data = self.cluster.clusters(bits.div_ceil(8));
            clusters += data + self.cluster.clusters(data * ENTRY_BYTES);
            directory_bytes += (DIRECTORY_ENTRY_BYTES + name_bytes).next_multiple_of(DIRECTORY_ALIGN_BYTES);
        }
        (clusters + self.cluster.clusters(directory_bytes)) * self.cluster.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(cluster_bytes: u64, refcount_bits: u64, extended_l2: bool) -> Shape {
        let cluster = ClusterBits::from_bytes(cluster_bytes).unwrap();
        Shape { cluster, width: RefcountWidth::from_bits(refcount_bits).unwrap(), extended_l2 }
    }

    #[track_caller]
    fn check(shape: Shape, len: u64, required: u64, full: u64) {
        let metadata = shape.metadata_bytes(len).unwrap();
        assert_eq!(
            (metadata, metadata + shape.len_rounded(len).unwrap()),
            (required, full),
            "{shape:?} {len}"
        );
    }

    /// As measured by release 10.0 of the C tool.
    #[test]
    fn lengths_are_those_of_the_c_tool() {
        const G: u64 = 1 << 30;
        check(shape(65536, 16, false), 0, 196_608, 196_608);
        check(shape(65536, 16, false), 1, 327_680, 393_216);
        check(shape(65536, 16, false), G, 393_216, 1_074_135_040);
        check(shape(65536, 16, false), 10 * G, 1_900_544, 10_739_318_784);
        check(shape(65536, 16, false), 1 << 40, 168_034_304, 1_099_679_662_080);
        check(shape(512, 16, false), 1_048_576, 22_528, 1_071_104);
        check(shape(512, 16, false), 10_000_000, 200_704, 10_201_088);
        check(shape(512, 16, false), 5_368_709_120, 106_920_960, 5_475_630_080);
        check(shape(512, 16, false), 64_424_509_440, 1_283_042_816, 65_707_552_256);
        check(shape(512, 1, false), 1_048_576, 18_432, 1_067_008);
        check(shape(512, 1, false), 10_000_000, 162_816, 10_163_200);
        check(shape(512, 1, false), 5_368_709_120, 86_550_528, 5_455_259_648);
        check(shape(512, 1, false), 64_424_509_440, 1_038_594_560, 65_463_104_000);
        check(shape(512, 64, false), 1_048_576, 35_328, 1_083_904);
        check(shape(512, 64, false), 10_000_000, 324_096, 10_324_480);
        check(shape(512, 64, false), 5_368_709_120, 173_142_016, 5_541_851_136);
        check(shape(512, 64, false), 64_424_509_440, 2_077_695_488, 66_502_204_928);
        check(shape(4096, 16, false), 1_048_576, 20_480, 1_069_056);
        check(shape(4096, 16, false), 10_000_000, 40_960, 10_043_392);
        check(shape(4096, 16, false), 5_368_709_120, 13_148_160, 5_381_857_280);
        check(shape(4096, 16, false), 107_374_182_400, 262_795_264, 107_636_977_664);
        check(shape(4096, 1, false), 1_048_576, 20_480, 1_069_056);
        check(shape(4096, 1, false), 10_000_000, 36_864, 10_039_296);
        check(shape(4096, 1, false), 5_368_709_120, 10_682_368, 5_379_391_488);
        check(shape(4096, 1, false), 107_374_182_400, 213_422_080, 107_587_604_480);
        check(shape(4096, 64, false), 1_048_576, 20_480, 1_069_056);
        check(shape(4096, 64, false), 10_000_000, 53_248, 10_055_680);
        check(shape(4096, 64, false), 5_368_709_120, 21_065_728, 5_389_774_848);
        check(shape(4096, 64, false), 107_374_182_400, 421_081_088, 107_795_263_488);
        check(shape(65_536, 1, false), 1_048_576, 327_680, 1_376_256);
        check(shape(65_536, 1, false), 10_000_000, 327_680, 10_354_688);
        check(shape(65_536, 1, false), 5_368_709_120, 917_504, 5_369_626_624);
        check(shape(65_536, 1, false), 107_374_182_400, 13_565_952, 107_387_748_352);
        check(shape(65_536, 64, false), 1_048_576, 327_680, 1_376_256);
        check(shape(65_536, 64, false), 10_000_000, 327_680, 10_354_688);
        check(shape(65_536, 64, false), 5_368_709_120, 1_572_864, 5_370_281_984);
        check(shape(65_536, 64, false), 107_374_182_400, 26_476_544, 107_400_658_944);
        check(shape(2_097_152, 16, false), 1_048_576, 10_485_760, 12_582_912);
        check(shape(2_097_152, 16, false), 10_000_000, 10_485_760, 20_971_520);
        check(shape(2_097_152, 16, false), 5_368_709_120, 10_485_760, 5_379_194_880);
        check(shape(2_097_152, 16, false), 107_374_182_400, 10_485_760, 107_384_668_160);
        check(shape(2_097_152, 1, false), 1_048_576, 10_485_760, 12_582_912);
        check(shape(2_097_152, 1, false), 10_000_000, 10_485_760, 20_971_520);
        check(shape(2_097_152, 1, false), 5_368_709_120, 10_485_760, 5_379_194_880);
        check(shape(2_097_152, 1, false), 107_374_182_400, 10_485_760, 107_384_668_160);
        check(shape(2_097_152, 64, false), 1_048_576, 10_485_760, 12_582_912);
        check(shape(2_097_152, 64, false), 10_000_000, 10_485_760, 20_971_520);
        check(shape(2_097_152, 64, false), 5_368_709_120, 10_485_760, 5_379_194_880);
        check(shape(2_097_152, 64, false), 107_374_182_400, 10_485_760, 107_384_668_160);
        check(shape(16_384, 16, true), 1_048_576, 81_920, 1_130_496);
        check(shape(16_384, 16, true), 5_368_709_120, 5_963_776, 5_374_672_896);
        check(shape(16_384, 16, true), 107_374_182_400, 118_079_488, 107_492_261_888);
        check(shape(16_384, 16, true), 3_298_534_883_328, 3_626_139_648, 3_302_161_022_976);
    }

    #[test]
    fn disks_too_large_for_their_clusters_have_no_length() {
        assert_eq!(shape(65536, 16, false).metadata_bytes(1 << 60), None);
        assert_eq!(shape(512, 16, false).metadata_bytes(129 << 30), None);
        assert_eq!(shape(2 << 20, 64, false).metadata_bytes(u64::MAX), None);
        assert!(shape(65536, 16, false).metadata_bytes(2 << 50).is_some());
    }

    #[test]
    fn bitmaps_take_data_a_table_each_and_a_directory() {
        let large = shape(65536, 16, false);
        assert_eq!(large.bitmaps_bytes(1 << 20, []), 0);
        assert_eq!(large.bitmaps_bytes(1 << 20, [(2, 16)]), 196_608);
        assert_eq!(large.bitmaps_bytes(1 << 20, [(2, 16), (2, 9)]), 327_680);
        assert_eq!(shape(512, 16, false).bitmaps_bytes(1 << 20, [(2, 16), (2, 9)]), 2560);
    }
}
