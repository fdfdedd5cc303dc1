//! Entries of L1 and L2 tables.
//! ```text
//!            63      62       61 .. 56    55 .. 9                      8 .. 1     0
//!  L1        copied  - reserved -         offset of an L2 table        - reserved -
//!  L2        copied  0        reserved    offset of a data cluster     reserved   reads as zeroes (version 3)
//!  L2        0       1        | further sectors | offset of compressed bytes ...                             |
//!                                               x = 62 - (cluster_bits - 8)
//! ```
//! "Copied" means: the count of what is pointed to is exactly one, so it may be written in place.
//!
//! An extended entry has a bitmap behind that, which says what each subcluster is ([`Mixed`], [`super::l2`]).
//!
//! Invariants: a decoded offset is aligned as its kind demands and lies below 2^56; an entry that breaks a rule is an
//! [`EntryFault`], to which [`EntryFault::at`] adds where it was found. The consistency check alone looks past faults.
//! Not here: whether an offset lies inside of the file (the reader of the table).

mod mixed;

pub use mixed::{Mixed, Part};

use drystone_base::HostOffset;

use super::geometry::{ClusterBits, HOST_END};
use super::header::Version;
use super::l2::L2Format;

/// Spec "Cluster mapping": what is pointed to has a count of exactly one.
const COPIED: u64 = 1 << 63;
/// Spec "Cluster mapping": the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Spec "Cluster mapping": the cluster reads as zeroes.
const ZERO: u64 = 1;
/// Spec "Cluster mapping": bits 9-55 are an offset.
const OFFSET: u64 = (HOST_END - 1) & !0x1ff;
/// Compressed clusters are stored in sectors of this many bytes (spec "Cluster mapping").
const SECTOR_BYTES: u64 = 512;

/// Which table an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// An L1 table: entries point to L2 tables.
    L1,
    /// An L2 table: entries point to data.
    L2,
}

/// An entry of an L2 table as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawEntry {
    /// What any entry has.
    pub descriptor: u64,
    /// What each subcluster is; 0 unless entries are extended.
    pub bitmap: u64,
}

impl RawEntry {
    /// An entry that is not extended.
    #[must_use]
    pub const fn standard(descriptor: u64) -> Self {
        Self { descriptor, bitmap: 0 }
    }

    /// Whether it says nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.descriptor == 0 && self.bitmap == 0
    }
}

/// A place in the file that a table entry owns or shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Allocated {
    /// Where the cluster starts.
    pub at: HostOffset,
    /// Its count is exactly one: it may be written in place.
    pub copied: bool,
}

/// What an L2 entry says about a guest cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum L2Entry {
    /// Nothing: the cluster reads as the backing file does, or as zeroes.
    Unallocated,
    /// The cluster reads as zeroes; a cluster may be set aside for it.
    Zero(Option<Allocated>),
    /// The cluster's bytes are in the file.
    Data(Allocated),
    /// The cluster's bytes are in the file, compressed.
    Compressed(Compressed),
    /// The cluster's subclusters differ, or a cluster is set aside and no subcluster says anything.
    Mixed(Mixed),
}

/// Where the bytes of a compressed cluster are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compressed {
    /// The first byte; aligned to nothing.
    pub at: HostOffset,
    /// How many bytes to the end of the last sector; the compressed stream may end before. 1 byte to 4 MiB.
    pub stored_bytes: u32,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// Bits that must be zero are not.
    #[error("reserved bits {0:#x} are set")]
    Reserved(u64),
    /// The offset is not where a cluster starts.
    #[error("offset {0} is not the start of a cluster")]
    Misaligned(HostOffset),
    /// A compressed cluster claims to be writable in place.
    #[error("a compressed cluster is marked as writable in place")]
    CopiedCompressed,
    /// Subclusters that have data and read as zeroes, or have data in no cluster, or a bitmap of a compressed cluster.
    #[error("the bitmap of subclusters {0:#018x} contradicts itself or the entry")]
    Subclusters(u64),
    /// In a data file, a cluster is not where the guest has it.
    #[error("a cluster of a data file is at {0} instead of at its place on the disk")]
    Elsewhere(HostOffset),
    /// A compressed cluster where data is in a file of its own.
    #[error("a compressed cluster, but the data has a file of its own")]
    CompressedApart,
    /// Compressed bytes past the largest offset.
    #[error("offset {0} of compressed data is past the largest offset")]
    OutOfRange(HostOffset),
}

/// An entry that breaks a rule, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{table:?} table at {at}, entry {index} ({raw:#018x}): {fault}")]
pub struct EntryError {
    /// Which kind of table.
    pub table: Table,
    /// Where the table starts.
    pub at: HostOffset,
    /// Index of the entry.
    pub index: u64,
    /// The entry.
    pub raw: u64,
    /// What is wrong.
    pub fault: EntryFault,
}

impl EntryFault {
    /// Adds where the entry `raw` was found.
    #[must_use]
    pub const fn at(self, table: Table, at: HostOffset, index: u64, raw: u64) -> EntryError {
        EntryError { table, at, index, raw, fault: self }
    }
}

/// What an L1 entry points to: an L2 table, or `None` if none of its clusters is allocated.
///
/// # Errors
/// [`EntryFault`] if the entry breaks a rule of spec "Cluster mapping".
pub fn parse_l1(raw: u64, cluster: ClusterBits) -> Result<Option<Allocated>, EntryFault> {
    let table = l1_shape(raw);
    match (l1_reserved(raw), table) {
        (0, Some(table)) if !cluster.is_aligned(table.at) => Err(EntryFault::Misaligned(table.at)),
        (0, table) => Ok(table),
        (reserved, _) => Err(EntryFault::Reserved(reserved)),
    }
}

/// The L1 entry that points to an L2 table.
#[must_use]
pub const fn encode_l1(table: Option<Allocated>) -> u64 {
    match table {
        None => 0,
        Some(table) => encode_allocated(table),
    }
}

/// What an L1 entry points to, reserved bits and alignment ignored.
pub(super) const fn l1_shape(raw: u64) -> Option<Allocated> {
    allocated(raw)
}

/// The entry, of any table, that says whether what it points to may be written in place.
pub(super) const fn with_copied(raw: u64, copied: bool) -> u64 {
    if copied { raw | COPIED } else { raw & !COPIED }
}

/// The reserved bits that an L1 entry has set.
pub(super) const fn l1_reserved(raw: u64) -> u64 {
    raw & !(OFFSET | COPIED)
}

impl L2Entry {
    /// What an L2 entry says.
    ///
    /// # Errors
    /// [`EntryFault`] if the entry breaks a rule of spec "Cluster mapping". In version 2, where clusters that read as
    /// zeroes do not exist, bit 0 is reserved; with extended entries it means nothing. The bitmap of a compressed cluster
    /// is not looked at.
    pub fn parse(raw: RawEntry, l2: L2Format) -> Result<Self, EntryFault> {
        match Self::fault(raw, l2) {
            Some(fault) => Err(fault),
            None => Ok(Self::shape(raw, l2)),
        }
    }

    /// The cluster of data that a descriptor says without a fault, if it says that: what most entries say, in few
    /// instructions. Of an extended entry, the bitmap says what of it has data.
    #[inline]
    pub(super) const fn plain_data(descriptor: u64, cluster: ClusterBits) -> Option<Allocated> {
        let offset = OFFSET & !(cluster.bytes() - 1);
        if descriptor & !(COPIED | offset) == 0 { allocated(descriptor) } else { None }
    }

    /// The number that says it.
    ///
    /// # Panics
    /// If the entry is one that no image of this format can hold: compressed data too far or too long, or subclusters that
    /// differ where there are none. [`Compressed::checked`], [`Mixed::entry`] and [`Self::parse`] make none.
    #[must_use]
    pub fn encode(self, l2: L2Format) -> RawEntry {
        let all = l2.all_subclusters();
        let (data, zero) = match self {
            Self::Compressed(stored) => return RawEntry::standard(stored.encode(l2.cluster())),
            Self::Unallocated => (0, 0),
            Self::Zero(_) => (0, all),
            Self::Data(_) => (all, 0),
            Self::Mixed(mixed) => (mixed.data, mixed.zero),
        };
        let place = self.place().map_or(0, encode_allocated);
        if l2.is_extended() {
            return RawEntry { descriptor: place, bitmap: (u64::from(zero) << 32) | u64::from(data) };
        }
        assert!(!matches!(self, Self::Mixed(_)), "a cluster without subclusters is of one kind");
        RawEntry::standard(place | (u64::from(zero) * ZERO))
    }

    /// The cluster that the entry owns or shares, unless it is compressed.
    #[must_use]
    pub const fn place(self) -> Option<Allocated> {
        match self {
            Self::Unallocated | Self::Compressed(_) => None,
            Self::Zero(place) => place,
            Self::Data(place) => Some(place),
            Self::Mixed(mixed) => mixed.place,
        }
    }

    /// What the entry would be if it broke no rule. Its offsets are not checked.
    pub(super) fn shape(raw: RawEntry, l2: L2Format) -> Self {
        let descriptor = raw.descriptor;
        if descriptor & COMPRESSED != 0 {
            return Self::Compressed(Compressed::shape(descriptor, l2.cluster()));
        }
        let place = place_of(descriptor, l2);
        if l2.is_extended() {
            return Mixed::of_bitmap(place, raw.bitmap).entry(l2);
        }
        match (descriptor & ZERO != 0, place) {
            (true, place) => Self::Zero(place),
            (false, Some(place)) => Self::Data(place),
            (false, None) => Self::Unallocated,
        }
    }

    /// The cluster of the image that an entry with this descriptor refers to, whatever its bitmap says.
    pub(super) const fn counted_place(descriptor: u64, l2: L2Format) -> Option<Allocated> {
        if descriptor & COMPRESSED != 0 || l2.has_data_file() {
            return None;
        }
        allocated(descriptor)
    }

    /// The first rule that the entry breaks.
    pub(super) fn fault(raw: RawEntry, l2: L2Format) -> Option<EntryFault> {
        if raw.descriptor & COMPRESSED != 0 && l2.has_data_file() {
            return Some(EntryFault::CompressedApart);
        }
        if raw.descriptor & COMPRESSED != 0 {
            return Compressed::fault(raw.descriptor, l2.cluster());
        }
        if let reserved @ 1.. = Self::reserved(raw.descriptor, l2.version()) {
            return Some(EntryFault::Reserved(reserved));
        }
        match place_of(raw.descriptor, l2) {
            Some(place) if !l2.cluster().is_aligned(place.at) => Some(EntryFault::Misaligned(place.at)),
            _ => Self::bitmap_fault(raw, l2),
        }
    }

    /// What is wrong with the bitmap of an extended entry.
    pub(super) fn bitmap_fault(raw: RawEntry, l2: L2Format) -> Option<EntryFault> {
        if !l2.is_extended() {
            return None;
        }
        let Mixed { place, data, zero } = Mixed::of_bitmap(place_of(raw.descriptor, l2), raw.bitmap);
        let is_compressed = raw.descriptor & COMPRESSED != 0;
        let is_wrong = match place {
            _ if is_compressed => raw.bitmap != 0,
            Some(_) => data & zero != 0,
            None => data != 0,
        };
        is_wrong.then_some(EntryFault::Subclusters(raw.bitmap))
    }

    /// The reserved bits that the entry of a cluster which is not compressed has set.
    pub(super) const fn reserved(descriptor: u64, version: Version) -> u64 {
        match version {
            Version::V2 => descriptor & !(OFFSET | COPIED),
            Version::V3 => descriptor & !(OFFSET | COPIED | ZERO),
        }
    }
}

impl Compressed {
    /// Compressed bytes `at .. at + len_bytes`, or `None` if an entry of this cluster size cannot say that.
    #[must_use]
    pub fn checked(at: HostOffset, len_bytes: u64, cluster: ClusterBits) -> Option<Self> {
        let last = at.get().checked_add(len_bytes.checked_sub(1)?)?;
        let further = last / SECTOR_BYTES - at.get() / SECTOR_BYTES;
        if at.get() >= HOST_END.min(1 << sectors_shift(cluster)) || further > sectors_max(cluster) {
            return None;
        }
        Some(Self { at, stored_bytes: stored_bytes(at, further) })
    }

    fn encode(self, cluster: ClusterBits) -> u64 {
        let shift = sectors_shift(cluster);
        let last = self.at.get() + u64::from(self.stored_bytes) - 1;
        let further = last / SECTOR_BYTES - self.at.get() / SECTOR_BYTES;
        assert!(self.at.get() >> shift == 0, "compressed data past what an entry can say");
        assert!(further <= sectors_max(cluster), "compressed data longer than an entry can say");
        COMPRESSED | further << shift | self.at.get()
    }

    fn shape(raw: u64, cluster: ClusterBits) -> Self {
        let shift = sectors_shift(cluster);
        let at = HostOffset::new(raw & ((1 << shift) - 1));
        Self { at, stored_bytes: stored_bytes(at, raw >> shift & sectors_max(cluster)) }
    }

    fn fault(raw: u64, cluster: ClusterBits) -> Option<EntryFault> {
        let at = Self::shape(raw, cluster).at;
        if raw & COPIED != 0 {
            return Some(EntryFault::CopiedCompressed);
        }
        (at.get() >= HOST_END).then_some(EntryFault::OutOfRange(at))
    }
}

/// Spec "Compressed Clusters Descriptor": the bit where the number of further sectors starts, 61 to 49.
const fn sectors_shift(cluster: ClusterBits) -> u32 {
    62 - (cluster.bits() - 8)
}

/// The largest number of further sectors: 1 to 8191.
const fn sectors_max(cluster: ClusterBits) -> u64 {
    (1 << (cluster.bits() - 8)) - 1
}

#[expect(clippy::cast_possible_truncation, reason = "at most 8192 sectors")]
const fn stored_bytes(at: HostOffset, further: u64) -> u32 {
    ((further + 1) * SECTOR_BYTES - at.get() % SECTOR_BYTES) as u32
}

const fn allocated(raw: u64) -> Option<Allocated> {
    match raw & OFFSET {
        0 => None,
        at => Some(Allocated { at: HostOffset::new(at), copied: raw & COPIED != 0 }),
    }
}

/// The place that an L2 entry says. In a file of data only, offset 0 is a place like others.
const fn place_of(descriptor: u64, l2: L2Format) -> Option<Allocated> {
    let is_first = l2.has_data_file() && descriptor & (OFFSET | COPIED) == COPIED;
    if is_first { Some(Allocated { at: HostOffset::ZERO, copied: true }) } else { allocated(descriptor) }
}

const fn encode_allocated(to: Allocated) -> u64 {
    let at = to.at.get();
    assert!(at != 0 || to.copied, "offset 0 is the header, unless the data has a file of its own");
    assert!(at & !OFFSET == 0, "an offset that no entry can say");
    at | if to.copied { COPIED } else { 0 }
}

#[cfg(test)]
#[path = "entry/tests.rs"]
mod tests;
