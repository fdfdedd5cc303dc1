//! Repairs beside `qemu-img check -r`, both directions: after ours the C tool finds what we said that is left, after theirs
//! we find what they do; where both came to an end, both repaired as much.

use std::cell::RefCell;
use std::path::Path;

use drystone_base::rng::Rng;
use drystone_base::{HostOffset, Result};
use drystone_format::qcow2::check::Source;
use drystone_format::qcow2::check::repair::{Repair, Repaired, Target, repair};

use crate::check::{damage, is_known_difference, make, words};
use crate::common::{Image, block_on, outcome_of_json};
use crate::tools::{Scratch, run};

/// How many damaged variants of each image are repaired.
const DAMAGES: u64 = 40;
const KINDS: [&str; 5] = [
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=4k,compat=v2",
    "cluster_size=1k,refcount_bits=1",
    "cluster_size=16k,refcount_bits=8",
];

struct File(RefCell<Vec<u8>>);

impl Source for File {
    fn len_bytes(&self) -> u64 {
        self.0.borrow().len() as u64
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        let at = usize::try_from(at.get()).unwrap();
        Ok(self.0.borrow()[at..at + len_bytes].to_vec())
    }
}

impl Target for File {
    async fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> Result<()> {
        let mut file = self.0.borrow_mut();
        let at = usize::try_from(at.get()).unwrap();
        let end = at + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[at..end].copy_from_slice(&bytes);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// The image after a repair, what was repaired, and what was found.
fn ours(image: &Image, what: Repair) -> Option<(Vec<u8>, Repaired, Vec<String>)> {
    let file = File(RefCell::new(image.bytes.clone()));
    let mut findings = Vec::new();
    let note = |finding: &drystone_format::qcow2::check::Finding| findings.push(finding.to_string());
    let repaired = block_on(repair(&file, &image.header().ok()?, what, note)).ok()?;
    Some((file.0.into_inner(), repaired, findings))
}

fn number(json: &str, key: &str) -> u64 {
    let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap_or(("", "0"));
    rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[derive(Debug, Default)]
struct Counts {
    images: u64,
    equal: u64,
    only_ours: u64,
}

fn compare(path: &Path, image: &Image, what: (Repair, &str), about: &str, counts: &mut Counts) {
    let Some((bytes, repaired, findings)) = ours(image, what.0) else { return };
    if findings.iter().any(|finding| is_known_difference(finding)) {
        return;
    }
    counts.images += 1;
    std::fs::write(path, &bytes).unwrap();
    let seen = String::from_utf8(run("qemu-img", "check -f qcow2 --output=json", path).stdout).unwrap();
    let seen = outcome_of_json(&seen);
    let left = (repaired.outcome.corruptions, repaired.outcome.leaks);
    assert_eq!(
        (seen.corruptions, seen.leaks, seen.check_errors),
        (left.0, left.1, 0),
        "{about}\n{findings:#?}"
    );
    std::fs::write(path, &image.bytes).unwrap();
    let theirs = run("qemu-img", &format!("check -f qcow2 -r {} --output=json", what.1), path);
    let json = String::from_utf8(theirs.stdout).unwrap();
    if !json.contains("check-errors") {
        counts.only_ours += 1;
        return;
    }
    let after = Image::new(std::fs::read(path).unwrap());
    let expected = outcome_of_json(&json);
    let (outcome, found) = after.check();
    if found.iter().any(|finding| is_known_difference(finding)) {
        return; // It writes zero clusters into version 2 images.
    }
    assert_eq!(outcome.unwrap(), expected, "{about}: after theirs\n{found:#?}");
    // The C tool makes a file longer for a block behind its end, and leaves more than we do where a snapshot table that it
    // frees was used otherwise as well.
    if expected.corruptions > left.0
        || findings.iter().any(|finding| finding.contains("refcount block") && finding.contains("outside"))
    {
        return;
    }
    let fixed = (repaired.leaks_fixed, repaired.corruptions_fixed);
    let there = (number(&json, "leaks-fixed"), number(&json, "corruptions-fixed"));
    let words = String::from_utf8_lossy(&theirs.stderr).into_owned();
    assert_eq!(fixed, there, "{about}\nhere: {findings:#?}\nthere: {words}");
    counts.equal += 1;
}

#[test]
fn oracle_repairs_fix_as_much_and_agree_on_what_is_left() {
    let scratch = Scratch::new("repairs");
    let path = scratch.path("image");
    let mut counts = Counts::default();
    for options in KINDS {
        make(&path, options, "4M");
        let original = Image::new(std::fs::read(&path).unwrap());
        let words = words(&original);
        for seed in 0..DAMAGES {
            let mut rng = Rng::new(seed);
            let mut image = Image::new(original.bytes.clone());
            let edits: String = (0..=rng.below(3)).map(|_| damage(&mut image, &words, &mut rng)).collect();
            let about = format!("{options}, seed {seed}: {edits}");
            compare(&path, &image, (Repair::Leaks, "leaks"), &about, &mut counts);
            compare(&path, &image, (Repair::All, "all"), &about, &mut counts);
            let _ = std::fs::remove_file(&path);
        }
    }
    println!("{counts:?}");
    assert!(counts.equal > 150, "{counts:?}");
}
