//! A bitmap against a plain list of booleans, over the sizes at which words, pieces and tables begin and end.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, outside of the tests themselves"
)]

use drystone_base::{GuestOffset, GuestRange};
use proptest::prelude::*;

use super::bits::Part;
use super::leaf::LEAF_BITS;
use super::marks::Marks;
use super::{Bits, Granularity};

const L1: u64 = 64;
const L2: u64 = LEAF_BITS;
const L3: u64 = LEAF_BITS * 3;

fn grain(log2: u8) -> Granularity {
    Granularity::from_log2(log2).unwrap()
}

fn range(start: u64, len: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(start), len)
}

/// A bitmap of `bits` bits and what it should be.
struct Shadowed {
    bits: Bits,
    shadow: Vec<bool>,
    log2: u8,
}

impl Shadowed {
    fn new(count: u64, log2: u8) -> Self {
        let shadow = vec![false; usize::try_from(count).unwrap()];
        Self { bits: Bits::new(grain(log2), count << log2), shadow, log2 }
    }

    fn fill(&mut self, first: u64, count: u64, value: bool) -> &mut Self {
        let bytes = range(first << self.log2, count << self.log2);
        if value {
            self.bits.set(bytes)
        } else {
            self.bits.reset(bytes)
        }
        let len = self.shadow.len();
        let ends = [first, first + count].map(|end| usize::try_from(end).unwrap().min(len));
        self.shadow[ends[0]..ends[1]].fill(value);
        self.check()
    }

    fn check(&mut self) -> &mut Self {
        let set = self.shadow.iter().filter(|bit| **bit).count() as u64;
        assert_eq!(self.bits.set_bits(), set);
        let found: Vec<(u64, u64)> =
            self.bits.all_areas().map(|area| (area.start().get(), area.len())).collect();
        assert_eq!(found, self.runs());
        self
    }

    fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (index, _) in (0_u64..).zip(&self.shadow).filter(|(_, bit)| **bit) {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == index << self.log2 => *len += 1 << self.log2,
                _ => runs.push((index << self.log2, 1 << self.log2)),
            }
        }
        runs
    }

    fn truncate(&mut self, count: u64) -> &mut Self {
        self.bits.truncate(count << self.log2);
        self.shadow.resize(usize::try_from(count).unwrap(), false);
        self.check()
    }

    fn linear(&self, from: u64, len: u64, value: bool) -> Option<u64> {
        let end = (from + len).min(self.shadow.len() as u64);
        (from..end).find(|index| self.shadow[usize::try_from(*index).unwrap()] == value)
    }

    fn check_next(&self, from: u64, len: u64) {
        let bytes = range(from << self.log2, len << self.log2);
        let at = |found: Option<GuestOffset>| found.map(|at| at.get() >> self.log2);
        assert_eq!(at(self.bits.next_dirty(bytes)), self.linear(from, len, true), "{from}+{len}");
        assert_eq!(at(self.bits.next_zero(bytes)), self.linear(from, len, false), "{from}+{len}");
        for max in [1, 3, u64::MAX >> self.log2] {
            let area = self.bits.next_dirty_area(bytes, max << self.log2);
            let expected = self.linear(from, len, true).map(|start| {
                let limit = (from + len).min(self.shadow.len() as u64).min(start.saturating_add(max));
                let end = self.linear(start, limit - start, false).unwrap_or(limit);
                range(start << self.log2, (end - start) << self.log2)
            });
            assert_eq!(area, expected, "{from}+{len}, at most {max}");
        }
    }
}

#[test]
fn an_empty_disk_has_an_empty_bitmap() {
    let mut zero = Shadowed::new(0, 9);
    zero.check();
    assert_eq!((zero.bits.bits(), zero.bits.stored_len()), (0, 0));
    assert!(!zero.bits.get(GuestOffset::ZERO));
    zero.bits.set(range(0, 512));
    zero.check();
    assert_eq!(zero.bits.next_zero(range(0, 512)), None);
}

#[test]
fn a_part_of_a_granule_at_the_end_counts_whole() {
    let mut bits = Bits::new(grain(12), 4096 * 3 + 1);
    assert_eq!(bits.bits(), 4);
    bits.set(range(4096 * 3, 1));
    assert_eq!((bits.set_bits(), bits.dirty_bytes()), (1, 4096));
    let areas: Vec<_> = bits.all_areas().collect();
    assert_eq!(areas, [range(4096 * 3, 1)]);
    bits.set(range(4096 * 3, 1 << 40));
    assert_eq!(bits.set_bits(), 1);
    bits.reset(range(4096 * 3, 1));
    assert!(bits.is_clean());
}

#[test]
fn a_granule_is_dirty_with_any_of_its_bytes_and_clean_only_as_a_whole() {
    let mut bits = Bits::new(grain(16), 1 << 20);
    bits.set(range(65535, 2));
    assert_eq!(bits.set_bits(), 2);
    bits.reset(range(1, 131_070));
    assert_eq!(bits.set_bits(), 2);
    bits.reset(range(1, 131_071));
    assert!(bits.get(GuestOffset::ZERO) && !bits.get(GuestOffset::new(65536)));
    bits.set(range(70000, 0));
    assert_eq!(bits.set_bits(), 1);
}

#[test]
fn set_and_reset_at_the_edges_of_words_pieces_and_tables() {
    for log2 in [9, 31] {
        for edge in [L1, L2, L3] {
            let mut all = Shadowed::new(edge * 2, log2);
            all.fill(0, edge * 2, true).fill(0, edge * 2, false);
            for (first, count) in
                [(edge - 1, 1), (edge - 1, 2), (edge, 1), (0, edge), (edge / 2, edge), (edge, edge)]
            {
                all.fill(first, count, true);
                all.fill(first, count, true);
            }
            all.fill(edge - 1, 2, false).fill(0, 1, false).fill(edge * 2 - 1, 1, false).fill(
                0,
                edge * 2,
                false,
            );
        }
    }
}

#[test]
fn two_elements_far_apart_are_two() {
    for (size, a, b) in
        [(L1, 0, L1 - 1), (L2, 0, L2 - 1), (L2 * 2, L2 - 1, L2), (L3, 0, L3 - 1), (L3 + L1, L3 - 1, L3)]
    {
        Shadowed::new(size, 12).fill(a, 1, true).fill(b, 1, true).fill(a, 1, false);
    }
}

#[test]
fn runs_that_overlap_become_one() {
    let mut bits = Shadowed::new(L3 * 2, 9);
    bits.fill(L3 - L1, 2 * L1, true).fill(L3, L2, true).fill(0, L3, true).fill(L1, L3, false);
}

#[test]
fn iteration_begins_where_it_is_told() {
    let mut bits = Shadowed::new(L3, 12);
    bits.fill(0, L3, true);
    for from in [0, 1, L1 - 1, L1, L2 - 1, L2, L2 + 1, L3 - 1] {
        let rest: u64 = bits.bits.areas(range(from << 12, (L3 - from) << 12)).map(GuestRange::len).sum();
        assert_eq!(rest, (L3 - from) << 12);
    }
    // Between granules.
    let first = bits.bits.areas(range((7 << 12) + 5, 4096)).next();
    assert_eq!(first, Some(range((7 << 12) + 5, 4096)));
}

#[test]
fn iteration_after_a_reset_finds_nothing_stale() {
    let mut bits = Shadowed::new(L3, 9);
    bits.fill(0, L3, true);
    let before = bits.bits.clone();
    bits.fill(0, L3, false);
    assert_eq!(bits.bits.all_areas().next(), None);
    assert_eq!(before.set_bits(), L3);
}

#[test]
fn truncation_keeps_and_drops_exactly_the_right_bits() {
    for start in [L1, L2, L3] {
        for delta in [0, 1, 3, L1 / 2, L1, L1 + 1, L2, L2 + L1 + 1] {
            let mut grown = Shadowed::new(start, 9);
            grown.fill(0, start, true).truncate(start + delta).fill(start, delta, true);
            let mut shrunk = Shadowed::new(start + delta, 9);
            shrunk
                .fill(0, start + delta, true)
                .truncate(start)
                .truncate(start + delta)
                .fill(start, delta, true);
        }
    }
}

#[test]
fn truncation_within_a_granule_changes_nothing_but_the_length() {
    let mut bits = Bits::new(grain(16), 65536 * 2 - 100);
    bits.set(range(65536, 10));
    for len in [65536 * 2, 65536 + 1, 65536 + 512] {
        bits.truncate(len);
        assert_eq!((bits.bits(), bits.set_bits(), bits.len_bytes()), (2, 1, len));
    }
    bits.truncate(65536);
    bits.truncate(65536 * 2);
    assert!(bits.is_clean());
}

#[test]
fn the_next_of_each_kind_is_where_a_linear_search_finds_it() {
    for log2 in [9, 13] {
        let mut bits = Shadowed::new(L2 * 2 + L1 + 7, log2);
        for step in 0..4 {
            for from in [0, 1, L1 - 1, L1, L1 + 1, L2 - 1, L2, L2 + 1, L2 * 2, L2 * 2 + L1 + 6] {
                for len in [1, 2, L1, L2, L2 * 3] {
                    bits.check_next(from, len);
                }
            }
            match step {
                0 => drop(bits.fill(L1 - 1, 2, true)),
                1 => drop(bits.fill(L2 - 3, L2 + 9, true)),
                _ => drop(bits.fill(0, L2 * 3, true)),
            }
        }
        bits.truncate(L2 + 1);
        bits.check_next(0, L2 * 3);
        bits.truncate(L2 * 3);
        bits.check_next(L2, L2 * 3);
    }
}

/// Stores in pieces of `chunk` bytes, and loads what was stored.
fn round_trip(bits: &Bits, chunk: usize) -> Bits {
    let mut loaded = Bits::new(bits.granularity(), bits.len_bytes());
    let mut at = 0;
    while at < bits.stored_len() {
        let len = usize::try_from(bits.stored_len() - at).unwrap().min(chunk);
        let mut bytes = vec![0xff; len];
        bits.store(at, &mut bytes);
        match bits.stored_part(at, len as u64) {
            Part::Clear => assert!(bytes.iter().all(|byte| *byte == 0)),
            Part::Set => loaded.load_set(at, len as u64),
            Part::Mixed => {}
        }
        loaded.load(at, &bytes);
        at += len as u64;
    }
    loaded
}

#[test]
fn stored_bits_are_little_endian_and_come_back() {
    let mut bits = Bits::new(grain(9), 512 * 20);
    [0, 9, 19].into_iter().for_each(|bit| bits.set(range(bit * 512, 1)));
    let mut bytes = [0xff; 4];
    bits.store(0, &mut bytes);
    assert_eq!(bytes, [0b1, 0b10, 0b1000, 0]);
    for count in [1, 7, 8, 9, 63, L1, L1 + 1, L2, L2 + 5, L2 * 3 + 77] {
        let mut all = Shadowed::new(count, 16);
        all.fill(0, count, true);
        assert_eq!(round_trip(&all.bits, 4096), all.bits);
        all.fill(count / 2, 1, false);
        for chunk in [8, 512, 4096, 1 << 20] {
            assert_eq!(round_trip(&all.bits, chunk), all.bits);
        }
    }
}

#[test]
fn loading_leaves_out_what_lies_past_the_end() {
    let mut bits = Bits::new(grain(9), 512 * 10);
    bits.load(0, &[0xff; 64]);
    assert_eq!(bits.set_bits(), 10);
    bits.load(1 << 40, &[0xff; 64]);
    bits.load(u64::MAX, &[0xff; 64]);
    bits.load_set(1, u64::MAX);
    assert_eq!(bits.set_bits(), 10);
}

#[test]
fn a_clean_bitmap_of_a_very_large_disk_costs_nothing_and_searches_take_no_time() {
    let mut bits = Bits::new(Granularity::FINEST, drystone_base::LEN_MAX);
    assert_eq!(bits.memory(&mut Default::default()), 0);
    bits.set(range(drystone_base::LEN_MAX - 512, 512));
    assert!(bits.memory(&mut Default::default()) < 10_000);
    assert_eq!(
        bits.next_dirty(range(0, drystone_base::LEN_MAX)).unwrap().get(),
        drystone_base::LEN_MAX - 512
    );
    bits.truncate(1 << 30);
    assert!(bits.is_clean());
    let marks = Marks::new(Granularity::FINEST);
    marks.mark(range(drystone_base::LEN_MAX - 1, 1));
    marks.mark(range(1 << 42, 10 << 30));
    let mut bits = Bits::new(Granularity::FINEST, drystone_base::LEN_MAX);
    marks.harvest(&mut bits);
    assert_eq!(bits.all_areas().map(GuestRange::len).collect::<Vec<_>>(), [10 << 30, 512]);
    marks.harvest(&mut bits);
}

#[test]
fn granularities_are_powers_of_two_in_their_range() {
    assert_eq!(Granularity::from_bytes(512), Some(Granularity::FINEST));
    assert_eq!(Granularity::from_bytes(2 << 30).map(Granularity::log2), Some(31));
    for bytes in [0, 1, 256, 513, 4 << 30, u64::MAX, 1 << 63] {
        assert_eq!(Granularity::from_bytes(bytes), None, "{bytes}");
    }
    let by_default = |cluster| Granularity::by_default(cluster).bytes();
    assert_eq!([by_default(None), by_default(Some(512)), by_default(Some(2 << 20))], [65536, 4096, 65536]);
    for index in 0..Granularity::COUNT {
        assert_eq!(Granularity::from_index(index).unwrap().index(), index);
    }
}

/// Many threads mark; what is harvested meanwhile and afterwards is all that they have marked.
#[test]
fn marks_of_many_threads_are_all_harvested() {
    let marks = Marks::new(Granularity::FINEST);
    let mut found = Bits::new(Granularity::FINEST, 1 << 30);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let marks = &marks;
            scope.spawn(move || {
                for step in 0..5000 {
                    marks.mark(range(((step * 7919 + thread) % (1 << 21)) * 512, 512));
                }
            });
        }
        for _ in 0..50 {
            marks.harvest(&mut found);
        }
    });
    marks.harvest(&mut found);
    for (thread, step) in (0..4_u64).flat_map(|thread| (0..5000_u64).map(move |step| (thread, step))) {
        assert!(found.get(GuestOffset::new(((step * 7919 + thread) % (1 << 21)) * 512)));
    }
}

#[derive(Debug, Clone)]
enum Do {
    Set(u64, u64),
    Reset(u64, u64),
    Truncate(u64),
    Store(usize),
    Merge(u64, u64, u8),
    Mark(u64, u64),
}

const BYTES_MAX: u64 = (L2 * 2 + 100) * 1024;

fn actions() -> impl Strategy<Value = Vec<Do>> {
    let at = || prop_oneof![0..BYTES_MAX, 0..4096_u64, (BYTES_MAX / 2 - 2048)..(BYTES_MAX / 2 + 2048)];
    let len = || prop_oneof![1..2000_u64, 1..BYTES_MAX / 2];
    prop::collection::vec(
        prop_oneof![
            (at(), len()).prop_map(|(a, b)| Do::Set(a, b)),
            (at(), len()).prop_map(|(a, b)| Do::Reset(a, b)),
            at().prop_map(Do::Truncate),
            (1..9000_usize).prop_map(|chunk| Do::Store(chunk.next_multiple_of(8))),
            (at(), len(), 9..14_u8).prop_map(|(a, b, c)| Do::Merge(a, b, c)),
            (at(), len()).prop_map(|(a, b)| Do::Mark(a, b)),
        ],
        1..30,
    )
}

/// The granules of 1 KiB that `start..start + len` touches.
fn touch(model: &mut [bool], start: u64, len: u64, step: u64) {
    // A granule that the disk ends in counts for what lies past the end, too: too much rather than too little.
    let first = start / step * step / 1024;
    let end = ((start + len).div_ceil(step) * step).div_ceil(1024).min(model.len() as u64);
    for index in first..end {
        model[usize::try_from(index).unwrap()] = true;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_that_is_done_to_bits_is_what_a_list_of_booleans_says(actions in actions()) {
        let mut len = BYTES_MAX;
        let mut bits = Bits::new(grain(10), len);
        let mut model = vec![false; usize::try_from(len.div_ceil(1024)).unwrap()];
        let marks = Marks::new(grain(10));
        for action in actions {
            match action {
                Do::Set(start, count) => {
                    bits.set(range(start, count));
                    touch(&mut model, start, count, 1024);
                }
                Do::Reset(start, count) => {
                    bits.reset(range(start, count));
                    let first = usize::try_from(start.div_ceil(1024)).unwrap();
                    let end = if start + count >= len { model.len() } else { usize::try_from((start + count) / 1024).unwrap() };
                    if first < end { model[first..end].fill(false); }
                }
                Do::Truncate(to) => {
                    bits.truncate(to);
                    len = to;
                    model.resize(usize::try_from(to.div_ceil(1024)).unwrap(), false);
                }
                Do::Store(chunk) => bits = round_trip(&bits, chunk),
                Do::Merge(start, count, log2) => {
                    let mut other = Bits::new(grain(log2), len);
                    other.set(range(start, count));
                    // A coarse granule at the end reaches no further than the disk, and a fine one behind it is not there.
                    if start < len.next_multiple_of(1 << log2) {
                        touch(&mut model, start, count, 1 << log2);
                    }
                    bits.merge(&other);
                }
                Do::Mark(start, count) => {
                    marks.mark(range(start, count));
                    let mut found = Bits::new(grain(10), len);
                    marks.harvest(&mut found);
                    bits.merge(&found);
                    touch(&mut model, start, count, 1024);
                }
            }
            let set = model.iter().filter(|bit| **bit).count() as u64;
            prop_assert_eq!(bits.set_bits(), set);
        }
        for (index, bit) in (0_u64..).zip(&model) {
            prop_assert_eq!(bits.get(GuestOffset::new(index * 1024)), *bit);
        }
        let coarse = bits.at_granularity(grain(16));
        for area in bits.all_areas() {
            prop_assert!(coarse.next_zero(area).is_none());
        }
    }
}
