//! A place in memory for one slice of an L2 table, read without a lock.
//!
//! ```text
//!   reader:  version (even) ── id ── entries ── version again: the same, or nothing was read
//!   owner:   version + 1 ── id, entries ── version + 2          under the state lock, when the frame changes hands
//! ```
//! A frame changes hands only while its slice is clean. Entries of one number change one by one, each as a whole, without a
//! new version: a reader sees the mapping before or after. Entries of two numbers change under a new version, like the
//! owner.
//!
//! Invariant: `id` changes under the state lock only, so whoever holds that and sees the right number may change entries.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::cache::SliceId;
use super::runs::Run;
use crate::qcow2::entry::RawEntry;

/// The number of no slice.
const NOBODY: u64 = u64::MAX;
/// How often a reader looks again while entries change.
const LOOKS: u32 = 64;

/// Memory for a slice.
#[repr(align(64))]
pub(super) struct Frame {
    version: AtomicU64,
    id: AtomicU64,
    /// The next frame of the same bucket.
    pub(super) next: AtomicU32,
    /// Nobody has looked at the slice since it came.
    fresh: AtomicBool,
    /// Somebody has, once more than whoever brought it in.
    used: AtomicBool,
    /// Made with the first slice that comes here.
    entries: OnceLock<Box<[AtomicU64]>>,
    state: Mutex<FrameState>,
}

/// What stands between a slice and its leaving.
#[derive(Default)]
pub(super) struct FrameState {
    pub(super) dirty: bool,
    pub(super) writing: bool,
}

impl FrameState {
    pub(super) fn is_idle(&self) -> bool {
        !self.dirty && !self.writing
    }
}

/// The entries of a slice: of one number each, or of two.
#[derive(Clone, Copy)]
pub(super) struct Slice<'c> {
    words: &'c [AtomicU64],
    /// Numbers of an entry, as a power of two.
    words_bits: u32,
    /// It has no memory, and is this.
    run: Option<Run>,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(0),
            id: AtomicU64::new(NOBODY),
            next: AtomicU32::new(u32::MAX),
            fresh: AtomicBool::new(false),
            used: AtomicBool::new(false),
            entries: OnceLock::new(),
            state: Mutex::default(),
        }
    }
}

impl Frame {
    /// Whether it holds this slice now. May be over at once, unless the caller excludes that.
    #[inline]
    pub(super) fn holds(&self, id: SliceId) -> bool {
        self.id.load(Ordering::Acquire) == id.0
    }

    /// Which slice it holds.
    pub(super) fn held(&self) -> Option<SliceId> {
        let id = self.id.load(Ordering::Acquire);
        (id != NOBODY).then_some(SliceId(id))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, FrameState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the slice, if it is here from before `look` until after it.
    #[inline]
    pub(super) fn look<R>(&self, id: SliceId, words_bits: u32, look: impl Fn(Slice<'_>) -> R) -> Option<R> {
        for _ in 0..LOOKS {
            let version = self.version.load(Ordering::Acquire);
            if !self.holds(id) {
                return None;
            }
            if version & 1 == 0 {
                let answer = look(self.slice(words_bits));
                fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == version {
                    self.note_look();
                    return Some(answer);
                }
            }
            std::hint::spin_loop();
        }
        None
    }

    /// The first look is that of whoever brought the slice in, and says nothing about others to come: random requests to a
    /// disk that is larger than the cache would mark everything, and the search for what may leave would look at it all.
    #[inline]
    fn note_look(&self) {
        if self.used.load(Ordering::Relaxed) {
            return;
        }
        if self.fresh.load(Ordering::Relaxed) {
            self.fresh.store(false, Ordering::Relaxed);
        } else {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// The entries, for whoever knows whose they are.
    #[inline]
    pub(super) fn slice(&self, words_bits: u32) -> Slice<'_> {
        Slice { words: self.entries.get().map_or(&[], |entries| entries), words_bits, run: None }
    }

    /// Replaces entries from `index` on, if they are still `expected`. Under the state lock.
    pub(super) fn replace(
        &self,
        words_bits: u32,
        index: usize,
        (expected, new): (&[RawEntry], &[RawEntry]),
    ) -> bool {
        let slice = self.slice(words_bits);
        if new.len() != expected.len() || !slice.is(index, expected) {
            return false;
        }
        match words_bits {
            0 => slice.store(index, new),
            _ => self.change(|| slice.store(index, new)),
        }
        true
    }

    /// Whether it was looked at since this was asked last.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Gives the frame to a slice of `len` numbers, missing ones 0.
    pub(super) fn fill(&self, id: SliceId, len: usize, mut words: impl Iterator<Item = u64>) {
        let state = self.state();
        assert!(state.is_idle(), "a slice was overwritten before it was stored");
        let entries = self.entries.get_or_init(|| (0..len).map(|_| AtomicU64::new(0)).collect());
        self.change_hands(id.0, || {
            for entry in entries {
                entry.store(words.next().unwrap_or(0), Ordering::Relaxed);
            }
        });
        self.used.store(false, Ordering::Relaxed);
        self.fresh.store(true, Ordering::Relaxed);
    }

    /// Empties the frame, unless its slice must stay.
    pub(super) fn try_vacate(&self) -> bool {
        let state = self.state();
        if state.is_idle() {
            self.change_hands(NOBODY, || ());
        }
        state.is_idle()
    }

    /// Empties the frame and forgets what was not stored.
    pub(super) fn vacate(&self) {
        let mut state = self.state();
        *state = FrameState::default();
        self.change_hands(NOBODY, || ());
    }

    /// With the state lock held.
    fn change_hands(&self, id: u64, store: impl FnOnce()) {
        self.change(|| {
            self.id.store(id, Ordering::Relaxed);
            store();
        });
    }

    /// Lets no reader see what is between. With the state lock held.
    fn change(&self, store: impl FnOnce()) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        store();
        self.version.store(version + 2, Ordering::Release);
    }
}

impl<'c> Slice<'c> {
    #[inline]
    fn word(self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// A slice that is a run.
    #[inline]
    pub(super) fn of_run(run: Run) -> Self {
        Slice { words: &[], words_bits: 0, run: Some(run) }
    }

    /// The entry at `index`; an empty one past the end.
    #[inline]
    pub(super) fn raw(self, index: usize) -> RawEntry {
        if let Some(run) = self.run {
            return run.raw(index);
        }
        let first = index << self.words_bits;
        let bitmap = if self.words_bits == 0 { 0 } else { self.word(first + 1) };
        RawEntry { descriptor: self.word(first), bitmap }
    }

    /// Up to `count` entries from `index` on.
    pub(super) fn raws(self, index: usize, count: usize) -> impl Iterator<Item = RawEntry> + use<'c> {
        let end = self.run.map_or(self.words.len() >> self.words_bits, Run::entries);
        (index..end.min(index.saturating_add(count))).map(move |index| self.raw(index))
    }

    /// Whether the entries from `index` on are these.
    fn is(self, index: usize, expected: &[RawEntry]) -> bool {
        self.raws(index, expected.len()).eq(expected.iter().copied())
    }

    /// Replaces entries from `index` on.
    fn store(self, index: usize, new: &[RawEntry]) {
        let words = self.words.get(index << self.words_bits..).unwrap_or_default();
        for (entry, raw) in words.chunks_exact(1 << self.words_bits).zip(new) {
            for (word, value) in entry.iter().zip([raw.descriptor, raw.bitmap]) {
                word.store(value, Ordering::Release);
            }
        }
    }

    /// As they are in a file.
    pub(super) fn bytes(self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.load(Ordering::Acquire).to_be_bytes()).collect()
    }
}
