//! Whole disks copied by a tool: the copy engine on the tool's threads, and its progress.
//!
//! Not here: how a disk is copied ([`drystone_job::copy`]), what a command copies.

use std::sync::Arc;

use drystone_base::{Error, Result};
use drystone_job::copy::Copy;
use drystone_job::copy::spec::{CopySpec, Watch};

use super::Tool;
use super::progress::Progress;
use crate::console;

/// The most requests at the same time.
pub(crate) const WORKERS_MAX: usize = 16;
/// Requests at the same time where a server is asked, whose answers take their time, and nobody says how many.
const WORKERS_REMOTE: usize = 8;
/// On this machine it is so many for each processor: one computes while the other one waits. More would only keep more in
/// memory, and less of it in the processors' caches.
const WORKERS_PER_PROCESSOR: usize = 2;
/// A disk wants some more.
const WORKERS_MIN: usize = 4;

impl Tool {
    /// Copies what `spec` says by `workers` requests at a time, or as many as seem right, on all processors. With `is_quiet`, nothing is printed about
    /// what cannot be read.
    ///
    /// # Errors
    /// The first of those of reading and writing; those of starting threads.
    pub(crate) async fn copy(&self, spec: CopySpec, workers: Option<usize>, is_quiet: bool) -> Result<()> {
        let watch = Watching { name: self.name(), progress: Arc::clone(self.progress()), is_quiet };
        let copy = Arc::new(Copy::new(spec, Arc::new(watch)));
        let shared = Arc::clone(&copy);
        let work = move |mut lane| {
            let copy = Arc::clone(&shared);
            async move { copy.work(&mut lane).await }
        };
        let worked = self.workers(workers.unwrap_or_else(|| self.workers_default()), work).await;
        copy.result().and(worked)
    }

    fn workers_default(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let local = (processors * WORKERS_PER_PROCESSOR).clamp(WORKERS_MIN, WORKERS_MAX);
        if self.opener().network.is_connected() { local.max(WORKERS_REMOTE) } else { local }
    }
}

/// Tells the user how it goes.
struct Watching {
    name: &'static str,
    progress: Arc<Progress>,
    is_quiet: bool,
}

impl Watch for Watching {
    fn advanced(&self, done: u64, all: u64) {
        self.progress.set(done, all);
    }

    fn unreadable(&self, offset: u64, error: &Error) {
        if !self.is_quiet {
            let why = error.report();
            console::note(format_args!(
                "{}: warning: at offset {offset}, zeroes stand for what cannot be read: {why}",
                self.name
            ));
        }
    }
}
