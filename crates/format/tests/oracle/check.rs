//! The check against `qemu-img check`: the same numbers on whole images and on damaged ones.

use std::path::Path;

use drystone_base::rng::Rng;
use drystone_format::qcow2::check::Outcome;

use crate::common::{Image, outcome_of_json};
use crate::tools::{Scratch, add_bitmap, io, run, run_ok};

pub(crate) const MATRIX: [&str; 15] = [
    "cluster_size=512",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=1k,refcount_bits=1",
    "cluster_size=4k",
    "cluster_size=4k,compat=v2",
    "cluster_size=4k,refcount_bits=2,lazy_refcounts=on",
    "cluster_size=4k,refcount_bits=4,compression_type=zstd",
    "cluster_size=16k,refcount_bits=8",
    "cluster_size=64k",
    "cluster_size=64k,compat=v2",
    "cluster_size=64k,refcount_bits=32",
    "cluster_size=2M,refcount_bits=64",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=64k,extended_l2=on,refcount_bits=8",
    "cluster_size=2M,extended_l2=on",
];

/// How many damaged variants of each image are compared.
const DAMAGES: u64 = 100;

/// Makes an image with something of everything in it.
pub(crate) fn make(path: &Path, options: &str, len: &str) {
    run_ok("qemu-img", &format!("create -q -f qcow2 -o size={len},{options}"), path);
    io(path, &["write -P 1 0 40k", "write -P 2 64k 4k", "write -P 3 1M 70k", "write -P 6 300k 4k"]);
    if options.contains("2M") {
        io(path, &["write -c -P 4 2M 2M", "write -c -P 5 4M 2M"]);
    } else {
        io(path, &["write -c -P 4 2M 64k", "write -c -P 5 2112k 64k"]);
    }
    if !options.contains("compat=v2") {
        io(path, &["write -z 512k 64k", "write -P 7 700k 128k", "write -z 700k 64k"]);
    }
    // Snapshots share clusters, which narrow refcounts cannot say.
    if !["bits=1", "bits=2", "bits=4"].iter().any(|bits| options.contains(bits)) {
        run_ok("qemu-img", "snapshot -c one", path);
        io(path, &["write -P 8 4k 4k", "write -P 9 1M 512"]);
        run_ok("qemu-img", "snapshot -c two", path);
        io(path, &["write -P 10 0 512"]);
    }
}

pub(crate) fn make_with_bitmaps(path: &Path, options: &str, len: &str) {
    make(path, options, len);
    add_bitmap(path, "first", "512");
    add_bitmap(path, "second", "64k");
    io(path, &["write 3M 100k"]);
}

/// What the C tool says, and its words; `None` if it gave up.
fn oracle(path: &Path) -> Option<(Outcome, String)> {
    let output = run("qemu-img", "check -f qcow2 --output=json", path);
    let json = String::from_utf8(output.stdout).unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let ended = json.contains("check-errors") && !words.contains("Check failed");
    ended.then(|| (outcome_of_json(&json), words))
}

#[test]
fn oracle_whole_images_have_equal_numbers() {
    let scratch = Scratch::new("whole");
    let path = scratch.path("image");
    for options in MATRIX {
        make(&path, options, "8M");
        compare(&path, options);
    }
    for options in ["cluster_size=512", "cluster_size=4k", "cluster_size=64k"] {
        make_with_bitmaps(&path, options, "8M");
        compare(&path, options);
    }
}

fn compare(path: &Path, options: &str) {
    let image = Image::new(std::fs::read(path).unwrap());
    let (outcome, findings) = image.check();
    let (expected, words) = oracle(path).unwrap();
    assert_eq!(outcome.unwrap(), expected, "{options}\nhere: {findings:#?}\nthere: {words}");
    assert_eq!(findings, Vec::<String>::new(), "{options}");
}

#[test]
fn oracle_damaged_images_have_equal_numbers() {
    let scratch = Scratch::new("damaged");
    let (whole, damaged) = (scratch.path("whole"), scratch.path("damaged"));
    let mut compared = 0;
    for options in MATRIX.into_iter().filter(|options| !options.contains("64k") && !options.contains("2M")) {
        make(&whole, options, "4M");
        compared += compare_damages(&whole, &damaged, options);
    }
    make_with_bitmaps(&whole, "cluster_size=4k", "4M");
    compared += compare_damages(&whole, &damaged, "bitmaps");
    assert!(compared > 4 * DAMAGES, "most damaged images can be checked: {compared}");
}

fn compare_damages(whole: &Path, damaged: &Path, options: &str) -> u64 {
    let original = Image::new(std::fs::read(whole).unwrap());
    let words = words(&original);
    let compared = |seed: &u64| {
        compare_damage(&original, &words, damaged, Rng::new(*seed), &format!("{options}, seed {seed}"))
    };
    (0..DAMAGES).filter(compared).count() as u64
}

/// Whether both sides came to an end; fails if they differ then.
fn compare_damage(original: &Image, words: &[usize], damaged: &Path, mut rng: Rng, about: &str) -> bool {
    let mut image = Image::new(original.bytes.clone());
    let edits: String = (0..=rng.below(2)).map(|_| damage(&mut image, words, &mut rng)).collect();
    std::fs::write(damaged, &image.bytes).unwrap();
    let Some((expected, said)) = oracle(damaged) else { return false };
    if let Err(error) = image.header() {
        assert!(expected.corruptions > 0, "{about} {edits}\nhere: {error}\nthere: {expected:?}");
        return false;
    }
    let (outcome, findings) = image.check();
    if findings.iter().any(|finding| is_known_difference(finding)) {
        return false;
    }
    assert_eq!(outcome.unwrap(), expected, "{about} {edits}\nhere: {findings:#?}\nthere: {said}");
    true
}

/// What the C tool does not see (zero clusters in version 2, which it cannot read) or sees differently (it takes an
/// L1 entry that is not zero but has no offset for a table at the header).
pub(crate) fn is_known_difference(finding: &str) -> bool {
    finding.contains("reserved bits 0x1 are set") && finding.starts_with("L2")
        || finding.contains("refers to no table, but is not zero")
}

/// The words of an image that damage goes to: all that are not zero and do not look like the guest's data.
pub(crate) fn words(image: &Image) -> Vec<usize> {
    let words = image.bytes.as_chunks::<8>().0.iter().enumerate();
    let meant = words.filter(|(_, word)| word.windows(2).any(|pair| pair[0] != pair[1]));
    meant.map(|(index, _)| index * 8).collect()
}

pub(crate) fn damage(image: &mut Image, words: &[usize], rng: &mut Rng) -> String {
    let len = image.bytes.len() as u64;
    let at = words[rng.index(words.len())] + if rng.one_in(8) { 8 } else { 0 };
    let Some(word) = image.bytes.get_mut(at..at + 8) else { return String::new() };
    let old = u64::from_be_bytes(word.try_into().unwrap());
    let new = match rng.below(8) {
        0 => old ^ 1 << 63,
        1 => 0,
        2 => (old & (0xfff << 52)) | (rng.below(len + (4 << 20)) & !0x1ff),
        3 => old.wrapping_add(512),
        4 => old ^ 1 << 62,
        5 => old.wrapping_add(1 << 12),
        6 => rng.next_u64(),
        _ => old ^ 1 << rng.below(64),
    };
    word.copy_from_slice(&new.to_be_bytes());
    format!("{at:#x}: {old:#x} -> {new:#x}; ")
}
