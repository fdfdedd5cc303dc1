//! [`DataExtents`]: where a file is known to have data.
//!
//! Asking the kernel where data ends costs time in proportion to the data on some file systems, and block status is
//! asked cluster by cluster: without a memory, a scan of a large file would be quadratic.
//!
//! Invariant: only data is remembered, never a hole. A hole that is written meanwhile, here or by another process,
//! would be reported as zeroes and lost by whoever copies the disk; data that has become a hole is merely copied.

use std::sync::{Mutex, PoisonError};

use drystone_base::GuestRange;

/// How many stretches are remembered: about as many as there are readers at the same time.
const EXTENTS_MAX: usize = 8;

#[derive(Default)]
pub(super) struct DataExtents(Mutex<State>);

#[derive(Default)]
struct State {
    /// The latest first.
    extents: Vec<GuestRange>,
    generation: u64,
}

/// A moment; what was found out since then is not remembered if a range was forgotten in between.
pub(super) struct Moment(u64);

impl DataExtents {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of the beginning of `range` is known to be data; or a moment to remember the kernel's answer from.
    pub(super) fn look_up(&self, range: GuestRange) -> Result<u64, Moment> {
        let state = self.state();
        let start = range.start();
        let known = state.extents.iter().find(|extent| extent.start() <= start && start < extent.end());
        match known {
            Some(extent) => Ok((extent.end().get() - start.get()).min(range.len())),
            None => Err(Moment(state.generation)),
        }
    }

    /// `range` is data. With what is known of the same stretch, it is remembered as one.
    pub(super) fn remember(&self, since: Moment, range: GuestRange) {
        let mut state = self.state();
        if state.generation != since.0 {
            return;
        }
        let of_range = |extent: &&GuestRange| extent.start() <= range.end() && range.start() <= extent.end();
        let all = state.extents.iter().filter(of_range).fold(range, |all, extent| all.hull(*extent));
        state.extents.retain(|extent| !of_range(&extent));
        state.extents.truncate(EXTENTS_MAX - 1);
        state.extents.insert(0, all);
    }

    /// `range` may become a hole.
    pub(super) fn forget(&self, range: GuestRange) {
        let mut state = self.state();
        state.generation += 1;
        state.extents.retain(|extent| !extent.overlaps(range));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_base::GuestOffset;

    fn range(start: u64, len: u64) -> GuestRange {
        GuestRange::new(GuestOffset::new(start), len)
    }

    fn known(extents: &DataExtents, at: u64) -> Option<u64> {
        extents.look_up(range(at, 1000)).ok()
    }

    fn learn(extents: &DataExtents, what: GuestRange) {
        if let Err(moment) = extents.look_up(range(what.start().get(), 1)) {
            extents.remember(moment, what);
        }
    }

    #[test]
    fn what_was_found_is_known_to_its_end() {
        let extents = DataExtents::default();
        learn(&extents, range(100, 50));
        assert_eq!((known(&extents, 99), known(&extents, 100)), (None, Some(50)));
        assert_eq!((known(&extents, 149), known(&extents, 150)), (Some(1), None));
        assert_eq!(extents.look_up(range(100, 10)).ok(), Some(10));
    }

    #[test]
    fn answers_about_one_stretch_are_one() {
        let extents = DataExtents::default();
        learn(&extents, range(100, 50));
        let Err(moment) = extents.look_up(range(0, 10)) else { panic!("nothing is known of it") };
        extents.remember(moment, range(120, 30));
        assert_eq!(known(&extents, 100), Some(50), "whoever asked later knows no less");
        learn(&extents, range(150, 10));
        assert_eq!(known(&extents, 100), Some(60));
    }

    #[test]
    fn an_answer_that_is_older_than_a_hole_is_not_kept() {
        let extents = DataExtents::default();
        let Err(moment) = extents.look_up(range(0, 10)) else { panic!("nothing is known") };
        extents.forget(range(500, 1));
        extents.remember(moment, range(0, 10));
        assert_eq!(known(&extents, 0), None);
    }

    #[test]
    fn a_hole_makes_what_it_touches_unknown() {
        let extents = DataExtents::default();
        learn(&extents, range(0, 100));
        learn(&extents, range(200, 100));
        extents.forget(range(50, 1));
        assert_eq!((known(&extents, 0), known(&extents, 200)), (None, Some(100)));
    }

    #[test]
    fn few_are_kept_the_latest_of_them() {
        let extents = DataExtents::default();
        for n in 0..20 {
            learn(&extents, range(n * 10, 5));
        }
        assert_eq!((known(&extents, 110), known(&extents, 120)), (None, Some(5)));
    }
}
