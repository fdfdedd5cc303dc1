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
//! [`repair`] puts right what can be put right.
//!
//! Invariants: a check writes nothing; memory stays below [`MEMORY_BYTES_MAX`] and time is proportional to the file,
//! whatever the image claims; the walk ends because no table is followed twice.
//! Not here: images whose features are not supported.

mod compare;
mod count;
mod finding;
mod reader;
pub mod repair;
mod walk;

pub use finding::{Class, Finding, Structure};
pub use reader::Source;

use std::collections::BTreeMap;
use std::ops::Range;

use drystone_base::{Error, HostOffset};

use self::compare::Compare;
use self::count::{Claim, Counters, Memory, OutOfMemory};
use self::reader::Reader;
use self::repair::Mending;
use super::geometry::{ClusterBits, HostCluster};
use super::header::{Access, Crypt, Header, RefusedReason};
use super::snapshot::SnapshotError;

/// Most memory that a check uses for counting.
pub const MEMORY_BYTES_MAX: usize = 256 << 20;
/// Most clusters that a file can have: with more, even one bit for each would be too much.
pub const CLUSTERS_MAX: u64 = 1 << 31;

/// What claims about a cluster behind the end of the file take in memory, with room for the map's own needs.
const OUTSIDE_MEMORY_BYTES: usize = 64;
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
    /// The refcounts are damaged so much that a repair of leaks alone could make it worse.
    #[error("the refcounts must be rebuilt, which a repair of 'leaks' does not do; 'all' does")]
    NeedsRebuild,
    /// A repair could not write.
    #[error("cannot write the {0}")]
    Write(Structure, #[source] Error),
    /// The refcounts of such a file cannot be stored.
    #[error("the file is so long that its refcounts do not fit into a table")]
    RefcountTable,
    /// The repaired header breaks a rule.
    #[error(transparent)]
    Header(#[from] super::header::HeaderError),
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
    demand_access(header)?;
    let mut check = Check::new(source, header, on_finding)?;
    check.walk().await?;
    let refcounts = check.walk_refcounts().await?;
    check.compare(&refcounts, Compare::All).await?;
    Ok(check.outcome)
}

/// Refuses what a check does not know.
fn demand_access(header: &Header) -> Result<(), CheckError> {
    match header.access() {
        Access::Refused(RefusedReason::Encrypted(Crypt::Aes | Crypt::Luks)) => Ok(()),
        Access::Refused(reason) => Err(reason.into()),
        _ => Ok(()),
    }
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
    /// What is claimed about clusters behind the end of the file, by number.
    outside: BTreeMap<u64, Claims>,
    outcome: Outcome,
    /// How damaged the refcounts are.
    damage: Damage,
    /// What a repair collects; `None` while nothing is to be repaired.
    mending: Option<Mending>,
    on_finding: F,
}

/// What references to a cluster behind the end of the file claim.
#[derive(Debug, Clone, Copy, Default)]
struct Claims {
    /// So many, that they are the only one.
    writable: u64,
    /// So many, that they need not be.
    shared: u64,
    /// The count that is stored for it, once that was looked up.
    stored: u64,
}

/// How damaged the refcounts are.
#[derive(Debug, Clone, Default)]
struct Damage {
    /// Their structures must be made anew: they overlap with something or lack a block.
    needs_rebuild: bool,
    /// The same, as soon as they are written: a block is outside of the file, or cannot be read.
    needs_care: bool,
    /// A cluster has more references than a count can say.
    too_many: bool,
    /// The entries of the table whose blocks differ from the references.
    differing: Vec<usize>,
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
        Ok(Self {
            reader,
            header,
            cluster,
            clusters,
            counters,
            tables: BTreeMap::new(),
            outside: BTreeMap::new(),
            outcome,
            damage: Damage::default(),
            mending: None,
            on_finding,
        })
    }

    /// Counts everything that is referred to but the refcounts themselves.
    async fn walk(&mut self) -> Result<(), CheckError> {
        self.walk_header()?;
        self.walk_active().await?;
        self.walk_snapshots().await?;
        self.walk_tables().await?;
        self.walk_bitmaps().await
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
        if len_bytes == 0 {
            return Ok(());
        }
        let Some(last) = self.last_of(at, len_bytes) else {
            self.note_lost(at, len_bytes);
            self.report(&Finding::OutsideOfFile { what: to, at, len_bytes }, times);
            return Ok(());
        };
        for index in self.cluster.host_cluster(at).index()..=self.cluster.host_cluster(last).index() {
            let cluster = HostCluster::new(index);
            let too_many = self.counters.add(cluster, times, self.header.width().count_max())?;
            if too_many > 0 {
                self.damage.too_many = true;
                self.report(&Finding::TooManyReferences { cluster }, too_many);
            }
            self.clusters = self.clusters.max(index + 1);
        }
        Ok(())
    }

    /// The last byte of a region that is counted; `None` if it reaches past the file by a whole cluster, or is empty.
    fn last_of(&self, at: HostOffset, len_bytes: u64) -> Option<HostOffset> {
        let end = self.reader.len_file().checked_add(self.cluster.bytes() - 1);
        at.checked_add(len_bytes.checked_sub(1)?).filter(|last| end.is_some_and(|end| last.get() < end))
    }

    /// Notes where something lies behind the end of the file, for a repair that looks for room there.
    fn note_lost(&mut self, at: HostOffset, len_bytes: u64) {
        let first = self.cluster.host_cluster(at).index();
        let end = first.saturating_add(self.cluster.clusters(len_bytes)).saturating_add(1);
        if let Some(mending) = &mut self.mending
            && self.counters.memory().take(size_of::<Range<u64>>()).is_ok()
        {
            mending.lost.push(first..end);
        }
    }

    /// Notes that `times` references to the cluster at `at` claim, or do not claim, to be the only one.
    fn claim(&mut self, at: HostOffset, copied: bool, times: u64) -> Result<(), CheckError> {
        let cluster = self.cluster.host_cluster(at);
        let claim = if copied { Claim::Writable } else { Claim::Shared };
        if cluster.index() < self.clusters {
            self.counters.claim(cluster, times, claim)?;
        } else if self.outside.contains_key(&cluster.index())
            || self.counters.memory().take(OUTSIDE_MEMORY_BYTES).is_ok()
        {
            let claims = self.outside.entry(cluster.index()).or_default();
            let count = if copied { &mut claims.writable } else { &mut claims.shared };
            *count = count.saturating_add(times);
        } else if copied {
            self.report(&Finding::NotTheOnlyReference { cluster, stored: 0, times }, times);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
