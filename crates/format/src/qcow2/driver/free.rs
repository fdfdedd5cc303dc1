//! Clusters on their way back.
//!
//! ```text
//!   unlinked      the mapping is gone in memory
//!      │ store    the mapping is gone on disk
//!   quarantined   requests may still be reading or writing there
//!      │ grace    every request that began before has ended
//!   counts go down; the clusters can be reserved again
//! ```

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::{GuestRange, Result};
use drystone_core::graph::grace::Stamp;
use drystone_core::request::io::Io;

use super::Qcow2;
use super::refs::{Run, push_cluster};

/// Unlinked runs past which a request stores metadata, so that the list stays short.
const UNLINKED_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Frees(Mutex<State>);

#[derive(Default)]
struct State {
    unlinked: Vec<Run>,
    quarantined: VecDeque<(Stamp, Vec<Run>)>,
}

impl Frees {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A mapping to these clusters is gone in memory.
    pub(super) fn unlink(&self, run: Run) {
        let mut state = self.state();
        for number in run.first.index()..run.first.index() + run.count {
            push_cluster(&mut state.unlinked, number);
        }
    }

    /// What is unlinked now; the mappings are taken for storing after this.
    pub(super) fn take_unlinked(&self) -> Vec<Run> {
        std::mem::take(&mut self.state().unlinked)
    }

    /// The mappings could not be stored.
    pub(super) fn unlinked_again(&self, runs: Vec<Run>) {
        self.state().unlinked.extend(runs);
    }

    /// The mappings are gone on disk, too.
    pub(super) fn quarantine(&self, stamp: Stamp, runs: Vec<Run>) {
        if !runs.is_empty() {
            self.state().quarantined.push_back((stamp, runs));
        }
    }

    pub(super) fn wants_store(&self) -> bool {
        self.state().unlinked.len() > UNLINKED_MAX
    }

    /// Whether any space is on its way back.
    pub(super) fn any(&self) -> bool {
        let state = self.state();
        !state.unlinked.is_empty() || !state.quarantined.is_empty()
    }

    /// Clusters whose grace period has passed.
    fn take_passed(&self) -> Vec<Run> {
        let mut state = self.state();
        let mut passed = Vec::new();
        while state.quarantined.front_mut().is_some_and(|(stamp, _)| stamp.has_passed()) {
            passed.extend(state.quarantined.pop_front().map(|(_, runs)| runs).unwrap_or_default());
        }
        passed
    }
}

impl Qcow2 {
    /// Gives back what has waited long enough. Never waits for a grace period.
    pub(super) async fn reap(&self, io: Io<'_>) -> Result<()> {
        for run in self.frees.take_passed() {
            self.decompressed.forget();
            if self.pass_discard {
                // Before the counts go down: afterwards somebody may be writing there again.
                for unused in self.refs.used_once(io, run).await? {
                    self.discard_in_file(io, unused).await?;
                }
            }
            // An error leaks the rest of these clusters, which is safe.
            self.refs.release(io, run).await?;
        }
        Ok(())
    }

    async fn discard_in_file(&self, io: Io<'_>, run: Run) -> Result<()> {
        let Some(at) = self.cluster.host_start(run.first) else {
            return Ok(());
        };
        let file = io.file()?;
        let bytes = (run.count * self.cluster.bytes()).min(file.len().saturating_sub(at.get()));
        match GuestRange::checked(at.get(), bytes) {
            Some(range) if !range.is_empty() => file.discard(range).await,
            _ => Ok(()),
        }
    }
}
