//! Marks of a bitmap: set by requests, harvested by whoever looks.

use std::sync::Arc;

use drystone_base::{GuestOffset, GuestRange};
use loom::thread;

use super::{explore, join};
use crate::bitmap::{Bits, Granularity, Marks};

/// A bit of the second piece, two tables down.
const AT: GuestRange = GuestRange::new(GuestOffset::new(512 * 130 * 2), 1);
/// Its neighbour in the same word.
const NEAR: GuestRange = GuestRange::new(GuestOffset::new(512 * (130 * 2 + 1)), 1);
const LEN_BYTES: u64 = 1 << 20;

fn clean() -> Bits {
    Bits::new(Granularity::FINEST, LEN_BYTES)
}

/// Tables and leaves are made once, under locks that loom does not know.
fn marks() -> Arc<Marks> {
    let marks = Marks::new(Granularity::FINEST);
    marks.mark(AT);
    marks.harvest(&mut clean());
    Arc::new(marks)
}

fn has(bits: &Bits, range: GuestRange) -> bool {
    bits.get(range.start())
}

/// Two requests mark the same bit while somebody harvests. The one that has ended is in that harvest or in the next one,
/// whether it set the bit or found it set.
pub fn a_mark_is_in_the_next_harvest_or_in_one_before() {
    explore(3, || {
        let marks = marks();
        let first = Arc::clone(&marks);
        let other = thread::spawn(move || first.mark(AT));
        let second = Arc::clone(&marks);
        let writer = thread::spawn(move || second.mark(AT));
        let mut bits = clean();
        marks.harvest(&mut bits);
        join([writer]);
        marks.harvest(&mut bits);
        assert!(has(&bits, AT));
        join([other]);
    });
}

/// Nothing that was marked is lost, and nothing else appears, over all harvests.
pub fn all_harvests_together_have_every_mark() {
    explore(3, || {
        let marks = marks();
        let one = Arc::clone(&marks);
        let writer = thread::spawn(move || one.mark(AT));
        let two = Arc::clone(&marks);
        let other = thread::spawn(move || two.mark(NEAR));
        let mut bits = clean();
        marks.harvest(&mut bits);
        join([writer, other]);
        marks.harvest(&mut bits);
        assert!(has(&bits, AT));
        assert!(has(&bits, NEAR));
        assert_eq!(bits.set_bits(), 2);
    });
}

/// A request that finds its bit set, and ends, is in a harvest that begins then, however late the one that set it is.
pub fn whoever_finds_its_bit_set_is_harvested_like_whoever_set_it() {
    explore(4, || {
        let marks = marks();
        let slow = Arc::clone(&marks);
        let other = thread::spawn(move || slow.mark(AT));
        marks.mark(AT);
        let mut bits = clean();
        marks.harvest(&mut bits);
        assert!(has(&bits, AT));
        join([other]);
    });
}
