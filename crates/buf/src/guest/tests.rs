//! Tests of guest memory: every alignment against a plain array, neighbours, bounds, owners, and others who write.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{GuestRegion, WORD};

const LEN: usize = 5 * WORD;

/// A region with bytes 1, 2, 3 ... and the same as an array.
fn counted() -> (GuestRegion, [u8; LEN]) {
    let region = GuestRegion::zeroed(LEN);
    let bytes = std::array::from_fn(|at| u8::try_from(at + 1).unwrap());
    region.slice(0, LEN).unwrap().copy_from(&bytes);
    (region, bytes)
}

fn contents(region: &GuestRegion) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.slice(0, region.len()).unwrap().copy_to(&mut bytes);
    bytes
}

/// Every start and length that fit.
fn ranges() -> impl Iterator<Item = (usize, usize)> {
    (0..=LEN).flat_map(|start| (0..=LEN - start).map(move |len| (start, len)))
}

#[test]
fn every_range_copies_out_what_is_there() {
    let (region, bytes) = counted();
    for (start, len) in ranges() {
        let mut out = vec![0; len];
        region.slice(start, len).unwrap().copy_to(&mut out);
        assert_eq!(out, bytes[start..start + len], "{start}+{len}");
    }
}

#[test]
fn every_range_copies_in_and_leaves_its_neighbours() {
    for (start, len) in ranges() {
        let (region, mut model) = counted();
        model[start..start + len].fill(0xee);
        region.slice(start, len).unwrap().copy_from(&vec![0xee; len]);
        assert_eq!(contents(&region), model, "{start}+{len}");
    }
}

#[test]
fn every_range_zeroes_itself_only() {
    for (start, len) in ranges() {
        let (region, mut model) = counted();
        model[start..start + len].fill(0);
        region.slice(start, len).unwrap().fill_zero();
        assert_eq!(contents(&region), model, "{start}+{len}");
    }
}

#[test]
fn a_slice_of_a_slice_counts_from_the_slice() {
    let (region, bytes) = counted();
    let inner = region.slice(3, 20).unwrap().slice(2, 9).unwrap();
    let mut out = [0; 9];
    inner.copy_to(&mut out);
    assert_eq!(out, bytes[5..14]);
    assert_eq!((inner.len(), inner.is_empty()), (9, false));
}

#[test]
fn a_range_outside_is_refused_whatever_numbers_a_guest_sends() {
    let region = GuestRegion::zeroed(100);
    assert!(region.slice(100, 0).is_some());
    assert!(region.slice(100, 1).is_none());
    assert!(region.slice(101, 0).is_none());
    assert!(region.slice(usize::MAX, 2).is_none());
    assert!(region.slice(1, usize::MAX).is_none());
    let slice = region.slice(90, 10).unwrap();
    assert!(slice.slice(0, 11).is_none(), "a slice does not grow into its region");
    assert!(slice.slice(usize::MAX, usize::MAX).is_none());
}

#[test]
fn a_region_of_no_bytes_has_one_empty_slice() {
    let region = GuestRegion::zeroed(0);
    assert!(region.is_empty());
    let slice = region.slice(0, 0).unwrap();
    slice.copy_to(&mut []);
    slice.copy_from(&[]);
    slice.fill_zero();
}

#[test]
#[should_panic(expected = "as long as its source")]
fn a_copy_out_of_another_length_is_a_mistake_of_ours() {
    GuestRegion::zeroed(8).slice(0, 8).unwrap().copy_to(&mut [0; 7]);
}

#[test]
#[should_panic(expected = "as long as its target")]
fn a_copy_in_of_another_length_is_a_mistake_of_ours() {
    GuestRegion::zeroed(8).slice(0, 8).unwrap().copy_from(&[0; 9]);
}

/// Memory that says when it is unmapped.
struct Mapping {
    words: Vec<AtomicU64>,
    unmapped: Arc<AtomicBool>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.unmapped.store(true, Ordering::Relaxed);
    }
}

fn mapped(words: usize) -> (GuestRegion, Arc<AtomicBool>) {
    let unmapped = Arc::new(AtomicBool::new(false));
    let words = (0..words).map(|_| AtomicU64::new(0)).collect();
    let mapping = Mapping { words, unmapped: Arc::clone(&unmapped) };
    let ptr = NonNull::from(mapping.words.as_slice()).cast::<u8>();
    let len = mapping.words.len() * WORD;
    // SAFETY: the words are valid until the mapping is dropped, and nobody uses its field meanwhile.
    (unsafe { GuestRegion::from_raw(ptr, len, Box::new(mapping)) }, unmapped)
}

#[test]
fn memory_stays_mapped_until_its_last_slice_is_gone() {
    let (region, unmapped) = mapped(2);
    let slice = region.slice(4, 8).unwrap();
    let other = region.clone();
    drop(region);
    drop(other);
    slice.copy_from(b"12345678");
    let mut out = [0; 8];
    slice.clone().copy_to(&mut out);
    assert_eq!(&out, b"12345678");
    assert!(!unmapped.load(Ordering::Relaxed));
    drop(slice);
    assert!(unmapped.load(Ordering::Relaxed));
}

#[test]
#[should_panic(expected = "begins at a word")]
fn a_mapping_that_does_not_begin_at_a_word_is_refused() {
    let words = Box::new([0_u64; 4]);
    let ptr = NonNull::from(&*words).cast::<u8>();
    // SAFETY: refused before it is used; the address is inside the array.
    let _ = unsafe { GuestRegion::from_raw(ptr.add(4), 8, words) };
}

#[test]
#[should_panic(expected = "whole words")]
fn a_mapping_that_ends_inside_a_word_is_refused() {
    let words = Box::new([0_u64; 4]);
    let ptr = NonNull::from(&*words).cast::<u8>();
    // SAFETY: refused before it is used.
    let _ = unsafe { GuestRegion::from_raw(ptr, 12, words) };
}

/// Rounds of the tests with threads. Each is over in a fraction of a second.
const ROUNDS: u32 = 20_000;

#[test]
fn writers_of_neighbouring_bytes_lose_nothing_of_each_other() {
    let region = GuestRegion::zeroed(WORD);
    std::thread::scope(|scope| {
        for at in 0..4 {
            let slice = region.slice(2 * at, 2).unwrap();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let bytes = u16::try_from(round & 0xffff).unwrap().to_le_bytes();
                    slice.copy_from(&bytes);
                    let mut found = [0; 2];
                    slice.copy_to(&mut found);
                    assert_eq!(found, bytes, "round {round}");
                }
            });
        }
    });
}

#[test]
fn a_copy_of_memory_that_is_being_written_has_old_and_new_words_and_nothing_else() {
    let (region, _) = mapped(64);
    let done = AtomicBool::new(false);
    let whole = region.slice(0, region.len()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS / 10 {
                whole.copy_from(&[if round % 2 == 0 { 0xff } else { 0x00 }; 64 * WORD]);
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let mut out = [0; 64 * WORD];
            whole.copy_to(&mut out);
            for word in out.chunks(WORD) {
                assert!(word == [0; WORD] || word == [0xff; WORD], "a torn word: {word:?}");
            }
        }
    });
}
