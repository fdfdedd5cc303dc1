//! The table of internal snapshots.
//! ```text
//!  0          8        12      14        16       20        24           32         36          40
//!  +----------+--------+-------+---------+--------+---------+------------+----------+-----------+----------------
//!  | L1 at    | L1 len | id len| name len| date s | date ns | vm clock ns| vm state | extra len | extra  id  name
//!  +----------+--------+-------+---------+--------+---------+------------+----------+-----------+----------------
//!  extra: 40 vm state (64 bits) | 48 disk size | 56 icount          each entry is padded to a multiple of 8
//! ```
//! Invariants: the table is at most [`TABLE_BYTES_MAX`] long, an entry's extra data at most [`EXTRA_BYTES_MAX`]. Offsets
//! and lengths of the L1 tables are as stored: [`Snapshot::l1`] checks them. Extra data that this build does not know
//! comes out as it went in.
//! Not here: making, applying and deleting snapshots ([`super::driver`]); their clusters' counts ([`super::check`]).

use drystone_base::{Be, BeMut, HostOffset, Truncated};

use super::geometry::{ClusterBits, ENTRY_BYTES, HOST_END, L1_BYTES_MAX};
use super::header::{L1Table, SNAPSHOTS_MAX, Version};

/// Longest table in bytes: 1 KiB for each possible snapshot (the limit of release 10.0 of the C tool).
pub const TABLE_BYTES_MAX: u64 = SNAPSHOTS_MAX as u64 * 1024;
/// Most extra data of an entry in bytes (the limit of release 10.0 of the C tool).
pub const EXTRA_BYTES_MAX: u32 = 1024;

/// Spec "Snapshots": bytes of an entry before its variable parts.
const ENTRY_FIXED_BYTES: usize = 40;
/// Spec "Snapshots": extra data that entries of version 3 images must have.
const EXTRA_BYTES_V3: u32 = 16;
/// Spec "Snapshots": entries start at multiples of this many bytes.
const ENTRY_ALIGNMENT: usize = 8;
/// Spec "Snapshots": extra data that is defined.
const EXTRA_BYTES_KNOWN: usize = 24;
/// Spec "Snapshots": the instruction count of a machine that does not count them.
const NO_ICOUNT: u64 = u64::MAX;

/// An internal snapshot, as the table describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identifier, usually a number.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// When it was taken, in seconds since the Epoch.
    pub date_s: u32,
    /// The nanoseconds of that.
    pub date_ns: u32,
    /// How long the guest had been running, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Bytes of the machine's state that is stored with it; 0 if none is.
    pub vm_state_bytes: u64,
    /// Length of the disk in bytes when it was taken; `None` if the entry does not say.
    pub len_guest: Option<u64>,
    /// Instructions that the guest had executed; `None` if the entry does not say or they were not counted.
    pub icount: Option<u64>,
    /// Where its L1 table starts, as stored.
    pub l1_at: u64,
    /// Entries of its L1 table, as stored.
    pub l1_entries: u32,
    /// Bytes of extra data, as stored.
    pub extra_len_bytes: u32,
    /// Those of them that this build does not know, in the order of the entry.
    pub extra_unknown: Vec<u8>,
}

/// The snapshots of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshots {
    /// The snapshots, in the table's order.
    pub list: Vec<Snapshot>,
    /// Bytes of the table, from its start to the end of its last name.
    pub table_len_bytes: u64,
}

/// What can be saved of a table that breaks rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The snapshots that are left.
    pub snapshots: Snapshots,
    /// Entries whose extra data was too long: the number in the table, and how long it was. It is cut.
    pub extra_cut: Vec<(u32, u32)>,
    /// Snapshots at the end that had to go because the table is too long.
    pub discarded: u32,
}

/// What is wrong with the table of snapshots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes end inside of an entry.
    #[error("the snapshot table ends inside of entry {0}")]
    Truncated(u32),
    /// An entry has too much extra data.
    #[error(
        "entry {index} of the snapshot table has {len_bytes} bytes of extra data, {EXTRA_BYTES_MAX} are the most"
    )]
    Extra {
        /// Its number, counted from 0.
        index: u32,
        /// Bytes of extra data.
        len_bytes: u32,
    },
    /// The table is too long.
    #[error("the snapshot table is longer than {TABLE_BYTES_MAX} bytes")]
    TooLong,
}

/// What is wrong with the L1 table of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotL1Error {
    /// It does not start where a cluster starts, or past the largest offset.
    #[error("the offset {0:#x} of its L1 table is not valid")]
    Offset(u64),
    /// It is too long.
    #[error("its L1 table of {0} entries is too long")]
    Length(u32),
}

impl Snapshots {
    /// Parses the entries of `count` snapshots from the start of the table. What follows them in `bytes` is ignored.
    ///
    /// # Errors
    /// [`SnapshotError`]; [`SnapshotError::Truncated`] is also the answer to bytes that are only the start of the
    /// table: read more, up to [`TABLE_BYTES_MAX`], and parse again. Allocates at most the bytes given.
    pub fn parse(bytes: &[u8], count: u32) -> Result<Self, SnapshotError> {
        let mut table = Table::new(bytes);
        for index in 0..count {
            let parsed = table.entry(index, count)?;
            if let Some(len_bytes) = parsed.extra_cut {
                return Err(SnapshotError::Extra { index, len_bytes });
            }
            table.list.push(parsed.snapshot);
        }
        Ok(table.into_snapshots())
    }

    /// As [`Self::parse`], but for a repair: extra data that is too long is cut, and what is behind the longest table
    /// that is possible is left out.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`] if more bytes are needed.
    pub fn save(bytes: &[u8], count: u32) -> Result<Saved, SnapshotError> {
        let mut table = Table::new(bytes);
        let mut extra_cut = Vec::new();
        for index in 0..count {
            match table.entry(index, count) {
                Ok(parsed) => {
                    extra_cut.extend(parsed.extra_cut.map(|len_bytes| (index, len_bytes)));
                    table.list.push(parsed.snapshot);
                }
                Err(SnapshotError::Extra { len_bytes, .. })
                    if !table.is_all() && u64::from(len_bytes) <= TABLE_BYTES_MAX =>
                {
                    return Err(SnapshotError::Truncated(index));
                }
                Err(SnapshotError::Extra { len_bytes, .. }) => {
                    extra_cut.push((index, len_bytes));
                    let snapshots = table.into_snapshots();
                    return Ok(Saved { snapshots, extra_cut, discarded: count - index });
                }
                Err(SnapshotError::TooLong) => {
                    let snapshots = table.into_snapshots();
                    return Ok(Saved { snapshots, extra_cut, discarded: count - index });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Saved { snapshots: table.into_snapshots(), extra_cut, discarded: 0 })
    }

    /// The bytes of a table with these snapshots. Entries get all extra data that is defined; one that does not say how
    /// long the disk was gets `len_guest`.
    ///
    /// # Errors
    /// [`SnapshotError::TooLong`].
    pub fn encode(list: &[Snapshot], len_guest: u64) -> Result<Vec<u8>, SnapshotError> {
        let mut out = Vec::new();
        for snapshot in list {
            out.resize(out.len().next_multiple_of(ENTRY_ALIGNMENT), 0);
            snapshot.encode(&mut out, len_guest);
            if out.len() as u64 > TABLE_BYTES_MAX {
                return Err(SnapshotError::TooLong);
            }
        }
        Ok(out)
    }
}

/// A table on the way.
struct Table<'a> {
    whole: &'a [u8],
    be: Be<'a>,
    list: Vec<Snapshot>,
    /// Where the last entry that is kept ends.
    len_bytes: u64,
}

/// An entry, and how much extra data it had if that was too much.
struct Parsed {
    snapshot: Snapshot,
    extra_cut: Option<u32>,
}

impl<'a> Table<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { whole: bytes, be: Be(bytes), list: Vec::new(), len_bytes: 0 }
    }

    fn into_snapshots(self) -> Snapshots {
        Snapshots { list: self.list, table_len_bytes: self.len_bytes }
    }

    /// Whether there are more bytes than the longest table has.
    const fn is_all(&self) -> bool {
        self.whole.len() as u64 > TABLE_BYTES_MAX
    }

    /// The next entry, of `count`.
    fn entry(&mut self, index: u32, count: u32) -> Result<Parsed, SnapshotError> {
        let is_all = self.is_all();
        let truncated = |index| if is_all { SnapshotError::TooLong } else { SnapshotError::Truncated(index) };
        let start = self.be.len();
        let parsed = parse_entry(&mut self.be).map_err(|error| match error {
            EntryError::Extra(len_bytes) => SnapshotError::Extra { index, len_bytes },
            EntryError::Truncated => truncated(index),
        })?;
        let end = (self.whole.len() - self.be.len()) as u64;
        if end > TABLE_BYTES_MAX {
            return Err(SnapshotError::TooLong);
        }
        let len = start - self.be.len();
        // The padding behind the last entry may be missing.
        let padding = len.next_multiple_of(ENTRY_ALIGNMENT) - len;
        if self.be.take(padding).is_err() && index + 1 < count {
            return Err(truncated(index + 1));
        }
        self.len_bytes = end;
        Ok(parsed)
    }
}

impl Snapshot {
    /// Where its L1 table is.
    ///
    /// # Errors
    /// [`SnapshotL1Error`] if it cannot be there.
    pub fn l1(&self, cluster: ClusterBits) -> Result<L1Table, SnapshotL1Error> {
        let len_bytes = u64::from(self.l1_entries) * ENTRY_BYTES;
        if len_bytes > L1_BYTES_MAX {
            return Err(SnapshotL1Error::Length(self.l1_entries));
        }
        let error = SnapshotL1Error::Offset(self.l1_at);
        if self.l1_at & (cluster.bytes() - 1) != 0 {
            return Err(error);
        }
        // Where a table without entries starts means nothing.
        let at = if len_bytes == 0 { 0 } else { self.l1_at };
        let at = HostOffset::checked(at).filter(|at| at.get() <= HOST_END - len_bytes).ok_or(error)?;
        Ok(L1Table { at, entries: self.l1_entries })
    }

    /// Whether the entry lacks what the version of the image demands: the disk's length, from version 3 on.
    #[must_use]
    pub const fn is_incomplete(&self, version: Version) -> bool {
        matches!(version, Version::V3) && self.extra_len_bytes < EXTRA_BYTES_V3
    }

    fn encode(&self, out: &mut Vec<u8>, len_guest: u64) {
        // Names were stored, or checked against this limit, before.
        let len_16 = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let extra_len = EXTRA_BYTES_KNOWN + self.extra_unknown.len();
        BeMut(out)
            .u64(self.l1_at)
            .u32(self.l1_entries)
            .u16(len_16(&self.id))
            .u16(len_16(&self.name))
            .u32(self.date_s)
            .u32(self.date_ns)
            .u64(self.vm_clock_ns)
            .u32(u32::try_from(self.vm_state_bytes).unwrap_or(0))
            .u32(u32::try_from(extra_len).unwrap_or(u32::MAX))
            .u64(self.vm_state_bytes)
            .u64(self.len_guest.unwrap_or(len_guest))
            .u64(self.icount.unwrap_or(NO_ICOUNT))
            .bytes(&self.extra_unknown)
            .bytes(self.id.get(..len_16(&self.id).into()).unwrap_or_default())
            .bytes(self.name.get(..len_16(&self.name).into()).unwrap_or_default());
    }
}

enum EntryError {
    Truncated,
    Extra(u32),
}

impl From<Truncated> for EntryError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

fn parse_entry(be: &mut Be<'_>) -> Result<Parsed, EntryError> {
    let mut fixed = Be(be.take(ENTRY_FIXED_BYTES)?);
    let (l1_at, l1_entries) = (fixed.u64()?, fixed.u32()?);
    let (id_len, name_len) = (fixed.u16()?, fixed.u16()?);
    let (date_s, date_ns, vm_clock_ns) = (fixed.u32()?, fixed.u32()?, fixed.u64()?);
    let (vm_state_bytes_32, extra_len_bytes) = (fixed.u32()?, fixed.u32()?);
    let too_much = (extra_len_bytes > EXTRA_BYTES_MAX).then_some(extra_len_bytes);
    let missing = || too_much.map_or(EntryError::Truncated, EntryError::Extra);
    let extra_len = usize::try_from(extra_len_bytes).map_err(|_| missing())?;
    let mut extra = Be(be.take(extra_len).map_err(|_| missing())?);
    // A field is there if all of it is.
    let (vm_state_bytes, len_guest, icount) = (extra.u64().ok(), extra.u64().ok(), extra.u64().ok());
    let unknown_max = EXTRA_BYTES_MAX as usize - EXTRA_BYTES_KNOWN;
    let snapshot = Snapshot {
        id: be.take(usize::from(id_len))?.to_vec(),
        name: be.take(usize::from(name_len))?.to_vec(),
        date_s,
        date_ns,
        vm_clock_ns,
        vm_state_bytes: vm_state_bytes.unwrap_or_else(|| vm_state_bytes_32.into()),
        len_guest,
        icount: icount.filter(|&icount| icount != NO_ICOUNT),
        l1_at,
        l1_entries,
        extra_len_bytes,
        extra_unknown: match icount {
            Some(_) => extra.0.get(..unknown_max).unwrap_or(extra.0).to_vec(),
            None => Vec::new(),
        },
    };
    Ok(Parsed { snapshot, extra_cut: too_much })
}

#[cfg(test)]
mod tests {
    use drystone_base::BeMut;

    use super::*;

    fn entry(id: &str, name: &str, extra: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        BeMut(&mut out)
            .u64(0xc000)
            .u32(1)
            .u16(u16::try_from(id.len()).unwrap())
            .u16(u16::try_from(name.len()).unwrap());
        BeMut(&mut out)
            .u32(1_800_000_000)
            .u32(999)
            .u64(60_000_000_000)
            .u32(77)
            .u32(u32::try_from(extra.len()).unwrap());
        BeMut(&mut out).bytes(extra).bytes(id.as_bytes()).bytes(name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    fn extra(fields: &[u64]) -> Vec<u8> {
        fields.iter().flat_map(|field| field.to_be_bytes()).collect()
    }

    #[test]
    fn entries_of_any_length_follow_each_other() {
        let table = [
            entry("1", "first", &[]),
            entry("22", "", &extra(&[5, 1 << 20, u64::MAX])),
            entry("3", "x", &extra(&[0, 9, 7])),
        ];
        let snapshots = Snapshots::parse(&table.concat(), 3).unwrap();
        let [first, second, third] = &snapshots.list[..] else { panic!() };
        assert_eq!((&first.name[..], first.vm_state_bytes, first.len_guest), (&b"first"[..], 77, None));
        assert_eq!((&second.id[..], second.vm_state_bytes, second.len_guest), (&b"22"[..], 5, Some(1 << 20)));
        assert_eq!((second.icount, third.icount), (None, Some(7)));
        assert!(first.is_incomplete(Version::V3) && !first.is_incomplete(Version::V2));
        assert!(!second.is_incomplete(Version::V3));
        assert_eq!(snapshots.table_len_bytes, 48 + 72 + 66);
    }

    #[test]
    fn every_truncation_says_which_entry_is_missing() {
        let table = [entry("1", "first", &[]), entry("2", "name", &extra(&[0, 0]))].concat();
        let whole = 40 + 16 + 5 + entry("1", "first", &[]).len();
        for len in 0..whole {
            let index = u32::from(len >= 40 + 1 + 5);
            assert_eq!(Snapshots::parse(&table[..len], 2), Err(SnapshotError::Truncated(index)), "{len}");
        }
        assert!(Snapshots::parse(&table[..whole], 2).is_ok(), "the last padding may be missing");
    }

    #[test]
    fn too_much_extra_data_is_refused_before_it_is_read() {
        let mut table = entry("1", "x", &[]);
        table[36..40].copy_from_slice(&1025u32.to_be_bytes());
        assert_eq!(Snapshots::parse(&table, 1), Err(SnapshotError::Extra { index: 0, len_bytes: 1025 }));
        table[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(Snapshots::parse(&table, 1), Err(SnapshotError::Extra { .. })));
    }

    #[test]
    fn the_l1_table_of_a_snapshot_is_checked_when_it_is_asked_for() {
        let cluster = ClusterBits::DEFAULT;
        let mut snapshot = Snapshots::parse(&entry("1", "x", &[]), 1).unwrap().list.remove(0);
        assert_eq!(snapshot.l1(cluster), Err(SnapshotL1Error::Offset(0xc000)));
        snapshot.l1_at = 0x30000;
        assert_eq!(snapshot.l1(cluster), Ok(L1Table { at: HostOffset::new(0x30000), entries: 1 }));
        snapshot.l1_entries = (4 << 20) + 1;
        assert_eq!(snapshot.l1(cluster), Err(SnapshotL1Error::Length((4 << 20) + 1)));
        (snapshot.l1_entries, snapshot.l1_at) = (1, u64::MAX << 16);
        assert!(snapshot.l1(cluster).is_err());
    }
}
