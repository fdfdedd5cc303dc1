//! The consistency check: recount every reference to every cluster, compare with what the image says.
//! ```text
//!  header, L1, L2, snapshots, bitmaps, encryption ──walk──► counters ◄──compare── refcount table, refcount blocks
//!                                                 findings: corruption | leak | check error
//! ```
//! | finding | meaning |
//! |---|---|
//! | corruption | data is or may get lost: a cluster with more references than its count, an entry that breaks a rule |
//! | leak | a cluster with fewer references than its count: wasted, harmless |
//! | check error | something could not be read, so nothing is known about it |
//!
//! The numbers are those of `qemu-img check` of release 10.0, also on damaged images, except that here every table is
//! read once: where tables overlap so much that reading all of them would take longer than reading the file twice, the
//! rest is a check error.
//!
//! Invariants: nothing is written; memory stays below [`MEMORY_BYTES_MAX`] and time is proportional to the file,
//! whatever the image claims; the walk ends because no table is followed twice.
//! Not here: repair; images whose features are not supported.

mod compare;
mod count;
mod finding;
mod reader;
mod walk;

pub use finding::{Class, Finding, Structure};
pub use reader::Source;

use std::collections::BTreeMap;

use drystone_base::{Error, HostOffset};

use self::count::{Claim, Counters, Memory, OutOfMemory};
use self::reader::Reader;
use super::geometry::{ClusterBits, HostCluster};
use super::header::{Access, Crypt, Header, RefusedReason};
use super::snapshot::SnapshotError;

/// Most memory that a check uses for counting.
pub const MEMORY_BYTES_MAX: usize = 256 << 20;
/// Most clusters that a file can have: with more, even one bit for each would be too much.
pub const CLUSTERS_MAX: u64 = 1 << 31;

/// Disks and files are seen in sectors of this many bytes.
const SECTOR_BYTES: u64 = 512;

/// What a check found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Places where data is or may get lost.
    pub corruptions: u64,
    /// Clusters that are counted more often than they are referred to.
    pub leaks: u64,
    /// Things that could not be checked.
    pub check_errors: u64,
    /// Clusters of the virtual disk; a last sector of it that is not whole does not count.
    pub clusters_total: u64,
    /// Clusters of the virtual disk that have a place in the file.
    pub clusters_allocated: u64,
    /// Those of them that do not follow the one before.
    pub clusters_fragmented: u64,
    /// Those of them that are compressed.
    pub clusters_compressed: u64,
    /// The end of the last cluster in use, in bytes.
    pub image_end_offset: u64,
}

/// Why a check did not come to an end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The image uses something that the check does not know.
    #[error(transparent)]
    Refused(#[from] RefusedReason),
    /// The file has too many clusters.
    #[error("the file has {0} clusters, {CLUSTERS_MAX} are the most that can be checked")]
    Clusters(u64),
    /// Counting would take too much memory.
    #[error("the check needs more than {} MiB of memory", MEMORY_BYTES_MAX >> 20)]
    Memory,
    /// A table without which nothing can be said could not be read.
    #[error("cannot read the {0}")]
    Read(Structure, #[source] Error),
    /// The table of snapshots breaks a rule.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
}

impl From<OutOfMemory> for CheckError {
    fn from(_: OutOfMemory) -> Self {
        Self::Memory
    }
}

/// Checks the image with this header. Each finding is reported when it is found; the outcome counts them.
///
/// Reads one table at a time through `source`; computes for a few milliseconds between two reads of a large image.
/// Nothing may write to the image meanwhile.
///
/// # Errors
/// [`CheckError`] if the check cannot come to an end; what was reported until then is true.
pub async fn check<S: Source>(
    source: &S,
    header: &Header,
    on_finding: impl FnMut(&Finding),
) -> Result<Outcome, CheckError> {
    if let Access::Refused(reason) = header.access()
        && !matches!(reason, RefusedReason::Encrypted(Crypt::Aes | Crypt::Luks))
    {
        return Err(reason.into());
    }
    let mut check = Check::new(source, header, on_finding)?;
    check.walk_header()?;
    check.walk_active().await?;
    check.walk_snapshots().await?;
    check.walk_tables().await?;
    check.walk_bitmaps().await?;
    let refcounts = check.walk_refcounts().await?;
    check.compare(&refcounts).await?;
    Ok(check.outcome)
}

/// How often an L2 table is referred to.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    /// By the active L1 table.
    active: u32,
    /// By L1 tables of snapshots.
    inactive: u32,
}

/// A check under way.
struct Check<'a, S, F> {
    reader: Reader<'a, S>,
    header: &'a Header,
    cluster: ClusterBits,
    /// Clusters of the file; a last one that is not whole counts, and so does one behind it that is referred to.
    clusters: u64,
    counters: Counters,
    /// The L2 tables that L1 tables refer to, by offset.
    tables: BTreeMap<HostOffset, Uses>,
    outcome: Outcome,
    on_finding: F,
}

impl<'a, S: Source, F: FnMut(&Finding)> Check<'a, S, F> {
    fn new(source: &'a S, header: &'a Header, on_finding: F) -> Result<Self, CheckError> {
        let cluster = header.cluster();
        let reader = Reader::new(source);
        let clusters = cluster.clusters(reader.len_file());
        if clusters > CLUSTERS_MAX {
            return Err(CheckError::Clusters(clusters));
        }
        let len_guest = header.len_guest() / SECTOR_BYTES * SECTOR_BYTES;
        let outcome = Outcome { clusters_total: cluster.clusters(len_guest), ..Outcome::default() };
        let counters = Counters::new(clusters + 1, Memory(MEMORY_BYTES_MAX))?;
        Ok(Self { reader, header, cluster, clusters, counters, tables: BTreeMap::new(), outcome, on_finding })
    }

    /// Reports something that was found `times` times.
    fn report(&mut self, finding: &Finding, times: u64) {
        let count = match finding.class() {
            Class::Corruption => &mut self.outcome.corruptions,
            Class::Leak => &mut self.outcome.leaks,
            Class::CheckError => &mut self.outcome.check_errors,
        };
        *count = count.saturating_add(times);
        (self.on_finding)(finding);
    }

    /// Counts `times` references to the clusters of `at .. at + len_bytes`. A region that reaches past the file by a
    /// whole cluster is a corruption, and none of it is counted; one that reaches less far may use the cluster that the
    /// file does not have yet.
    fn refer(&mut self, to: Structure, at: HostOffset, len_bytes: u64, times: u64) -> Result<(), CheckError> {
        let Some(more) = len_bytes.checked_sub(1) else { return Ok(()) };
        let end = self.reader.len_file().checked_add(self.cluster.bytes() - 1);
        let last = at.checked_add(more).filter(|last| end.is_some_and(|end| last.get() < end));
        let Some(last) = last else {
            self.report(&Finding::OutsideOfFile { what: to, at, len_bytes }, times);
            return Ok(());
        };
        for index in self.cluster.host_cluster(at).index()..=self.cluster.host_cluster(last).index() {
            let cluster = HostCluster::new(index);
            let too_many = self.counters.add(cluster, times, self.header.width().count_max())?;
            if too_many > 0 {
                self.report(&Finding::TooManyReferences { cluster }, too_many);
            }
            self.clusters = self.clusters.max(index + 1);
        }
        Ok(())
    }

    /// Notes that `times` references to the cluster at `at` claim, or do not claim, to be the only one.
    fn claim(&mut self, at: HostOffset, copied: bool, times: u64) -> Result<(), CheckError> {
        let cluster = self.cluster.host_cluster(at);
        let claim = if copied { Claim::Writable } else { Claim::Shared };
        if cluster.index() < self.clusters {
            self.counters.claim(cluster, times, claim)?;
        } else if copied {
            self.report(&Finding::NotTheOnlyReference { cluster, stored: 0, times }, times);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
