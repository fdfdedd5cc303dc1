//! Which slices stay, and that readers never see one for another.

use super::*;

const SHAPE: Shape = Shape { words: 4, words_bits: 0, cluster_bytes: 4096 };

fn filled(slices_max: usize, count: u64) -> Slices {
    let slices = Slices::new(slices_max, 1 << 20, SHAPE);
    (0..count).for_each(|id| insert(&slices, id, 0..4));
    slices
}

/// Brings a slice into the cache.
fn insert(slices: &Slices, id: u64, words: impl Iterator<Item = u64>) {
    let words: Vec<u64> = words.take(slices.shape.words).collect();
    slices.bring(SliceId(id), &words, Wanted::Change);
}

fn publish(slices: &Slices, id: u64, index: usize, expected: &[u64], new: &[u64]) -> Published {
    let [expected, new] =
        [expected, new].map(|raws| raws.iter().map(|raw| RawEntry::standard(*raw)).collect::<Vec<_>>());
    slices.publish(SliceId(id), index, (&expected, &new))
}

#[test]
fn clean_slices_leave_when_others_come() {
    for slices_max in [0, 1, 4, 5, 64, 100, 8192] {
        let slices = filled(slices_max, 20_000);
        assert_eq!(slices.pool().in_use(), slices_max.max(SLICES_MIN), "{slices_max}");
        assert!(slices.has(SliceId(19_999), Wanted::Change), "{slices_max}");
    }
}

#[test]
fn a_slice_that_is_looked_at_outlives_others() {
    let slices = filled(4, 4);
    for id in 4..100 {
        insert(&slices, id, 0..4);
        assert_eq!(slices.with(SliceId(3), |slice| slice.raw(1).descriptor), Some(1), "{id}");
    }
}

#[test]
fn dirty_slices_stay_until_they_are_stored() {
    let slices = filled(4, 0);
    for id in 0..16 {
        insert(&slices, id, 0..4);
        assert_eq!(publish(&slices, id, 1, &[1, 2], &[7, 8]), Published::Done);
    }
    assert!(slices.wants_store());
    assert_eq!(slices.pool().in_use(), 16);
    let taken = slices.take_dirty(|_| Some(HostOffset::ZERO));
    assert_eq!(taken.len(), 16);
    insert(&slices, 16, 0..4);
    assert_eq!(slices.pool().in_use(), 17, "slices that are being written stay");
    taken.iter().for_each(|image| slices.stored(image.id, image.id != SliceId(2)));
    insert(&slices, 17, 0..4);
    assert!(slices.pool().in_use() <= slices.max());
    assert_eq!(slices.with(SliceId(2), |slice| slice.raw(2).descriptor), Some(8), "dirty again");
    assert_eq!(slices.take_dirty(|_| Some(HostOffset::ZERO)).len(), 1);
}

#[test]
fn entries_that_are_not_as_expected_are_not_changed() {
    let slices = filled(4, 1);
    assert_eq!(publish(&slices, 0, 0, &[0, 2], &[7, 7]), Published::Changed);
    assert_eq!(publish(&slices, 0, 3, &[3, 4], &[7, 7]), Published::Changed, "past the end");
    assert_eq!(publish(&slices, 1, 0, &[0], &[7]), Published::Absent);
    assert!(slices.take_dirty(|_| None).is_empty());
}

#[test]
fn a_smaller_bound_lets_slices_leave_and_keeps_no_others() {
    let slices = filled(100, 100);
    slices.set_max(10);
    insert(&slices, 100, 0..4);
    assert_eq!(slices.pool().in_use(), 10);
    slices.set_max(200);
    (200..400).for_each(|id| insert(&slices, id, 0..4));
    assert_eq!(slices.pool().in_use(), 200);
}

#[test]
fn a_cleaning_takes_what_nobody_looks_at_and_keeps_what_is_dirty() {
    let slices = filled(16, 8);
    assert_eq!(publish(&slices, 1, 0, &[0], &[7]), Published::Done);
    let look = |id| slices.with(SliceId(id), |slice| slice.raw(1)).is_some();
    // The first look is that of whoever brought it in.
    assert!([2, 3, 3].map(look).iter().all(|found| *found));
    slices.clean();
    let left: Vec<u64> = (0..8).filter(|id| slices.has(SliceId(*id), Wanted::Change)).collect();
    assert_eq!(left, [1, 3]);
    slices.clean();
    assert!(!slices.has(SliceId(3), Wanted::Change));
    slices.take_dirty(|_| Some(HostOffset::ZERO)).iter().for_each(|image| slices.stored(image.id, true));
    slices.clean();
    assert!(!slices.has(SliceId(1), Wanted::Change));
    insert(&slices, 3, 0..4);
    assert!(look(3));
}

#[test]
fn what_is_forgotten_is_not_stored() {
    let slices = filled(4, 3);
    assert_eq!(publish(&slices, 1, 0, &[0], &[7]), Published::Done);
    slices.clear();
    assert!((0..3).all(|id| !slices.has(SliceId(id), Wanted::Change)));
    assert!(slices.take_dirty(|_| None).is_empty());
    insert(&slices, 1, 0..4);
    assert_eq!(slices.with(SliceId(1), |slice| slice.raw(0).descriptor), Some(0));
}

#[test]
fn a_slice_that_is_brought_in_twice_stays_as_it_is() {
    let slices = filled(4, 1);
    assert_eq!(publish(&slices, 0, 0, &[0], &[7]), Published::Done);
    insert(&slices, 0, 0..4);
    assert_eq!(slices.with(SliceId(0), |slice| slice.raw(0).descriptor), Some(7));
}

/// Slices come and go under readers. Every entry of a slice says whose it is.
#[test]
fn readers_never_see_one_slice_for_another() {
    let slices = Slices::new(8, 40, Shape { words: 64, ..SHAPE });
    let ids = 0..40_u64;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (slices, is_over, mut ids) = (&slices, &is_over, ids.clone().cycle().skip(reader * 7));
                scope.spawn(move || {
                    let mut found = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let id = ids.next().unwrap();
                        let raws: Option<Vec<u64>> = slices
                            .with(SliceId(id), |slice| slice.raws(0, 64).map(|raw| raw.descriptor).collect());
                        if let Some(raws) = raws {
                            assert!(raws.iter().all(|raw| raw >> 32 == id), "{id}: {raws:x?}");
                            found += 1;
                        }
                    }
                    found
                })
            })
            .collect();
        let mut rng = drystone_base::rng::Rng::new(1);
        for round in 0..20_000 {
            let id = rng.below(ids.end);
            insert(&slices, id, std::iter::repeat(id << 32));
            let old = slices.with(SliceId(id), |slice| slice.raw(1).descriptor).unwrap();
            assert_eq!(publish(&slices, id, 1, &[old], &[id << 32 | round]), Published::Done);
            slices
                .take_dirty(|_| Some(HostOffset::ZERO))
                .iter()
                .for_each(|image| slices.stored(image.id, true));
        }
        is_over.store(true, Ordering::Relaxed);
        let found: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        println!("{found} slices found");
    });
}

/// Entries of two numbers change under readers. Both numbers say the same.
#[test]
fn readers_never_see_half_of_a_change() {
    let slices = Slices::new(8, 1, Shape { words: 64, words_bits: 1, ..SHAPE });
    insert(&slices, 0, std::iter::repeat(0));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let both = |value: u64| RawEntry { descriptor: value, bitmap: value };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0_u64;
                    while !is_over.load(Ordering::Relaxed) {
                        let Some(raws) =
                            slices.with(SliceId(0), |slice| slice.raws(3, 2).collect::<Vec<RawEntry>>())
                        else {
                            continue;
                        };
                        assert!(raws.iter().all(|raw| *raw == both(raws[0].bitmap)), "{raws:?}");
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        for value in 0..20_000 {
            let (expected, new) = ([both(value); 2], [both(value + 1); 2]);
            assert_eq!(slices.publish(SliceId(0), 3, (&expected, &new)), Published::Done);
        }
        is_over.store(true, Ordering::Relaxed);
        let seen: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        println!("{seen} looks");
    });
    let images = slices.take_dirty(|_| Some(HostOffset::ZERO));
    assert_eq!(images[0].bytes[3 * 16..5 * 16], *20_000_u64.to_be_bytes().repeat(4));
}

#[test]
fn a_run_is_looked_at_without_its_slice_until_it_changes() {
    let slices = filled(4, 0);
    let run = [4096, 8192, 12288, 16384];
    slices.bring(SliceId(0), &run, Wanted::Look);
    let look = |id| slices.with(SliceId(id), |slice| slice.raw(2).descriptor);
    assert_eq!((slices.pool().in_use(), look(0), look(1)), (0, Some(12288), None));
    assert!(slices.has(SliceId(0), Wanted::Look) && !slices.has(SliceId(0), Wanted::Change));
    assert_eq!(publish(&slices, 0, 2, &[12288], &[7]), Published::Absent);
    slices.bring(SliceId(0), &run, Wanted::Change);
    assert_eq!(publish(&slices, 0, 2, &[12288], &[7]), Published::Done);
    assert_eq!(look(0), Some(7));
    slices.take_dirty(|_| Some(HostOffset::ZERO)).iter().for_each(|image| slices.stored(image.id, true));
    slices.clean();
    slices.clean();
    assert_eq!(look(0), None, "what it was before is not known any more");
    // A slice that is there is newer than what was read.
    insert(&slices, 5, 0..4);
    slices.bring(SliceId(5), &run, Wanted::Look);
    assert_eq!(look(5), Some(2));
    slices.bring(SliceId(6), &run, Wanted::Look);
    slices.clear();
    assert_eq!(look(6), None);
}
