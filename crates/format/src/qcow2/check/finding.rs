//! What a check can find.
//!
//! Invariant: a finding says what is wrong and where in one sentence; how often it counts is the outcome's business.

use std::fmt;

use drystone_base::HostOffset;

use crate::qcow2::bitmap::BitmapError;
use crate::qcow2::entry::{EntryError, EntryFault};
use crate::qcow2::geometry::HostCluster;
use crate::qcow2::refcount::TableEntryError;
use crate::qcow2::snapshot::SnapshotL1Error;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Data is or may get lost.
    Corruption,
    /// Space is wasted.
    Leak,
    /// Something could not be checked.
    CheckError,
}

/// What refers to clusters, or is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Structure {
    /// The header.
    Header,
    /// The active L1 table.
    ActiveL1,
    /// The L1 table of a snapshot.
    SnapshotL1,
    /// An L2 table.
    L2,
    /// A data cluster.
    Data,
    /// A compressed data cluster.
    Compressed,
    /// The table of snapshots.
    SnapshotTable,
    /// The refcount table.
    RefcountTable,
    /// A refcount block.
    RefcountBlock,
    /// The directory of bitmaps.
    BitmapDirectory,
    /// The table of a bitmap.
    BitmapTable,
    /// A cluster of a bitmap.
    BitmapData,
    /// The header of the encryption method.
    EncryptionHeader,
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Something lies outside of the file, by a cluster or more.
    OutsideOfFile {
        /// What it is.
        what: Structure,
        /// Where it should start.
        at: HostOffset,
        /// Its length in bytes.
        len_bytes: u64,
    },
    /// A cluster has more references than the image's refcounts can say.
    TooManyReferences {
        /// The cluster.
        cluster: HostCluster,
    },
    /// An entry of an L1 or L2 table breaks a rule.
    Entry(EntryError),
    /// An L1 entry is not zero, but its offset is.
    EntryWithoutTable {
        /// Where the L1 table starts.
        at: HostOffset,
        /// Index of the entry.
        index: u64,
        /// The entry.
        raw: u64,
    },
    /// References say that they are the only one, but the cluster's count is not one.
    NotTheOnlyReference {
        /// The cluster.
        cluster: HostCluster,
        /// Its count.
        stored: u64,
        /// How many references say so.
        times: u64,
    },
    /// References do not say that they are the only one, but the cluster's count is one.
    OnlyReference {
        /// The cluster.
        cluster: HostCluster,
        /// How many references do not say so.
        times: u64,
    },
    /// A cluster has another number of references than its count.
    Count {
        /// The cluster.
        cluster: HostCluster,
        /// Its count.
        stored: u64,
        /// Its references.
        references: u64,
    },
    /// An entry of the refcount table breaks a rule.
    RefcountTable(TableEntryError),
    /// A refcount block lies outside of the file.
    RefcountBlockOutside {
        /// Index of its entry in the refcount table.
        index: u64,
        /// Where it should start.
        at: u64,
    },
    /// A refcount block is used for something else as well.
    RefcountBlockShared {
        /// Index of its entry in the refcount table.
        index: u64,
        /// References to its cluster.
        references: u64,
    },
    /// The entry of a snapshot lacks fields that the image's version demands.
    SnapshotIncomplete {
        /// Its number in the table, counted from 0.
        index: usize,
    },
    /// The entry of a snapshot has more extra data than is possible.
    SnapshotExtra {
        /// Its number in the table, counted from 0.
        index: u32,
        /// Bytes of extra data.
        len_bytes: u32,
    },
    /// The table of snapshots is too long for the last of them.
    SnapshotsTooMany {
        /// How many.
        count: u32,
    },
    /// A snapshot's L1 table is nowhere.
    SnapshotL1 {
        /// Its number in the table, counted from 0.
        index: usize,
        /// What is wrong.
        error: SnapshotL1Error,
    },
    /// The directory of bitmaps breaks a rule.
    Bitmaps(BitmapError),
    /// An entry of a bitmap's table breaks a rule.
    BitmapEntry {
        /// Where the bitmap's table starts.
        at: HostOffset,
        /// The entry.
        raw: u64,
    },
    /// Something could not be read.
    Unreadable {
        /// What it is.
        what: Structure,
        /// Where it is.
        at: HostOffset,
        /// Why.
        error: String,
    },
    /// The counts of clusters could not be read.
    CountsUnreadable {
        /// The first of them.
        first: HostCluster,
        /// How many.
        clusters: u64,
        /// Why.
        error: String,
    },
}

impl Finding {
    /// How bad it is.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Count { stored, references, .. } if *stored > *references => Class::Leak,
            Self::Unreadable { .. } | Self::CountsUnreadable { .. } => Class::CheckError,
            _ => Class::Corruption,
        }
    }

    /// The finding that an entry which is looked past gives.
    pub(super) const fn entry(
        fault: EntryFault,
        table: crate::qcow2::entry::Table,
        at: HostOffset,
        index: u64,
        raw: u64,
    ) -> Self {
        Self::Entry(fault.at(table, at, index, raw))
    }
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::ActiveL1 => "active L1 table",
            Self::SnapshotL1 => "L1 table of a snapshot",
            Self::L2 => "L2 table",
            Self::Data => "data cluster",
            Self::Compressed => "compressed cluster",
            Self::SnapshotTable => "snapshot table",
            Self::RefcountTable => "refcount table",
            Self::RefcountBlock => "refcount block",
            Self::BitmapDirectory => "bitmap directory",
            Self::BitmapTable => "bitmap table",
            Self::BitmapData => "bitmap cluster",
            Self::EncryptionHeader => "encryption header",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideOfFile { what, at, len_bytes } => {
                write!(f, "{what} at {at} ({len_bytes} bytes) is outside of the file")
            }
            Self::TooManyReferences { cluster } => {
                write!(f, "cluster {} has more references than the image can count", cluster.index())
            }
            Self::Entry(error) => error.fmt(f),
            Self::EntryWithoutTable { at, index, raw } => {
                write!(
                    f,
                    "L1 table at {at}, entry {index} ({raw:#018x}): refers to no table, but is not zero"
                )
            }
            Self::NotTheOnlyReference { cluster, stored, times } => write!(
                f,
                "cluster {} has a refcount of {stored}, but {times} reference(s) claim to be the only one",
                cluster.index()
            ),
            Self::OnlyReference { cluster, times } => write!(
                f,
                "cluster {} has a refcount of 1, but {times} reference(s) do not claim to be the only one",
                cluster.index()
            ),
            Self::Count { cluster, stored, references } => {
                let prefix = if stored > references { "leaked cluster" } else { "cluster" };
                write!(f, "{prefix} {}: refcount {stored}, references {references}", cluster.index())
            }
            Self::RefcountTable(error) => error.fmt(f),
            Self::RefcountBlockOutside { index, at } => {
                write!(f, "refcount block {index} at {at:#x} is outside of the file")
            }
            Self::RefcountBlockShared { index, references } => {
                write!(f, "refcount block {index} has {references} references instead of 1")
            }
            Self::SnapshotIncomplete { index } => {
                write!(f, "entry {index} of the snapshot table is incomplete")
            }
            Self::SnapshotExtra { index, len_bytes } => {
                write!(f, "entry {index} of the snapshot table has {len_bytes} bytes of extra data, too many")
            }
            Self::SnapshotsTooMany { count } => {
                write!(f, "the snapshot table is too long for its last {count} snapshot(s)")
            }
            Self::SnapshotL1 { index, error } => write!(f, "snapshot {index}: {error}"),
            Self::Bitmaps(error) => write!(f, "bitmap directory: {error}"),
            Self::BitmapEntry { at, raw } => write!(f, "bitmap table at {at}: entry {raw:#x} is not valid"),
            Self::Unreadable { what, at, error } => write!(f, "cannot read the {what} at {at}: {error}"),
            Self::CountsUnreadable { first, clusters, error } => {
                write!(
                    f,
                    "cannot get the refcounts of {clusters} cluster(s) from {} on: {error}",
                    first.index()
                )
            }
        }
    }
}
