//! Damaged images: the same words and the same exit status of `check`, the same refusals of `info`.

use std::fs;
use std::path::Path;

use drystone_base::rng::Rng;

use crate::common::{Scratch, our_tool, parse_od, run};

const NAMES: [&str; 5] = ["c512", "c4k-v2", "c4k-r2-lazy", "c4k-r32-zstd", "c64k"];
/// Damages of each image.
const DAMAGES: u64 = 150;

/// Words of metadata: not zero and not all bytes the same, as the guest's data is in these images.
fn words(bytes: &[u8]) -> Vec<usize> {
    let words = bytes.as_chunks::<8>().0.iter().enumerate();
    words
        .filter(|(_, word)| word.windows(2).any(|pair| pair[0] != pair[1]))
        .map(|(index, _)| index * 8)
        .collect()
}

fn damage(image: &mut [u8], words: &[usize], rng: &mut Rng) -> String {
    let at = words[rng.index(words.len())];
    let word = &mut image[at..at + 8];
    let old = u64::from_be_bytes(word.try_into().unwrap());
    let new = match rng.below(6) {
        0 => old ^ 1 << 63,
        1 => 0,
        2 => old.wrapping_add(4096),
        3 => rng.next_u64(),
        _ => old ^ 1 << rng.below(64),
    };
    word.copy_from_slice(&new.to_be_bytes());
    format!("{at:#x}: {old:#x} -> {new:#x}")
}

/// Where we know better, on purpose (`docs/differences.md`): what the specification forbids.
fn is_known_difference(ours: &str) -> bool {
    [
        "reserved bits",
        "refers to no table, but is not zero",
        "cannot open the image as qcow2",
        "bitmap",
        "snapshot",
        "not supported",
        "cannot be checked",
    ]
    .iter()
    .any(|text| ours.contains(text))
}

#[test]
fn oracle_damaged_images_are_judged_alike() {
    let scratch = Scratch::new("damage");
    let ours = our_tool(&scratch, "qemu-img");
    let mut compared = 0;
    for name in NAMES {
        let stored =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../format/tests/it/golden/{name}.image"));
        let whole = parse_od(&fs::read_to_string(stored).unwrap());
        let words = words(&whole);
        for seed in 0..DAMAGES {
            let mut image = whole.clone();
            let mut rng = Rng::new(seed);
            let edits: Vec<String> =
                (0..=rng.below(2)).map(|_| damage(&mut image, &words, &mut rng)).collect();
            fs::write(scratch.path().join("image"), &image).unwrap();
            for line in ["check -f qcow2 image", "check -f qcow2 --output=json image", "info -f qcow2 image"]
            {
                let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
                let here = run(&ours, &args, scratch.path());
                let there = run(Path::new("qemu-img"), &args, scratch.path());
                // Their check loads bitmaps, and ends if it cannot.
                if is_known_difference(&here.stderr) || there.stderr.contains("bitmap") {
                    continue;
                }
                compared += 1;
                let [left, right] =
                    [&here, &there].map(|ran| (crate::common::normalised(&ran.stdout), ran.status));
                assert_eq!(
                    left, right,
                    "{name}, {seed}, {line}: {edits:?}\nhere: {}\nthere: {}",
                    here.stderr, there.stderr
                );
            }
        }
    }
    assert!(compared > NAMES.len() as u64 * DAMAGES, "most damaged images are compared: {compared}");
}
