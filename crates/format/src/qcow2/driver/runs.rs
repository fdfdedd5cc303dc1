//! Slices of L2 tables that need no memory of their own, because they are one run.
//!
//! ```text
//!   slice   | c | c+1 | c+2 | ...        clusters that follow each other     ─► c, "follows"
//!           | 0 |  0  |  0  | ...        the same everywhere, nothing say    ─► 0, "same"
//! ```
//! The tables of most large disks say little: their clusters were allocated one behind the other, or were not. A slice that
//! is a run is known by its first entry: 8 bytes for 32 MiB of a disk with the usual clusters, so all of 10 TiB takes 2.5 MiB,
//! where the slices themselves would take 1.25 GiB.
//!
//! Invariants: what is known of a slice is what its table says: it is noted before the slice comes into the cache, and
//! forgotten before an entry of it changes there. Not here: slices that are no runs (`cache`).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::qcow2::entry::RawEntry;

/// Every entry is the cluster behind the one before.
const FOLLOWS: u64 = 1 << 1;
/// Every entry is the same.
const SAME: u64 = 1 << 2;
/// Of extended entries: every subcluster has data.
const DATA: u64 = 1 << 3;
/// Bits that no entry of a run has set: they are reserved, and say what the run is.
const KIND: u64 = 0x1fe;
/// Slices that are known at most: those of 32 TiB with the usual clusters. Later ones are not known.
const SLICES_MAX: u64 = 1 << 20;

/// How slices of an image are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Numbers of a slice.
    pub(super) words: usize,
    /// Numbers of an entry, as a power of two.
    pub(super) words_bits: u32,
    /// Bytes from one cluster to the next.
    pub(super) cluster_bytes: u64,
}

/// A slice that is a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    first: RawEntry,
    step: u64,
    entries: usize,
}

impl Run {
    /// The entry at `index`; an empty one past the end.
    #[inline]
    pub(super) fn raw(self, index: usize) -> RawEntry {
        let descriptor = self.first.descriptor.wrapping_add(self.step.wrapping_mul(index as u64));
        if index < self.entries { RawEntry { descriptor, ..self.first } } else { RawEntry::default() }
    }

    pub(super) fn entries(self) -> usize {
        self.entries
    }
}

/// What is known of the slices of an image. 0: nothing.
pub(super) struct Runs {
    shape: Shape,
    known: Box<[AtomicU64]>,
}

impl Runs {
    /// For an image with so many slices.
    pub(super) fn new(slices: u64, shape: Shape) -> Self {
        let count = slices.min(SLICES_MAX);
        Self { shape, known: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    fn place(&self, id: u64) -> Option<&AtomicU64> {
        self.known.get(usize::try_from(id).ok()?)
    }

    /// The slice with this number, if it is known to be a run.
    #[inline]
    pub(super) fn get(&self, id: u64) -> Option<Run> {
        let word = self.place(id)?.load(Ordering::Acquire);
        if word == 0 {
            return None;
        }
        let step = if word & FOLLOWS == 0 { 0 } else { self.shape.cluster_bytes };
        let bitmap = if word & DATA == 0 { 0 } else { u64::from(u32::MAX) };
        let first = RawEntry { descriptor: word & !KIND, bitmap };
        Some(Run { first, step, entries: self.shape.words >> self.shape.words_bits })
    }

    /// Notes a slice that is about to come into the cache.
    pub(super) fn note(&self, id: u64, words: &[u64]) {
        let word = word_of(self.shape, words);
        if let Some(place) = self.place(id) {
            place.store(word, Ordering::Release);
        }
    }

    /// An entry of the slice is about to change.
    #[inline]
    pub(super) fn forget(&self, id: u64) {
        if let Some(place) = self.place(id)
            && place.load(Ordering::Relaxed) != 0
        {
            place.store(0, Ordering::Release);
        }
    }

    /// Knows nothing any more.
    pub(super) fn clear(&self) {
        self.known.iter().for_each(|place| place.store(0, Ordering::Release));
    }
}

/// What is to be known of a slice of these numbers; 0 if it is no run.
fn word_of(shape: Shape, words: &[u64]) -> u64 {
    let (first, bitmap) = match (shape.words_bits, words) {
        (0, [first, ..]) => (*first, 0),
        (1, [first, bitmap, ..]) => (*first, *bitmap),
        _ => return 0,
    };
    let is_even = bitmap == 0 || bitmap == u64::from(u32::MAX);
    if words.len() != shape.words || first & KIND != 0 || !is_even {
        return 0;
    }
    let is_run = |step: u64| {
        let expected = (0_u64..).map(|index| first.wrapping_add(step.wrapping_mul(index)));
        let mut entries = words.chunks_exact(1 << shape.words_bits).zip(expected);
        entries.all(|(entry, expected)| match entry {
            [descriptor] => *descriptor == expected,
            [descriptor, other] => *descriptor == expected && *other == bitmap,
            _ => false,
        })
    };
    let data = if bitmap == 0 { 0 } else { DATA };
    match (is_run(shape.cluster_bytes), is_run(0)) {
        (true, _) => first | FOLLOWS | data,
        (false, true) => first | SAME | data,
        (false, false) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: Shape = Shape { words: 4, words_bits: 0, cluster_bytes: 65536 };
    const WIDE: Shape = Shape { words: 8, words_bits: 1, cluster_bytes: 65536 };
    const OWN: u64 = 1 << 63;
    const C: u64 = 65536;

    #[test]
    fn a_run_is_known_by_its_first_entry() {
        let all = u64::from(u32::MAX);
        for (shape, words) in [
            (NARROW, vec![OWN | C, OWN | (2 * C), OWN | (3 * C), OWN | (4 * C)]),
            (NARROW, vec![0; 4]),
            (NARROW, vec![1; 4]),
            (NARROW, vec![OWN | C | 1, OWN | (2 * C) | 1, OWN | (3 * C) | 1, OWN | (4 * C) | 1]),
            (WIDE, vec![OWN | C, all, OWN | (2 * C), all, OWN | (3 * C), all, OWN | (4 * C), all]),
            (WIDE, vec![0; 8]),
        ] {
            let runs = Runs::new(2, shape);
            assert_eq!(runs.get(1), None);
            runs.note(1, &words);
            let run = runs.get(1).unwrap();
            let entries = (0..4).flat_map(|index| {
                let raw = run.raw(index);
                [raw.descriptor, raw.bitmap].into_iter().take(1 << shape.words_bits)
            });
            assert_eq!(entries.collect::<Vec<_>>(), words);
            assert_eq!(run.raw(4), RawEntry::default());
            runs.forget(1);
            assert_eq!(runs.get(1), None);
        }
    }

    #[test]
    fn what_is_no_run_is_not_known() {
        let runs = Runs::new(1, NARROW);
        for words in [
            [OWN | C, OWN | (2 * C), OWN | (4 * C), OWN | (5 * C)],
            [OWN | C, OWN | (2 * C), OWN | (3 * C), 4 * C],
            [0, 0, 0, C],
            // Reserved bits: a fault, which has to be found.
            [2, 2, 2, 2],
        ] {
            runs.note(0, &words);
            assert_eq!(runs.get(0), None, "{words:x?}");
        }
        runs.note(0, &[0; 3]);
        runs.note(7, &[0; 4]);
        assert_eq!([0, 7].map(|id| runs.get(id)), [None; 2], "a part of a slice, and one too many");
        let wide = Runs::new(1, WIDE);
        wide.note(0, &[0, 1 << 32, 0, 1 << 32, 0, 1 << 32, 0, 1 << 32]);
        assert_eq!(wide.get(0), None);
    }
}
