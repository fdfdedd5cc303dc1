//! Damaged images, and images that were made to hurt, through the driver (`ordeal`).
//!
//! ```text
//!   golden image ── cut off | a bit flipped | a word replaced by another place of the image ──► ordeal
//! ```
//! `DRYSTONE_MUTANTS=100000 cargo nextest run -p drystone-format mutants` makes so many of each image.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_testkit::disk::Image;
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{self, Chain, SMALL};
use super::kind::Kind;
use super::ordeal::{Outcomes, demand_little_memory, endure};
use super::script::run;
use super::state::{State, instant_disk};
use crate::golden;

/// Mutants of each image.
const MUTANTS: u64 = 3500;

fn header(bytes: &[u8]) -> Header {
    Header::parse(&bytes[..Header::area_len_bytes(bytes).unwrap()]).unwrap()
}

/// Where words of metadata and of compressed data are: not all bytes the same, as the guest's data is in these images.
fn words(bytes: &[u8]) -> Vec<usize> {
    let words = bytes.as_chunks::<8>().0.iter().enumerate();
    let meant = words.filter(|(_, word)| word.windows(2).any(|pair| pair[0] != pair[1]));
    meant.map(|(index, _)| index * 8).collect()
}

/// Offsets that entries and fields may be made to say.
fn target(header: &Header, len: u64, words: &[usize], rng: &mut Rng) -> u64 {
    let cluster = header.cluster().bytes();
    let own = words[rng.index(words.len())] as u64;
    let choices = [
        0,
        header.l1().at.get(),
        header.refcounts().at.get(),
        header.snapshots().at.get(),
        own / cluster * cluster,
        len / cluster * cluster,
        len.next_multiple_of(cluster) + cluster,
        rng.below(len),
        1 << 40,
        (1 << 56) - cluster,
        1 << 56,
        i64::MAX as u64,
        u64::MAX,
    ];
    choices[rng.index(choices.len())]
}

/// Changes a word, a half word of the header, or a bit.
fn damage(bytes: &mut [u8], (header, words): (&Header, &[usize]), rng: &mut Rng) -> String {
    let at = if rng.one_in(5) { 4 * rng.index(28) } else { words[rng.index(words.len())] };
    let place = bytes[at..at + 8].as_chunks::<8>().0;
    let old = u64::from_be_bytes(place[0]);
    let target = target(header, bytes.len() as u64, words, rng);
    let new = match rng.below(8) {
        0 => old ^ 1 << 63,
        1 => old ^ 1 << 62,
        2 => old.wrapping_add(512),
        3 => target,
        4 => (old & !((1 << 56) - 512)) | (target & ((1 << 56) - 512)),
        5 => target | 1 << 63,
        6 => (old & (u64::MAX << 32)) | rng.next_u64() >> (32 + rng.below(32)),
        _ => old ^ 1 << rng.below(64),
    };
    bytes[at..at + 8].copy_from_slice(&new.to_be_bytes());
    format!("{at:#x}: {old:#x} -> {new:#x}; ")
}

fn mutants(name: &str) {
    let whole = golden::image(name).bytes;
    let (header, words) = (header(&whole), words(&whole));
    let mut outcomes = Outcomes::default();
    let count = std::env::var("DRYSTONE_MUTANTS").map_or(MUTANTS, |count| count.parse().unwrap());
    for seed in 0..count {
        let mut rng = Rng::new(seed);
        let mut bytes = whole.clone();
        let edits: String =
            (0..=rng.below(2)).map(|_| damage(&mut bytes, (&header, &words), &mut rng)).collect();
        endure(&Image::from_bytes(&bytes), &format!("{name}, seed {seed}: {edits}"), &mut outcomes);
    }
    println!("{name}: {outcomes:?}");
    assert!(outcomes.damage_found > count / 50, "the damage is real");
    assert!(outcomes.not_opened < count / 2, "most images are opened");
    demand_little_memory();
}

macro_rules! mutants {
    ($($test:ident: $image:literal;)*) => { $(
        #[test]
        fn $test() {
            mutants($image);
        }
    )* };
}

mutants! {
    mutants_with_snapshots_and_bitmaps: "c512";
    mutants_with_wide_counts: "c512-r64";
    mutants_with_counts_of_one_bit: "c1k-r1";
    mutants_of_version_2: "c4k-v2";
    mutants_with_lazy_refcounts: "c4k-r2-lazy";
    mutants_with_zstd: "c4k-r32-zstd";
}

#[test]
fn images_that_are_cut_off_anywhere() {
    let mut outcomes = Outcomes::default();
    for name in ["c512", "c4k-v2"] {
        let whole = golden::image(name).bytes;
        let step = |len: &usize| (*len < 700 && len.is_multiple_of(7)) || [0, 511].contains(&(len % 512));
        for len in (0..whole.len()).filter(step) {
            endure(&Image::from_bytes(&whole[..len]), &format!("{name}, {len} bytes"), &mut outcomes);
        }
    }
    println!("{outcomes:?}");
}

/// A new image with some data in it.
fn used(kind: &str) -> Image {
    State::new(kind).after("write 0..3K; write 20K..22K").images.remove(0)
}

fn put(image: &mut Image, at: u64, word: u64) {
    image.write(at, &word.to_be_bytes());
}

fn word(image: &Image, at: u64) -> u64 {
    u64::from_be_bytes(image.bytes(at..at + 8).try_into().unwrap())
}

#[test]
fn tables_that_refer_to_themselves_and_to_each_other() {
    let copied = 1 << 63;
    let mut outcomes = Outcomes::default();
    for kind in ["c512 r16 64K", "c512 r64 64K", "c4K r1 64K", "c4K v2 64K", "c64K r16 1M"] {
        let image = used(kind);
        let header = chain::header(&image);
        let (l1, table) = (header.l1().at.get(), header.refcounts().at.get());
        let l2 = word(&image, l1) & !copied;
        let block = word(&image, table);
        let places = [0, l1, l2, table, block, image.len(), 1 << 50];
        // Every entry of a kind says every place, with the flag and without.
        for (what, at) in [
            ("L1", l1),
            ("L2", l2),
            ("L2, second", l2 + 8),
            ("refcount table", table),
            ("refcount table, second", table + 8),
            ("L1 of the header", 40),
            ("refcount table of the header", 48),
        ] {
            for place in places {
                for flag in [0, copied, 1] {
                    let mut image = image.clone();
                    put(&mut image, at, place | flag);
                    endure(&image, &format!("{kind}: {what} -> {place:#x} | {flag:#x}"), &mut outcomes);
                }
            }
        }
    }
    println!("{outcomes:?}");
}

#[test]
fn the_largest_tables_in_a_sparse_file() {
    let mut outcomes = Outcomes::default();
    // Without optimisation, so many steps take longer than what they are a test of.
    let len = if cfg!(debug_assertions) { 1 << 54 } else { 1 << 60 };
    let kind = Kind { len, ..Kind::of("c2M r16 1M") };
    let image = kind.images().pop().unwrap();
    let header = chain::header(&image);
    let (l1, entries) = (header.l1().at.get(), u64::from(header.l1().entries));
    assert_eq!(entries, len >> 39);
    let fill = |what: &dyn Fn(u64) -> u64| {
        let mut image = image.clone();
        image.set_len(1 << 50);
        let bytes: Vec<u8> = (0..entries).flat_map(|index| what(index).to_be_bytes()).collect();
        image.write(l1, &bytes);
        image
    };
    endure(&fill(&|_| l1 | 1 << 63), "every L1 entry is the L1 table", &mut outcomes);
    endure(&fill(&|_| 1 << 40 | 1 << 63), "every L1 entry is one table", &mut outcomes);
    endure(
        &fill(&|index| ((1 << 40) + (index << 21)) | (1 << 63)),
        "as many L2 tables as there can be",
        &mut outcomes,
    );
    endure(&fill(&|_| u64::MAX), "every L1 entry is broken", &mut outcomes);
    let mut full = image.clone();
    full.set_len(1 << 50);
    let blocks: Vec<u8> = (0..1_u64 << if cfg!(debug_assertions) { 14 } else { 18 })
        .flat_map(|index| ((1 << 45) + (index << 21)).to_be_bytes())
        .collect();
    full.write(header.refcounts().at.get(), &blocks);
    endure(&full, "as many refcount blocks as a cluster of the table has", &mut outcomes);
    println!("{outcomes:?}");
    demand_little_memory();
}

#[test]
fn sizes_near_the_end_of_numbers() {
    let mut outcomes = Outcomes::default();
    for kind in ["c512 64K", "c64K 1M", "c2M 4M", "c4K v2 64K"] {
        let image = used(kind);
        for size in [
            0,
            1,
            511,
            1 << 35,
            1 << 40,
            1 << 56,
            1 << 61,
            1 << 62,
            (1 << 63) - 512,
            (1 << 63) - 1,
            1 << 63,
            u64::MAX,
        ] {
            for entries in [0, 1, 64, 1 << 20, u32::MAX] {
                let mut image = image.clone();
                put(&mut image, 24, size);
                image.write(36, &entries.to_be_bytes());
                image.set_len(image.len().max(64 << 20));
                endure(&image, &format!("{kind}: {size} bytes, {entries} L1 entries"), &mut outcomes);
            }
        }
    }
    println!("{outcomes:?}");
    demand_little_memory();
}

/// A count says that the L2 table of an internal snapshot is free: no write takes it for its data, if that is asked for.
#[test]
fn a_table_of_a_snapshot_that_is_counted_as_free_is_not_overwritten() {
    let state = State::new("c4K 64K").after("write 0..20K").snapshot().after("write 0..4K");
    let mut image = state.images[0].clone();
    let header = chain::header(&image);
    let l1 = word(&image, header.snapshots().at.get());
    let table = word(&image, l1) & !(1 << 63);
    let block = word(&image, header.refcounts().at.get());
    image.write(block + 2 * (table / 4096), &[0, 0]);
    let before = image.bytes(table..table + 4096);
    for guards_inactive in [false, true] {
        let disk = instant_disk(&image);
        let sim = Sim::seeded(1);
        let graph = SimGraph::start(&sim);
        let options = Qcow2Options { guards_inactive, ..SMALL };
        let chain = Chain::open(&graph, std::slice::from_ref(&disk), options).unwrap();
        let model = Rc::new(RefCell::new(state.model.clone()));
        let written = run(&sim, &chain, &model, "write 40K..60K; flush");
        assert_eq!(written.is_err_and(|error| error.kind() == drystone_base::Kind::Corrupt), guards_inactive);
        assert_eq!(disk.image().bytes(table..table + 4096) == before, guards_inactive);
        let _ = chain.close(&graph);
    }
}
