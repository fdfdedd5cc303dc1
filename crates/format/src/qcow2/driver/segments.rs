//! [`Segments`]: a list that only grows, read without a lock.
//!
//! ```text
//!   first [ ######## ]   more[0] [ #### ]   more[1] [ ######## ]   more[2]  -       each twice as long as the one before
//! ```
//! What was made stays where it is until the list goes, so a look-up is an address and two comparisons. Not here: what
//! the places hold, and who may use them.

use std::sync::OnceLock;

/// Length of the first of `more`.
const UNIT: usize = 64;
/// Enough for more places than any table of the format has.
const MORE: usize = 32;

pub(super) struct Segments<T> {
    first: Box<[T]>,
    more: [OnceLock<Box<[T]>>; MORE],
}

impl<T: Default> Segments<T> {
    /// Starts with these.
    pub(super) fn new(first: impl Iterator<Item = T>) -> Self {
        Self { first: first.collect(), more: [const { OnceLock::new() }; MORE] }
    }

    /// The place at `index`, if there is one.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        match self.first.get(index) {
            Some(place) => Some(place),
            None => {
                let (segment, index) = locate(index - self.first.len())?;
                self.more.get(segment)?.get()?.get(index)
            }
        }
    }

    /// Makes places until there is one at `index`.
    pub(super) fn grow_to(&self, index: usize) {
        let Some(behind) = index.checked_sub(self.first.len()) else { return };
        let last = locate(behind).map_or(MORE, |(segment, _)| segment);
        for (number, segment) in self.more.iter().enumerate().take(last.saturating_add(1)) {
            segment.get_or_init(|| (0..UNIT << number).map(|_| T::default()).collect());
        }
    }
}

/// Which of `more` has a place, and where.
#[inline]
fn locate(behind: usize) -> Option<(usize, usize)> {
    let units = (behind / UNIT).checked_add(1)?;
    let segment = units.ilog2();
    let start = UNIT.checked_mul((1 << segment) - 1)?;
    Some((usize::try_from(segment).ok()?, behind - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_up_to_the_last_is_its_own() {
        for first in [0, 1, 100] {
            let segments = Segments::new((0..first).map(|_| std::sync::Mutex::new(0)));
            assert!(segments.get(first).is_none());
            segments.grow_to(1000);
            for index in 0..=1000 {
                *segments.get(index).unwrap().lock().unwrap() += index + 1;
            }
            for index in 0..=1000 {
                assert_eq!(*segments.get(index).unwrap().lock().unwrap(), index + 1);
            }
            assert!(segments.get(5000).is_none());
            assert!(segments.get(usize::MAX).is_none());
        }
    }
}
