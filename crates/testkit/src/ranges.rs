//! [`RangeMap`] and [`RangeSet`]: values over ranges of bytes.
//!
//! ```text
//!  set(0..8, a)  set(4..12, b)        0    4         12
//!                                     |--a-|----b----|      gaps hold nothing; equal neighbours are one piece
//! ```
//! Invariants: pieces are not empty, do not overlap, and two that touch hold different values. So equal contents are
//! equal maps, and a map of few different values stays small however it was written.

use std::collections::BTreeMap;
use std::ops::Range;

/// Values over ranges of `u64` positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeMap<V> {
    /// Start to (end, value).
    pieces: BTreeMap<u64, (u64, V)>,
}

/// A set of positions, as ranges.
pub type RangeSet = RangeMap<()>;

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self { pieces: BTreeMap::new() }
    }
}

impl<V: Clone + PartialEq> RangeMap<V> {
    /// A map that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A map that holds `value` over `range`.
    #[must_use]
    pub fn of(range: Range<u64>, value: V) -> Self {
        let mut map = Self::new();
        map.set(range, value);
        map
    }

    /// Holds `value` over `range` from now on.
    pub fn set(&mut self, range: Range<u64>, value: V) {
        self.update(range, |_| Some(value.clone()));
    }

    /// Holds nothing over `range` from now on.
    pub fn clear(&mut self, range: Range<u64>) {
        self.update(range, |_| None);
    }

    /// Replaces what each piece of `range`, and each gap between them, holds.
    pub fn update(&mut self, range: Range<u64>, mut change: impl FnMut(Option<&V>) -> Option<V>) {
        if range.is_empty() {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        let fresh: Vec<_> = self.over(range.clone()).map(|(at, held)| (at, change(held))).collect();
        let stale: Vec<u64> = self.pieces.range(range.clone()).map(|(&start, _)| start).collect();
        for start in stale {
            self.pieces.remove(&start);
        }
        for (at, held) in fresh {
            if let Some(value) = held {
                self.push(at, value);
            }
        }
        self.join_at(range.end);
    }

    /// The pieces of `range` in order, gaps included, cut off at its ends.
    pub fn over(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, Option<&V>)> {
        let before = self.pieces.range(..=range.start).next_back().map(|(&start, _)| start);
        let mut pieces = self.pieces.range(before.unwrap_or(range.start)..range.end).peekable();
        let mut at = range.start;
        std::iter::from_fn(move || {
            while pieces.next_if(|(_, (end, _))| *end <= at).is_some() {}
            if at >= range.end {
                return None;
            }
            let start = at;
            let held = match pieces.peek() {
                Some((from, (end, value))) if **from <= at => {
                    at = (*end).min(range.end);
                    Some(value)
                }
                Some((from, _)) => {
                    at = (**from).min(range.end);
                    None
                }
                None => {
                    at = range.end;
                    None
                }
            };
            Some((start..at, held))
        })
    }

    /// The pieces that hold something, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &V)> {
        self.pieces.iter().map(|(&start, (end, value))| (start..*end, value))
    }

    /// The number of pieces.
    #[must_use]
    pub fn piece_count(&self) -> usize {
        self.pieces.len()
    }

    /// How many positions hold something.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.iter().map(|(range, _)| range.end - range.start).sum()
    }

    /// Whether nothing is held anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Makes sure that no piece lies across `at`.
    fn cut(&mut self, at: u64) {
        if let Some((_, (end, value))) = self.pieces.range_mut(..at).next_back()
            && *end > at
        {
            let tail = (std::mem::replace(end, at), value.clone());
            self.pieces.insert(at, tail);
        }
    }

    /// Adds a piece into a gap, joined to the piece before it if that holds the same.
    fn push(&mut self, at: Range<u64>, value: V) {
        if let Some((_, (end, before))) = self.pieces.range_mut(..at.start).next_back()
            && *end == at.start
            && *before == value
        {
            *end = at.end;
        } else {
            self.pieces.insert(at.start, (at.end, value));
        }
    }

    /// Joins the pieces that meet at `at` if they hold the same.
    fn join_at(&mut self, at: u64) {
        if let Some((end, value)) = self.pieces.remove(&at) {
            self.push(at..end, value);
        }
    }
}

impl RangeSet {
    /// The parts of `range` that are in the set, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.over(range).filter_map(|(at, held)| held.map(|()| at))
    }

    /// Whether any position of `range` is in the set.
    #[must_use]
    pub fn touches(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index;
    use proptest::prelude::*;

    fn pieces(map: &RangeMap<char>) -> String {
        map.iter().map(|(at, value)| format!("{}-{}{value} ", at.start, at.end)).collect()
    }

    #[test]
    fn a_later_value_wins_where_ranges_overlap() {
        let mut map = RangeMap::of(0..8, 'a');
        map.set(4..12, 'b');
        assert_eq!(pieces(&map), "0-4a 4-12b ");
        map.clear(2..6);
        assert_eq!(pieces(&map), "0-2a 6-12b ");
    }

    #[test]
    fn equal_neighbours_are_one_piece() {
        let mut map = RangeMap::of(0..4, 'a');
        map.set(8..12, 'a');
        map.set(4..8, 'a');
        assert_eq!(map.piece_count(), 1);
    }

    #[test]
    fn walking_a_range_shows_gaps_and_cuts_the_ends() {
        let map = RangeMap::of(4..8, 'a');
        let seen: Vec<_> = map.over(2..6).map(|(at, held)| (at, held.copied())).collect();
        assert_eq!(seen, [(2..4, None), (4..6, Some('a'))]);
        assert_eq!(map.over(6..6).count(), 0);
    }

    proptest! {
        #[test]
        fn a_map_holds_what_an_array_would(changes in prop::collection::vec((0_u64..32, 0_u64..32, 0_u8..4), 0..24)) {
            let mut array = [0_u8; 32];
            let mut map = RangeMap::new();
            for (a, b, value) in changes {
                let (start, end) = (a.min(b), a.max(b));
                array[index(start)..index(end)].fill(value);
                map.update(start..end, |_| (value != 0).then_some(value));
            }
            let mut flat = [0_u8; 32];
            let mut last: Option<(u64, u8)> = None;
            for (at, &value) in map.iter() {
                flat[index(at.start)..index(at.end)].fill(value);
                prop_assert!(last != Some((at.start, value)), "neighbours were not joined");
                last = Some((at.end, value));
            }
            prop_assert_eq!(flat, array);
            let walked: Vec<u8> = map.over(0..32)
                .flat_map(|(at, held)| at.map(move |_| held.copied().unwrap_or(0))).collect();
            prop_assert_eq!(walked.as_slice(), array.as_slice());
        }
    }
}
