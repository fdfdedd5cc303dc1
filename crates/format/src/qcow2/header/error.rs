//! What can be wrong with a header: one variant per rule, with the number that breaks it.

use drystone_base::Truncated;

use crate::qcow2::extension::ExtensionError;
use crate::qcow2::l2::EXTENDED_CLUSTER_BYTES_MIN;

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file is not a qcow2 image.
    #[error("this is not a qcow2 image")]
    Magic,
    /// The bytes end inside of the header, its extensions or the backing file's name.
    #[error("the image ends inside of its header")]
    Truncated,
    /// Neither version 2 nor version 3.
    #[error("version {0} of qcow2 is not known")]
    Version(u32),
    /// No cluster size of this format.
    #[error("a cluster size of 2^{0} bytes is not supported, 2^9 to 2^21 are")]
    ClusterBits(u32),
    /// Clusters that are too small for subclusters.
    #[error("extended L2 entries need clusters of {EXTENDED_CLUSTER_BYTES_MIN} bytes or more, not {0}")]
    ExtendedL2(u64),
    /// The header's length breaks a rule.
    #[error("a header length of {0} bytes is not a multiple of 8 from 104 to the cluster size")]
    HeaderLength(u32),
    /// The disk is too large.
    #[error("a disk of {0} bytes is too large")]
    LenGuest(u64),
    /// An encryption method that the specification does not name.
    #[error("encryption method {0} is not known")]
    Crypt(u32),
    /// The width of refcounts.
    #[error("refcounts of 2^{0} bits are not possible, 2^6 is the most")]
    RefcountOrder(u32),
    /// Field and feature bit contradict each other, or the type is not known.
    #[error("compression type {value} does not go with its feature bit, which is {bit}, or is not known")]
    CompressionType {
        /// The field.
        value: u8,
        /// The feature bit.
        bit: bool,
    },
    /// A table is too long.
    #[error("the {table} is too long ({len_bytes} bytes)")]
    TableLength {
        /// Which table.
        table: &'static str,
        /// Its length.
        len_bytes: u64,
    },
    /// A table is where none can be.
    #[error("the offset {at:#x} of the {table} is not valid")]
    TableOffset {
        /// Which table.
        table: &'static str,
        /// Its offset.
        at: u64,
    },
    /// The L1 table does not cover the disk.
    #[error("an L1 table of {entries} entries is too short for a disk that needs {needed}")]
    L1TooShort {
        /// Its entries.
        entries: u32,
        /// What the disk needs.
        needed: u64,
    },
    /// There is no refcount table.
    #[error("the image has no refcount table")]
    NoRefcountTable,
    /// Too many snapshots.
    #[error("{0} snapshots are too many")]
    Snapshots(u32),
    /// The name of the backing file is too long or not where it must be.
    #[error(
        "the name of the backing file ({len_bytes} bytes at {at:#x}) is too long or not in the first cluster"
    )]
    BackingName {
        /// Its offset.
        at: u64,
        /// Its length.
        len_bytes: u32,
    },
    /// The extensions break a rule.
    #[error(transparent)]
    Extension(#[from] ExtensionError),
    /// Header, extensions and name are longer than a cluster.
    #[error("the header would be {0} bytes long, which is more than a cluster")]
    DoesNotFit(usize),
}

impl From<Truncated> for HeaderError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}
