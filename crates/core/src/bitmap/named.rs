//! [`NodeBitmaps`]: the bitmaps of a node, by name.
//!
//! | state | written by I/O | may be cleared, merged into | may be read | may be removed |
//! |---|---|---|---|---|
//! | recording | yes | yes | yes | yes |
//! | disabled | no | yes | yes | yes |
//! | busy (a job or an export uses it) | as before | no | by its user | no |
//! | read-only (persistent, in an image that is open for reading) | no | no | yes | no |
//! | inconsistent (was not stored when the disk was last used) | no | no | no | yes |
//!
//! Invariant: what is asked for here holds every write that was acknowledged before. I/O threads ask (exports do); nobody
//! waits for long: bitmaps are put together piece by piece, and only with what is new.
//! Not here: who may change them when (plans, [`super::action`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drystone_base::{Error, GuestRange, Kind, Result};

use super::record::Recorder;
use super::segment::{Segments, finest};
use super::stored::StoredBitmap;
use super::{Bits, Granularity};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 1023;

/// What is to be known of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes per bit.
    pub granularity: Granularity,
    /// Dirty bytes, in whole granules.
    pub dirty_bytes: u64,
    /// It follows writes.
    pub recording: bool,
    /// Somebody uses it, who alone may change it.
    pub busy: bool,
    /// It is stored in the image.
    pub persistent: bool,
    /// It was not stored when the disk was last used, and cannot be trusted.
    pub inconsistent: bool,
    /// The image is open for reading only.
    pub read_only: bool,
}

/// The bitmaps of a node.
#[derive(Default)]
pub struct NodeBitmaps {
    pub(crate) recorder: Recorder,
    /// Whether there are any: what changes of the disk's length look at first.
    present: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    len_bytes: u64,
    read_only: bool,
    segments: Segments,
    named: BTreeMap<String, Named>,
    born: u64,
}

struct Named {
    bits: Bits,
    recording: bool,
    /// Since which segment it records; none if it does not, or there is nothing to trust.
    since: Option<u64>,
    persistent: bool,
    inconsistent: bool,
    users: u32,
    /// When it came, among the bitmaps of the node.
    born: u64,
}

/// A new bitmap.
pub(super) struct NewBitmap {
    pub(super) bits: Bits,
    pub(super) recording: bool,
    pub(super) persistent: bool,
    pub(super) inconsistent: bool,
}

fn no_bitmap(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no bitmap '{name}'"))
}

impl State {
    fn get(&mut self, name: &str) -> Result<&mut Named> {
        self.named.get_mut(name).ok_or_else(|| no_bitmap(name))
    }

    /// What was marked until now goes into a segment.
    fn close(&mut self, recorder: &Recorder) {
        self.segments.close(recorder.harvest(self.len_bytes));
    }

    /// Marks at the finest granularity that a recording bitmap has.
    fn aim(&self, recorder: &Recorder) {
        let recording = self.named.values().filter(|named| named.since.is_some());
        recorder.aim(finest(recording.map(|named| named.bits.granularity())));
    }

    /// Makes the bits of a bitmap complete.
    fn catch_up(&mut self, recorder: &Recorder, name: &str) -> Result<&mut Named> {
        self.close(recorder);
        let named = self.named.get_mut(name).ok_or_else(|| no_bitmap(name))?;
        if let Some(since) = named.since {
            self.segments.add_to(&mut named.bits, since);
            // Before the old moment goes: what lies between is nobody else's then.
            named.since = Some(self.segments.begin());
            self.segments.end(since);
        }
        Ok(named)
    }

    /// Makes all of them complete. Bitmaps of equal content go on sharing it.
    fn catch_up_all(&mut self, recorder: &Recorder) {
        self.close(recorder);
        let mut by_granularity: BTreeMap<Granularity, Vec<(u64, &mut Named)>> = BTreeMap::new();
        for named in self.named.values_mut() {
            if let Some(since) = named.since {
                by_granularity.entry(named.bits.granularity()).or_default().push((since, named));
            }
        }
        for (granularity, mut group) in by_granularity {
            group.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
            let moments: Vec<u64> = group.iter().map(|(since, _)| *since).collect();
            let sums = self.segments.since_each(&moments, &Bits::new(granularity, self.len_bytes));
            let mut last: Option<(Bits, Bits, Bits)> = None;
            for ((_, named), sum) in group.iter_mut().zip(sums) {
                let before = named.bits.clone();
                match &last {
                    Some((bits, added, result))
                        if bits.is_shared_with(&before) && added.is_shared_with(&sum) =>
                    {
                        named.bits = result.clone();
                    }
                    _ => named.bits.merge(&sum),
                }
                last = Some((before, sum, named.bits.clone()));
            }
        }
        let moments: Vec<u64> = self.named.values().filter_map(|named| named.since).collect();
        for named in self.named.values_mut() {
            named.since = named.since.map(|_| self.segments.begin());
        }
        moments.into_iter().for_each(|since| self.segments.end(since));
    }

    fn begin(&mut self, recorder: &Recorder, name: &str) {
        self.close(recorder);
        if let Some(named) = self.named.get_mut(name)
            && named.since.is_none()
            && !named.inconsistent
        {
            named.since = Some(self.segments.begin());
        }
        self.aim(recorder);
    }

    fn info(&self, name: &str, named: &Named) -> BitmapInfo {
        BitmapInfo {
            name: name.to_owned(),
            granularity: named.bits.granularity(),
            dirty_bytes: named.bits.dirty_bytes(),
            recording: named.recording,
            busy: named.users > 0,
            persistent: named.persistent,
            inconsistent: named.inconsistent,
            read_only: self.read_only && named.persistent,
        }
    }
}

impl NodeBitmaps {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.present.load(Ordering::Acquire)
    }

    /// All bitmaps, in the order in which they came.
    #[must_use]
    pub fn list(&self) -> Vec<BitmapInfo> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut state = self.state();
        state.catch_up_all(&self.recorder);
        Self::in_order(&state)
    }

    /// As [`Self::list`], but what is dirty may be out of date.
    pub(crate) fn flags(&self) -> Vec<BitmapInfo> {
        Self::in_order(&self.state())
    }

    fn in_order(state: &State) -> Vec<BitmapInfo> {
        let mut all: Vec<_> = state.named.iter().collect();
        all.sort_by_key(|(_, named)| named.born);
        all.into_iter().map(|(name, named)| state.info(name, named)).collect()
    }

    /// One bitmap.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<BitmapInfo> {
        let mut state = self.state();
        state.catch_up(&self.recorder, name).ok()?;
        state.named.get(name).map(|named| state.info(name, named))
    }

    /// What is dirty now. The copy is cheap, and stays as it is.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidInput`] if the bitmap is inconsistent.
    pub fn bits(&self, name: &str) -> Result<Bits> {
        let mut state = self.state();
        let named = state.catch_up(&self.recorder, name)?;
        if named.inconsistent {
            return Err(Error::new(Kind::InvalidInput, format!("bitmap '{name}' is inconsistent")));
        }
        Ok(named.bits.clone())
    }

    /// Whether the first byte of `range` is dirty, and for how many bytes of it that is so.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn run(&self, name: &str, range: GuestRange) -> Result<(bool, u64)> {
        let mut state = self.state();
        let bits = &state.catch_up(&self.recorder, name)?.bits;
        let is_dirty = bits.get(range.start());
        let end = if is_dirty { bits.next_zero(range) } else { bits.next_dirty(range) };
        Ok((is_dirty, end.map_or(range.len(), |end| end.get() - range.start().get())))
    }

    /// Somebody begins or ceases to use a bitmap: as long as anybody does, nobody may change it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidInput`] if it is inconsistent.
    pub fn set_busy(&self, name: &str, busy: bool) -> Result<()> {
        let mut state = self.state();
        let named = state.get(name)?;
        if named.inconsistent && busy {
            return Err(Error::new(Kind::InvalidInput, format!("bitmap '{name}' is inconsistent")));
        }
        named.users = if busy { named.users + 1 } else { named.users.saturating_sub(1) };
        Ok(())
    }

    /// The persistent ones, complete, in the order in which they came: for the driver that stores them.
    #[must_use]
    pub fn to_store(&self) -> Vec<StoredBitmap> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut state = self.state();
        state.catch_up_all(&self.recorder);
        let mut all: Vec<_> = state.named.iter().filter(|(_, named)| named.persistent).collect();
        all.sort_by_key(|(_, named)| named.born);
        let stored = |(name, named): (&String, &Named)| StoredBitmap {
            name: name.clone(),
            bits: named.bits.clone(),
            recording: named.recording,
            inconsistent: named.inconsistent,
        };
        all.into_iter().map(stored).collect()
    }

    /// The names of the persistent ones.
    #[must_use]
    pub fn persistent_names(&self) -> Vec<String> {
        let persistent = |(name, named): (&String, &Named)| named.persistent.then(|| name.clone());
        self.state().named.iter().filter_map(persistent).collect()
    }

    /// The name of one that is inconsistent.
    #[must_use]
    pub fn inconsistent_name(&self) -> Option<String> {
        let inconsistent = |(name, named): (&String, &Named)| named.inconsistent.then(|| name.clone());
        self.state().named.iter().find_map(inconsistent)
    }

    /// Bytes of memory that what is dirty takes, apart from the marks of what is being written.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let state = self.state();
        let mut seen = BTreeSet::new();
        let parts = state.segments.parts().chain(state.named.values().map(|named| &named.bits));
        parts.map(|bits| bits.memory(&mut seen)).sum()
    }

    /// The image has been opened: these are its bitmaps, in place of the persistent ones that were known.
    pub(crate) fn load(&self, len_bytes: u64, stored: Vec<StoredBitmap>) {
        let users: BTreeMap<String, u32> =
            self.state().named.iter().map(|(name, named)| (name.clone(), named.users)).collect();
        self.forget_persistent();
        for StoredBitmap { name, bits, recording, inconsistent } in stored {
            let new = NewBitmap { bits, recording, persistent: true, inconsistent };
            self.add(len_bytes, name.clone(), new);
            // Whoever uses it goes on.
            if let (Some(users), Ok(named)) = (users.get(&name), self.state().get(&name)) {
                named.users = *users;
            }
        }
    }

    /// Persistent bitmaps are known to the image only.
    pub(crate) fn forget_persistent(&self) {
        self.persistent_names().iter().for_each(|name| self.remove(name));
    }

    /// Whether the image can be written.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// The disk is `len_bytes` long now.
    pub(crate) fn resize(&self, len_bytes: u64) {
        if self.is_empty() {
            return;
        }
        let mut state = self.state();
        state.close(&self.recorder);
        state.len_bytes = len_bytes;
        state.segments.truncate(len_bytes);
        state.named.values_mut().for_each(|named| named.bits.truncate(len_bytes));
    }

    /// The disk is at least `len_bytes` long now.
    pub(crate) fn grow(&self, len_bytes: u64) {
        if !self.is_empty() && self.state().len_bytes < len_bytes {
            self.resize(len_bytes);
        }
    }

    // ---- what plans do; each was checked before ----

    pub(super) fn add(&self, len_bytes: u64, name: String, new: NewBitmap) {
        let mut state = self.state();
        if state.named.is_empty() {
            state.len_bytes = len_bytes;
        }
        state.born += 1;
        let NewBitmap { bits, recording, persistent, inconsistent } = new;
        let born = state.born;
        let named = Named { bits, recording, since: None, persistent, inconsistent, users: 0, born };
        state.named.insert(name.clone(), named);
        self.present.store(true, Ordering::Release);
        if recording {
            state.begin(&self.recorder, &name);
        }
    }

    pub(super) fn remove(&self, name: &str) {
        let mut state = self.state();
        if let Some(since) = state.named.remove(name).and_then(|named| named.since) {
            state.close(&self.recorder);
            state.segments.end(since);
        }
        state.aim(&self.recorder);
        self.present.store(!state.named.is_empty(), Ordering::Release);
    }

    pub(super) fn clear(&self, name: &str) {
        let mut state = self.state();
        if let Ok(named) = state.catch_up(&self.recorder, name) {
            named.bits.clear();
        }
    }

    pub(super) fn set_recording(&self, name: &str, recording: bool) {
        let mut state = self.state();
        let Ok(named) = state.catch_up(&self.recorder, name) else { return };
        named.recording = recording;
        if recording {
            state.begin(&self.recorder, name);
        } else {
            if let Some(since) = named.since.take() {
                state.segments.end(since);
            }
            state.aim(&self.recorder);
        }
    }

    pub(super) fn merge(&self, name: &str, other: &Bits) {
        let mut state = self.state();
        if let Ok(named) = state.catch_up(&self.recorder, name) {
            named.bits.merge(other);
        }
    }
}
