//! Slices of L2 tables in memory.
//!
//! ```text
//!   number ──hash──► bucket ─► frame ─► frame ─► -          readers walk without a lock
//!                    frames: [ slice | slice | empty | slice ... ]  ◄── the clock's hand
//! ```
//! A reader that walks while frames change hands can miss a slice that is there, never find a wrong one: a frame says whose
//! it is before and after it is looked at (`frame`). Whoever must know holds the lock of the pool, under which frames
//! change hands and buckets.
//!
//! Invariants: a slice that is dirty or being written stays, so the bound can be exceeded while all are (writers store when
//! half of the cache is dirty); a number is in the list of dirty ones or about to be, if its slice is dirty. A smaller
//! bound empties frames; their memory is kept for later.
//!
//! Order of locks: the pool, the state of a frame, the list of dirty ones.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::HostOffset;

use super::frame::{Frame, Slice};
use super::runs::{Runs, Shape};
use super::segments::Segments;
use crate::qcow2::entry::RawEntry;

/// Fewest slices in memory.
const SLICES_MIN: usize = 4;
/// Frames that are made with the cache (empty: 64 bytes each).
const FRAMES_FIRST: usize = 64;
/// Fewest and most buckets.
const BUCKETS: (usize, usize) = (16, 1 << 16);
/// The number of no frame.
const NONE: u32 = u32::MAX;

/// The number of a slice: of all slices of all L2 tables, in the order of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SliceId(pub(super) u64);

/// A slice as it was at one moment, for being written.
pub(super) struct SliceImage {
    pub(super) id: SliceId,
    pub(super) at: HostOffset,
    pub(super) bytes: Vec<u8>,
}

/// What a slice is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// For being looked at: of a run, to know that is enough.
    Look,
    /// For being changed: it must be in the cache.
    Change,
}

/// What came of an attempt to change entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    Done,
    /// The entries are not what was expected.
    Changed,
    /// The slice is not in memory.
    Absent,
}

/// The slices of one image.
pub(super) struct Slices {
    shape: Shape,
    /// What is known of slices without having them.
    runs: Runs,
    /// The first frame of each bucket.
    buckets: Box<[AtomicU32]>,
    frames: Segments<Frame>,
    pool: Mutex<Pool>,
    /// Most slices, unless more are dirty.
    max: AtomicUsize,
    dirty: Mutex<BTreeSet<SliceId>>,
    dirty_count: AtomicUsize,
}

/// Which frames there are.
#[derive(Default)]
struct Pool {
    /// Frames that have ever held a slice are those below this.
    begun: u32,
    empty: Vec<u32>,
    /// Where the search for a slice that may leave goes on.
    hand: u32,
}

impl Pool {
    fn in_use(&self) -> usize {
        to_index(self.begun) - self.empty.len()
    }
}

impl Slices {
    /// A cache for about `slices_max` of `slices_all` slices.
    pub(super) fn new(slices_max: usize, slices_all: u64, shape: Shape) -> Self {
        let buckets = slices_max.clamp(BUCKETS.0, BUCKETS.1).next_power_of_two();
        let slices = Self {
            shape,
            runs: Runs::new(slices_all, shape),
            buckets: (0..buckets).map(|_| AtomicU32::new(NONE)).collect(),
            frames: Segments::new((0..FRAMES_FIRST).map(|_| Frame::default())),
            pool: Mutex::default(),
            max: AtomicUsize::new(0),
            dirty: Mutex::default(),
            dirty_count: AtomicUsize::new(0),
        };
        slices.set_max(slices_max);
        slices
    }

    /// Changes the bound; slices that are too many leave when others come.
    pub(super) fn set_max(&self, slices_max: usize) {
        self.max.store(slices_max.max(SLICES_MIN), Ordering::Relaxed);
    }

    /// Most slices in memory, unless more are dirty.
    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    #[inline]
    fn bucket(&self, id: SliceId) -> &AtomicU32 {
        let hash = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let index = usize::try_from(hash).unwrap_or(0) & (self.buckets.len() - 1);
        match self.buckets.get(index) {
            Some(bucket) => bucket,
            None => unreachable!("a masked number is below the number of buckets"),
        }
    }

    #[inline]
    fn frame(&self, number: u32) -> Option<&Frame> {
        if number == NONE { None } else { self.frames.get(to_index(number)) }
    }

    /// The frame of a slice. Without the lock of the pool, it may change hands at any moment, and may be missed.
    #[inline]
    fn find(&self, id: SliceId) -> Option<&Frame> {
        let mut frame = self.frame(self.bucket(id).load(Ordering::Acquire))?;
        while !frame.holds(id) {
            frame = self.frame(frame.next.load(Ordering::Acquire))?;
        }
        Some(frame)
    }

    /// As [`Self::find`], with certainty as long as the lock of the pool is held or the slice is dirty.
    fn find_surely(&self, _pool: &Pool, id: SliceId) -> Option<&Frame> {
        self.find(id)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a slice, if it is in memory. `look` may see two slices mixed; its answer is thrown away then.
    #[inline]
    pub(super) fn with<R>(&self, id: SliceId, look: impl Fn(Slice<'_>) -> R) -> Option<R> {
        match self.find(id).and_then(|frame| frame.look(id, self.shape.words_bits, &look)) {
            Some(answer) => Some(answer),
            None => self.runs.get(id.0).map(|run| look(Slice::of_run(run))),
        }
    }

    /// Whether a slice is there, for what it is wanted.
    pub(super) fn has(&self, id: SliceId, wanted: Wanted) -> bool {
        self.find_surely(&self.pool(), id).is_some()
            || wanted != Wanted::Change && self.runs.get(id.0).is_some()
    }

    /// Brings a slice of these numbers in that is not there. What is there already is newer. Whoever does
    /// this keeps others from bringing it in.
    pub(super) fn bring(&self, id: SliceId, words: &[u64], wanted: Wanted) {
        let mut pool = self.pool();
        if self.find_surely(&pool, id).is_some() {
            return;
        }
        self.runs.note(id.0, words);
        let is_known = self.runs.get(id.0).is_some();
        if wanted == Wanted::Change || !is_known {
            self.insert(&mut pool, id, words);
        }
    }

    fn insert(&self, pool: &mut Pool, id: SliceId, words: &[u64]) {
        let max = self.max();
        while pool.in_use() >= max && self.evict_one(pool) {}
        let number = pool.empty.pop().unwrap_or(pool.begun);
        self.frames.grow_to(to_index(number));
        let Some(frame) = self.frame(number) else { panic!("frame {number} was just made") };
        pool.begun = pool.begun.max(number + 1);
        frame.fill(id, self.shape.words, words.iter().copied());
        let bucket = self.bucket(id);
        frame.next.store(bucket.load(Ordering::Relaxed), Ordering::Release);
        bucket.store(number, Ordering::Release);
    }

    /// Takes out a slice that is not dirty, if it is there.
    pub(super) fn forget(&self, id: SliceId) {
        let mut pool = self.pool();
        self.runs.forget(id.0);
        let mut number = self.bucket(id).load(Ordering::Acquire);
        while let Some(frame) = self.frame(number) {
            if frame.holds(id) {
                assert!(frame.try_vacate(), "a slice that is given up was changed");
                self.unlink(id, number);
                pool.empty.push(number);
                return;
            }
            number = frame.next.load(Ordering::Acquire);
        }
    }

    /// Takes out a slice that is clean and was not used lately, or at least clean; `false` if there is none.
    fn evict_one(&self, pool: &mut Pool) -> bool {
        // The first round takes the marks away, the second finds what is left.
        for _ in 0..u64::from(pool.begun) * 2 {
            let number = if pool.hand < pool.begun { pool.hand } else { 0 };
            pool.hand = number + 1;
            let Some(frame) = self.frame(number) else { return false };
            let Some(id) = frame.held() else { continue };
            let is_idle = frame.state().is_idle();
            if is_idle && !frame.take_used() && frame.try_vacate() {
                self.unlink(id, number);
                pool.empty.push(number);
                return true;
            }
        }
        false
    }

    /// Takes out every slice that is clean and was not looked at since the last time.
    pub(super) fn clean(&self) {
        let mut pool = self.pool();
        for number in 0..pool.begun {
            let Some((frame, id)) = self.frame(number).and_then(|frame| Some((frame, frame.held()?))) else {
                continue;
            };
            if !frame.take_used() && frame.try_vacate() {
                self.unlink(id, number);
                pool.empty.push(number);
            }
        }
    }

    /// Takes a frame out of its bucket. With the lock of the pool held.
    fn unlink(&self, id: SliceId, number: u32) {
        let mut link = self.bucket(id);
        loop {
            let at = link.load(Ordering::Relaxed);
            let Some(frame) = self.frame(at) else { panic!("frame {number} is in its bucket") };
            if at == number {
                link.store(frame.next.load(Ordering::Relaxed), Ordering::Release);
                return;
            }
            link = &frame.next;
        }
    }

    /// Forgets everything, also what was changed (of a damaged image, that is not stored). Nobody is inside.
    pub(super) fn clear(&self) {
        let mut pool = self.pool();
        self.runs.clear();
        self.take_dirty_ids();
        for number in 0..pool.begun {
            let Some((frame, id)) = self.frame(number).and_then(|frame| Some((frame, frame.held()?))) else {
                continue;
            };
            frame.vacate();
            self.unlink(id, number);
            pool.empty.push(number);
        }
    }

    fn dirty(&self) -> MutexGuard<'_, BTreeSet<SliceId>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_dirty(&self, id: SliceId) {
        let mut dirty = self.dirty();
        dirty.insert(id);
        self.dirty_count.store(dirty.len(), Ordering::Relaxed);
    }

    fn take_dirty_ids(&self) -> BTreeSet<SliceId> {
        let mut dirty = self.dirty();
        self.dirty_count.store(0, Ordering::Relaxed);
        std::mem::take(&mut dirty)
    }

    /// Whether so much is dirty that it should be stored before more is.
    pub(super) fn wants_store(&self) -> bool {
        self.dirty_count.load(Ordering::Relaxed) * 2 > self.max()
    }

    /// Replaces entries from `index` on, if they are still `expected`.
    pub(super) fn publish(
        &self,
        id: SliceId,
        index: usize,
        (expected, new): (&[RawEntry], &[RawEntry]),
    ) -> Published {
        let Some(frame) = self.find(id) else { return Published::Absent };
        let mut state = frame.state();
        if !frame.holds(id) {
            return Published::Absent;
        }
        // Before anybody can see the change: who does not find the slice looks there.
        self.runs.forget(id.0);
        if !frame.replace(self.shape.words_bits, index, (expected, new)) {
            return Published::Changed;
        }
        if !std::mem::replace(&mut state.dirty, true) {
            self.note_dirty(id);
        }
        Published::Done
    }

    /// Copies every dirty slice as it is now, with the place that `place` says it has. Until [`Self::stored`] it stays in
    /// memory.
    pub(super) fn take_dirty(&self, place: impl Fn(SliceId) -> Option<HostOffset>) -> Vec<SliceImage> {
        let ids = self.take_dirty_ids();
        let mut images = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(at) = place(id) else { panic!("a slice without a table was changed") };
            let frame = self.stays(id);
            let mut state = frame.state();
            state.dirty = false;
            state.writing = true;
            images.push(SliceImage { id, at, bytes: frame.slice(self.shape.words_bits).bytes() });
        }
        images
    }

    /// A taken slice is on disk, or could not be written and is dirty again.
    pub(super) fn stored(&self, id: SliceId, ok: bool) {
        let mut state = self.stays(id).state();
        state.writing = false;
        if !ok && !std::mem::replace(&mut state.dirty, true) {
            self.note_dirty(id);
        }
    }

    /// The frame of a slice that is dirty or being written.
    fn stays(&self, id: SliceId) -> &Frame {
        match self.find_surely(&self.pool(), id) {
            Some(frame) => frame,
            None => panic!("a slice has left before it was stored"),
        }
    }
}

fn to_index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
