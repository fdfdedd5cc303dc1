//! Repair: what a check found, put right on disk.
//! ```text
//!  walk ─► entries that can be dropped ─► counts: in place, or all of them anew ─► "copied" flags ─► snapshot table ─► bits
//! ```
//! | what | `leaks` | `all` |
//! |---|---|---|
//! | counts above the references | yes | yes |
//! | counts below the references | | yes |
//! | tables and blocks of counts that overlap, lack, or lie outside | refused: [`CheckError::NeedsRebuild`] | made anew |
//! | "copied" flags | if nothing else is wrong | yes |
//! | places, set aside for zeroes, that are no clusters | | dropped |
//! | a snapshot table that is too long or has incomplete entries | | written anew |
//! | the dirty and the corrupt bit | if nothing is wrong any more | dirty always, corrupt likewise |
//!
//! Works on any source of bytes, so also on images that no driver opens. What is counted as repaired is what release
//! 10.0 of the C tool counts, except that no file is made longer for an entry that points behind its end.
//!
//! Invariants: a step is durable before the next one begins, and no step needs a later one: after a cut in the middle the
//! same data is there and a repair can begin again. Nothing is repaired if something of the tables could not be read,
//! because its clusters would look free. A table is not written where it overlaps with other metadata.
//! Not here: entries that lead nowhere, which only their owner could put right.

mod counts;
mod entries;
mod flags;
mod rebuild;
mod snapshots;

use std::future::Future;
use std::ops::Range;

use drystone_base::{HostOffset, Result};

use self::entries::EntryFix;
use self::snapshots::TableFix;
use super::compare::Compare;
use super::finding::{Finding, Structure};
use super::reader::Source;
use super::{Check, CheckError, Outcome, demand_access};
use crate::qcow2::feature::IncompatibleBit;
use crate::qcow2::header::{Header, HeaderChange};

/// The header is written in a piece of this many bytes, which a disk writes as a whole.
const HEADER_SECTOR_BYTES: usize = 512;

/// How often a repair begins again because it has freed something or made the file longer.
const ROUNDS_MAX: usize = 3;

/// What to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Wasted space only.
    Leaks,
    /// Everything that can be.
    All,
}

/// Where a repair reads and writes.
pub trait Target: Source {
    /// Writes all of `bytes` at `at`. What is written behind the end of the file makes it longer.
    fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> impl Future<Output = Result<()>>;

    /// Makes durable what was written.
    fn flush(&self) -> impl Future<Output = Result<()>>;
}

/// How a repair ended.
#[derive(Debug, Clone)]
pub struct Repaired {
    /// What is still wrong. The numbers about the disk are those from before: check again to have others.
    pub outcome: Outcome,
    /// Leaked clusters that are free now.
    pub leaks_fixed: u64,
    /// Corruptions that are none any more.
    pub corruptions_fixed: u64,
    /// The header as it is on disk now.
    pub header: Header,
}

/// What a walk collects for a repair of everything.
#[derive(Debug, Default)]
pub(super) struct Mending {
    pub(super) entries: Vec<EntryFix>,
    pub(super) snapshots: TableFix,
    /// Clusters behind the end of the file that something refers to.
    pub(super) lost: Vec<Range<u64>>,
}

/// Repairs the image with this header. Each finding is reported when it is found, whether it is repaired or not.
///
/// Reads and computes as [`check`](super::check), twice. Nobody else may use the image meanwhile.
///
/// # Errors
/// [`CheckError`] if the repair cannot come to an end. What was written until then leaves an image that can be repaired.
pub async fn repair<T: Target>(
    target: &T,
    header: &Header,
    what: Repair,
    mut on_finding: impl FnMut(&Finding),
) -> Result<Repaired, CheckError> {
    demand_access(header)?;
    let mut run = Run {
        target,
        header: header.clone(),
        leaks_fixed: 0,
        corruptions_fixed: 0,
        has_lost: false,
        has_replaced_snapshots: false,
    };
    let mut len_bytes = target.len_bytes();
    let mut outcome = run.counts_and_flags(what, &mut on_finding).await?;
    for _ in 1..ROUNDS_MAX {
        let has_grown = std::mem::replace(&mut len_bytes, target.len_bytes()) != target.len_bytes();
        // What uses the clusters of the old snapshot table as well may be their only user now.
        let has_freed = std::mem::take(&mut run.has_replaced_snapshots);
        if !(run.has_lost && has_grown) && !has_freed {
            break;
        }
        outcome = run.counts_and_flags(what, &mut on_finding).await?;
    }
    if outcome.check_errors == 0 {
        run.clear_bits(what, &outcome).await?;
    }
    let Run { header, leaks_fixed, corruptions_fixed, .. } = run;
    Ok(Repaired { outcome, leaks_fixed, corruptions_fixed, header })
}

/// A repair under way.
struct Run<'a, T> {
    target: &'a T,
    /// As it is on disk.
    header: Header,
    leaks_fixed: u64,
    corruptions_fixed: u64,
    /// Something refers to what lies behind the end of the file. If that moves, it must be counted.
    has_lost: bool,
    /// The snapshot table was written anew.
    has_replaced_snapshots: bool,
}

impl<T: Target> Run<'_, T> {
    async fn counts_and_flags(
        &mut self,
        what: Repair,
        on_finding: impl FnMut(&Finding),
    ) -> Result<Outcome, CheckError> {
        let header = self.header.clone();
        let mut check = Check::new(self.target, &header, on_finding)?;
        check.mending = (what == Repair::All).then(Mending::default);
        check.walk().await?;
        let readable = check.outcome.check_errors == 0;
        let refcounts = check.walk_refcounts().await?;
        check.compare(&refcounts, Compare::Counts).await?;
        if !readable {
            return Ok(check.outcome);
        }
        let mut mending = check.mending.take().unwrap_or_default();
        self.has_lost = !mending.lost.is_empty();
        check.counters.avoid(std::mem::take(&mut mending.lost));
        self.drop_entries(&mut check.outcome, &mending.entries).await?;
        let damage = check.damage.clone();
        if damage.needs_rebuild || damage.needs_care && what == Repair::All {
            if what == Repair::Leaks {
                return Err(CheckError::NeedsRebuild);
            }
            return self.with_counts_anew(check, mending.snapshots).await;
        }
        self.mend_counts(&mut check, &refcounts, what).await?;
        let Outcome { corruptions, check_errors, .. } = check.outcome;
        if what == Repair::All || corruptions + check_errors == 0 {
            self.mend_flags(&mut check).await?;
        } else {
            check.compare(&refcounts, Compare::Claims).await?;
        }
        self.replace_snapshots(&mut check, mending.snapshots).await?;
        Ok(check.outcome)
    }

    /// Makes the refcounts anew, and does what then remains.
    async fn with_counts_anew<F: FnMut(&Finding)>(
        &mut self,
        mut check: Check<'_, T, F>,
        snapshots: TableFix,
    ) -> Result<Outcome, CheckError> {
        self.rebuild(&mut check).await?;
        let (before, header) = (check.outcome, self.header.clone());
        drop(check); // Its counters; there are new ones now.
        let mut check = Check::new(self.target, &header, |_: &Finding| {})?;
        check.mending = Some(Mending::default());
        check.walk().await?;
        check.walk_refcounts().await?;
        let lost = check.mending.take().unwrap_or_default().lost;
        check.counters.avoid(lost);
        self.leaks_fixed += before.leaks;
        self.corruptions_fixed += before.corruptions.saturating_sub(check.outcome.corruptions);
        if before.check_errors > 0 && self.leaks_fixed + self.corruptions_fixed == 0 {
            self.corruptions_fixed = 1; // Counts that nobody could read.
        }
        self.mend_flags(&mut check).await?;
        self.replace_snapshots(&mut check, snapshots).await?;
        Ok(check.outcome)
    }

    /// Clears the bits that say that there is something to repair.
    async fn clear_bits(&mut self, what: Repair, outcome: &Outcome) -> Result<(), CheckError> {
        let is_whole = outcome.corruptions == 0;
        let mut features = self.header.incompatible();
        if is_whole {
            features = features.with(IncompatibleBit::Corrupt, false);
        }
        if is_whole || what == Repair::All {
            features = features.with(IncompatibleBit::Dirty, false);
        }
        if features == self.header.incompatible() {
            return Ok(());
        }
        self.change_header(&HeaderChange { incompatible: Some(features), ..HeaderChange::default() }).await
    }

    /// Replaces fields of the header, durably, after everything that was written before.
    async fn change_header(&mut self, change: &HeaderChange) -> Result<(), CheckError> {
        let header = self.header.changed(change)?;
        self.flush(Structure::Header).await?;
        let read = self.target.read_at(HostOffset::ZERO, self.header_len()).await;
        let mut sector = read.map_err(|error| CheckError::Read(Structure::Header, error))?;
        header.patch(&mut sector);
        self.write(Structure::Header, HostOffset::ZERO, sector).await?;
        self.flush(Structure::Header).await?;
        self.header = header;
        Ok(())
    }

    fn header_len(&self) -> usize {
        usize::try_from(self.target.len_bytes())
            .map_or(HEADER_SECTOR_BYTES, |len| len.min(HEADER_SECTOR_BYTES))
    }

    async fn write(&self, what: Structure, at: HostOffset, bytes: Vec<u8>) -> Result<(), CheckError> {
        self.target.write_at(at, bytes).await.map_err(|error| CheckError::Write(what, error))
    }

    async fn flush(&self, what: Structure) -> Result<(), CheckError> {
        self.target.flush().await.map_err(|error| CheckError::Write(what, error))
    }
}
