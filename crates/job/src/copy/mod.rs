//! The copy engine: everything of one or several disks to another, by extents, with any number of workers.
//!
//! ```text
//!   source  |==== done ====|#1#|#2#|#3#|......hole......|.......|     #n#: a piece that a worker has claimed
//!                                      ^ cursor: what nobody has claimed; a hole that a worker finds moves it on
//!   worker  claim ─► status ─► nothing there: skip    zeroes: skip or zero    data: read ─► look for zeroes ─► write
//! ```
//! | module | what |
//! |---|---|
//! | [`spec`] | what is copied, and how |
//! | `claim` | who copies what |
//! | `line` | writes one after the other |
//! | `offload` | what devices copy themselves |
//! | [`zeroes`] | runs of zero bytes in what was read |
//! | `worker` | one worker: from the claim to the last write |
//!
//! Workers share nothing but a [`struct@Copy`], so they may be on one I/O thread or on many. Whoever starts them decides how many
//! requests are in flight: one for each.
//!
//! Invariants: every byte is claimed once; memory is at most a piece for each worker; after the first failure nothing new
//! is begun; no ticket is alive while a worker waits for others or for the rate limit; a worker that is dropped ends the copy. Does not know: threads, images.

mod claim;
mod line;
mod offload;
pub mod spec;
#[cfg(test)]
mod tests;
mod worker;
pub mod zeroes;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drystone_base::{Error, Result};
use drystone_buf::Pool;

use self::claim::Claims;
use self::line::Line;
use self::spec::{CopySpec, Watch};
use self::worker::{Act, What};
use crate::limit::RateLimit;

/// Least bytes that are read and written at once, as far as there are that many.
const PIECE_BYTES: u64 = 1 << 20;
/// The same, where it is compressed: that takes its time for each cluster.
const PRESSED_PIECE_BYTES: u64 = 64 << 10;
/// How many buffers are kept for use again: for as many workers as there usually are at most.
const KEPT_PIECES: u64 = 16;

/// One copy, shared by its workers. Any thread.
pub struct Copy {
    spec: CopySpec,
    watch: Arc<dyn Watch>,
    piece_bytes: u64,
    len_bytes: u64,
    done_bytes: AtomicU64,
    claims: Mutex<Claims>,
    /// What was found last: nobody asks about it again. A long file or a far server takes its time to say.
    known: Mutex<(What, Range<u64>)>,
    line: Line<Vec<Act>>,
    limit: Mutex<RateLimit>,
    pool: Pool,
    is_over: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Copy {
    /// A copy that nobody works at yet; `watch` is told how it goes.
    #[must_use]
    pub fn new(mut spec: CopySpec, watch: Arc<dyn Watch>) -> Self {
        let unit_bytes = spec.unit_bytes;
        let len_bytes = spec.sources.iter().map(|source| source.len_bytes).sum();
        if spec.own.until < len_bytes {
            spec.own.until -= spec.own.until % unit_bytes;
        }
        spec.zero_from = spec.zero_from.checked_next_multiple_of(unit_bytes).unwrap_or(u64::MAX);
        let least = if spec.flags.compressed { PRESSED_PIECE_BYTES } else { PIECE_BYTES };
        let piece_bytes = least.max(unit_bytes);
        let mut limit = RateLimit::default();
        limit.set_speed(spec.bytes_per_second);
        Self {
            watch,
            piece_bytes,
            len_bytes,
            done_bytes: AtomicU64::new(0),
            claims: Mutex::new(Claims::new(len_bytes)),
            known: Mutex::new((What::Data, 0..0)),
            line: Line::default(),
            limit: Mutex::new(limit),
            pool: Pool::new(usize::try_from(KEPT_PIECES * piece_bytes).unwrap_or(0)),
            is_over: AtomicBool::new(false),
            failure: Mutex::new(None),
            spec,
        }
    }

    /// Bytes of all sources together.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// What came of it, when all workers have ended.
    ///
    /// # Errors
    /// What failed first.
    pub fn result(&self) -> Result<()> {
        match lock(&self.failure).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Lets the workers end: nothing new is begun.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
        self.line.stop();
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.stop();
    }

    fn advance(&self, bytes: u64) {
        let done = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.watch.advanced(done, self.len_bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
