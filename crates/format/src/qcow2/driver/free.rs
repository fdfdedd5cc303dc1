//! Clusters on their way back.
//!
//! ```text
//!   unlinked      the mapping is gone in memory
//!      │ store    the mapping is gone on disk
//!   quarantined   requests may still be reading or writing there
//!      │ grace    every request that began before has ended
//!   ready         counts go down; the clusters can be reserved again
//! ```
//! Invariant: a run is in one of the three or with whoever took it out and puts back what it could not do.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::planted::{Mistake, is_planted};
use drystone_base::{GuestRange, Kind, Result};
use drystone_core::graph::grace::Stamp;
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::passes::{Cause, Freed};
use super::refs::Run;

/// Unlinked runs past which a request stores metadata, so that the list stays short.
const UNLINKED_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Frees(Mutex<State>);

#[derive(Default)]
struct State {
    unlinked: Vec<Freed>,
    quarantined: VecDeque<(Stamp, Vec<Freed>)>,
    ready: Vec<Freed>,
}

impl Frees {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A mapping to these clusters is gone in memory.
    pub(super) fn unlink(&self, run: Run, cause: Cause) {
        let mut state = self.state();
        let (first, end) = run.bounds();
        match state.unlinked.last_mut() {
            Some(last) if last.cause == cause && last.run.bounds().1 == first => last.run.count += run.count,
            _ => state.unlinked.push(Freed { run: Run::between(first, end), cause }),
        }
    }

    /// What is unlinked now; the mappings are taken for storing after this.
    pub(super) fn take_unlinked(&self) -> Vec<Freed> {
        std::mem::take(&mut self.state().unlinked)
    }

    /// The mappings could not be stored.
    pub(super) fn unlinked_again(&self, runs: Vec<Freed>) {
        self.state().unlinked.extend(runs);
    }

    /// The mappings are gone on disk, too.
    pub(super) fn quarantine(&self, stamp: Stamp, runs: Vec<Freed>) {
        if !runs.is_empty() {
            self.state().quarantined.push_back((stamp, runs));
        }
    }

    /// Nobody can reach these clusters.
    pub(super) fn make_ready(&self, run: Run, cause: Cause) {
        self.state().ready.push(Freed { run, cause });
    }

    pub(super) fn wants_store(&self) -> bool {
        self.state().unlinked.len() > UNLINKED_MAX
    }

    /// Whether space will come back when metadata is stored and requests have ended.
    pub(super) fn any_on_its_way(&self) -> bool {
        let state = self.state();
        !state.unlinked.is_empty() || !state.quarantined.is_empty()
    }

    /// Whether any space has not come back.
    pub(super) fn any(&self) -> bool {
        self.any_on_its_way() || !self.state().ready.is_empty()
    }

    /// Forgets everything: those clusters leak.
    pub(super) fn clear(&self) {
        *self.state() = State::default();
    }

    /// Clusters that nobody can reach any more.
    fn take_ready(&self) -> Vec<Freed> {
        let mut state = self.state();
        let mut ready = std::mem::take(&mut state.ready);
        let may_leave = |stamp: &mut Stamp| stamp.has_passed() || is_planted(Mistake::FreedReused);
        while state.quarantined.front_mut().is_some_and(|(stamp, _)| may_leave(stamp)) {
            ready.extend(state.quarantined.pop_front().map(|(_, runs)| runs).unwrap_or_default());
        }
        ready
    }
}

/// Ready runs that somebody works on. What is left when it is dropped is ready again.
struct Work<'f> {
    frees: &'f Frees,
    runs: Vec<Freed>,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.runs);
        if !left.is_empty() {
            self.frees.state().ready.extend(left.into_iter().filter(|freed| freed.run.count > 0));
        }
    }
}

impl Qcow2 {
    /// Gives back what has waited long enough. Never waits for a grace period. After an error, the next call goes on.
    pub(super) async fn reap(&self, io: Io<'_>) -> Result<()> {
        let mut work = Work { frees: &self.frees, runs: self.frees.take_ready() };
        if !work.runs.is_empty() {
            self.decompressed.forget();
        }
        while let Some(Freed { run, cause }) = work.runs.last_mut() {
            if self.passes.has(*cause) {
                // Before the counts go down: afterwards somebody may be writing there again.
                for unused in self.refs.used_once(io, *run).await? {
                    self.discard_in_file(io, unused).await;
                }
            }
            io.file()?.event(Event::ClusterFree).await;
            self.refs.release(io, run).await?;
            work.runs.pop();
        }
        Ok(())
    }

    /// As [`Self::reap`], where only damage matters: what cannot be given back now can be later.
    pub(super) async fn reap_some(&self, io: Io<'_>) -> Result<()> {
        match self.reap(io).await {
            Err(error) if error.kind() == Kind::Corrupt => Err(error),
            _ => Ok(()),
        }
    }

    /// Advice: if it fails, the space is used again all the same.
    pub(super) async fn discard_in_file(&self, io: Io<'_>, run: Run) {
        let (Some(at), Ok(file)) = (self.cluster.host_start(run.first), io.file()) else { return };
        let bytes = (run.count * self.cluster.bytes()).min(file.len().saturating_sub(at.get()));
        if let Some(range) = GuestRange::checked(at.get(), bytes).filter(|range| !range.is_empty()) {
            let _ = file.discard(range).await;
        }
    }
}
