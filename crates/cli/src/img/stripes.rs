//! Work on a whole disk by several workers: each takes the next stripe.
//!
//! ```text
//!  disk    |  stripe 0  |  stripe 1  |   nothing to do, to here -->|  stripe 2  | ...
//!              worker 0     worker 1                                  worker 0
//! ```
//! Where a worker finds that there is nothing to do in its stripe and behind it, all of that is passed at once. Short
//! disks have one worker, on the control thread, so what is written to them is written in order.
//!
//! Invariant: no stripe is taken twice, and none at or behind the end that somebody set. Not here: what the work is.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drystone_base::{Error, Result};
use drystone_core::runtime::LocalRef;

use crate::tool::Tool;
use crate::tool::progress::Progress;

/// What a worker takes at once. Clusters are not larger, and begin at its multiples.
pub(super) const STRIPE_BYTES: u64 = 2 << 20;
/// Workers of one thread: one computes while the requests of the others are under way.
const WORKERS_PER_THREAD: usize = 3;
/// Shorter disks have one worker.
const ALONE_BYTES_MAX: u64 = 8 << 20;

/// The stripes of a disk that nobody has taken yet.
pub(super) struct Stripes {
    len_bytes: u64,
    progress: Arc<Progress>,
    state: Mutex<State>,
}

struct State {
    next: u64,
    end: u64,
    /// What failed first.
    failed: Option<Error>,
}

impl Stripes {
    /// Those of a disk of `len_bytes` bytes.
    pub(super) fn new(tool: &Tool, len_bytes: u64) -> Self {
        let progress = Arc::clone(tool.progress());
        Self { len_bytes, progress, state: Mutex::new(State { next: 0, end: len_bytes, failed: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next stripe: its first byte and the one behind its last.
    pub(super) fn take(&self) -> Option<(u64, u64)> {
        let (start, next) = {
            let mut state = self.state();
            let start = state.next;
            if start >= state.end {
                return None;
            }
            state.next = (start - start % STRIPE_BYTES + STRIPE_BYTES).min(self.len_bytes);
            (start, state.next)
        };
        self.progress.set(start, self.len_bytes);
        Some((start, next))
    }

    /// There is nothing to do before `end`.
    pub(super) fn pass_to(&self, end: u64) {
        let mut state = self.state();
        state.next = state.next.max(end);
    }

    /// Nothing at `end` or behind it is done.
    pub(super) fn end_at(&self, end: u64) {
        let mut state = self.state();
        state.end = state.end.min(end);
    }

    /// The work of a stripe has failed: nothing more is done.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state();
        state.end = 0;
        state.failed.get_or_insert(error);
    }

    /// Runs workers until none of them finds a stripe.
    ///
    /// # Errors
    /// Those of starting threads, and what a worker has reported first ([`Self::fail`]).
    pub(super) async fn run<F, W>(&self, tool: &Tool, worker: F) -> Result<()>
    where
        F: Fn(LocalRef) -> W + Clone + Send + 'static,
        W: Future<Output = ()> + 'static,
    {
        if self.len_bytes <= ALONE_BYTES_MAX {
            worker(tool.local().clone()).await;
            return self.result();
        }
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut workers = Vec::new();
        for thread in tool.io_threads(count)? {
            for _ in 0..WORKERS_PER_THREAD {
                let worker = worker.clone();
                workers.push(thread.call(worker));
            }
        }
        for worker in workers {
            worker.await?;
        }
        self.result()
    }

    fn result(&self) -> Result<()> {
        self.state().failed.take().map_or(Ok(()), Err)
    }
}
