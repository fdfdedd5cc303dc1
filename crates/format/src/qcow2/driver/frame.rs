//! A place in memory for one slice of an L2 table, read without a lock.
//!
//! ```text
//!   reader:  version (even) ── id ── entries ── version again: the same, or nothing was read
//!   owner:   version + 1 ── id, entries ── version + 2          under the state lock, when the frame changes hands
//! ```
//! A frame changes hands only while its slice is clean. Entries of the slice that it holds change one by one, each as a
//! whole, without a new version: a reader sees the mapping before or after.
//!
//! Invariant: `id` changes under the state lock only, so whoever holds that and sees the right number may change entries.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::cache::SliceId;

/// The number of no slice.
const NOBODY: u64 = u64::MAX;

/// Memory for a slice.
#[repr(align(64))]
pub(super) struct Frame {
    version: AtomicU64,
    id: AtomicU64,
    /// The next frame of the same bucket.
    pub(super) next: AtomicU32,
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

/// The entries of a slice.
#[derive(Clone, Copy)]
pub(super) struct Slice<'c>(&'c [AtomicU64]);

impl Default for Frame {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(0),
            id: AtomicU64::new(NOBODY),
            next: AtomicU32::new(u32::MAX),
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
    pub(super) fn look<R>(&self, id: SliceId, look: impl FnOnce(Slice<'_>) -> R) -> Option<R> {
        let version = self.version.load(Ordering::Acquire);
        if version & 1 != 0 || !self.holds(id) {
            return None;
        }
        let answer = look(self.slice());
        fence(Ordering::Acquire);
        if self.version.load(Ordering::Relaxed) != version {
            return None;
        }
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        Some(answer)
    }

    /// The entries, for whoever knows whose they are.
    #[inline]
    pub(super) fn slice(&self) -> Slice<'_> {
        Slice(self.entries.get().map_or(&[], |entries| entries))
    }

    /// Whether it was looked at since this was asked last.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Gives the frame to a slice of `len` entries, missing ones 0.
    pub(super) fn fill(&self, id: SliceId, len: usize, mut raws: impl Iterator<Item = u64>) {
        let state = self.state();
        assert!(state.is_idle(), "a slice was overwritten before it was stored");
        let entries = self.entries.get_or_init(|| (0..len).map(|_| AtomicU64::new(0)).collect());
        self.change_hands(id.0, || {
            for entry in entries {
                entry.store(raws.next().unwrap_or(0), Ordering::Relaxed);
            }
        });
        self.used.store(false, Ordering::Relaxed);
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
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.id.store(id, Ordering::Relaxed);
        store();
        self.version.store(version + 2, Ordering::Release);
    }
}

impl<'c> Slice<'c> {
    /// The entry at `index`; 0 past the end.
    #[inline]
    pub(super) fn raw(self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |entry| entry.load(Ordering::Acquire))
    }

    /// Up to `count` entries from `index` on.
    pub(super) fn raws(self, index: usize, count: usize) -> impl Iterator<Item = u64> + use<'c> {
        let some = self.0.get(index..).unwrap_or_default();
        some.iter().take(count).map(|entry| entry.load(Ordering::Acquire))
    }

    /// Replaces entries from `index` on, if they are still `expected`. Under the state lock of its frame.
    pub(super) fn replace(self, index: usize, expected: &[u64], new: &[u64]) -> bool {
        let end = index.saturating_add(new.len());
        let places = self.0.get(index..end).unwrap_or_default();
        let same = places.len() == expected.len()
            && places.iter().zip(expected).all(|(place, raw)| place.load(Ordering::Acquire) == *raw);
        if same {
            places.iter().zip(new).for_each(|(place, raw)| place.store(*raw, Ordering::Release));
        }
        same
    }

    /// As they are in a file.
    pub(super) fn bytes(self) -> Vec<u8> {
        self.raws(0, usize::MAX).flat_map(u64::to_be_bytes).collect()
    }
}
