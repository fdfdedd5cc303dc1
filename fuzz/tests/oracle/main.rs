//! Damaged images beside release 10.0 of the C tools, live: the same data, or a refusal for a reason that is known.
//!
//! ```text
//!   seeds of qcow2_image, mutated ──┬──► ours, read on a simulated disk ──┐
//!                                   └──► qemu-img convert ────────────────┴──► equal bytes | who refuses, and why
//! ```
//! What `check` and `info` say of damaged images is compared in `crates/cli/tests/oracle`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use drystone_base::{Error, GuestOffset, GuestRange, Result};
use drystone_format::qcow2::Header;
use drystone_fuzz::mutate::mutate;
use drystone_fuzz::qcow2::IMAGE;
use drystone_fuzz::qcow2::image::{OpenImage, SCRIPT_BYTES};
use drystone_fuzz::request::{disk, sim};
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::Image;
use drystone_testkit::graph::SimGraph;

/// Images that are compared.
const IMAGES: u64 = 400;
/// The longest disk whose bytes are compared.
const LEN_MAX: u64 = 1 << 20;

/// Where we refuse on purpose what the C tools read (`docs/differences.md`).
const KNOWN: [&str; 4] = [
    "reserved bits",
    "refers to no table, but is not zero",
    "past the end of the file",
    "the header is not valid",
];

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("drystone-fuzz-oracle-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Every byte of the disk, read here.
fn ours(image: &Image) -> Result<Vec<u8>> {
    let (sim, disk) = (sim(), disk(image));
    let graph = SimGraph::start(&sim);
    let opened = OpenImage::open(&graph, &disk, true)?;
    let reader = opened.backend.clone();
    let len = header(image).unwrap().len_guest();
    let read = sim.block_on(&sim.io(1), async {
        let mut client = BackendClient::new(&reader, &sim.io(1));
        client.read(GuestRange::new(GuestOffset::ZERO, len)).await
    });
    drop(reader);
    opened.close(&graph)?;
    read.unwrap()
}

fn header(image: &Image) -> Option<Header> {
    let area = Header::area_len_bytes(&image.bytes(0..512)).ok()?;
    Header::parse(&image.bytes(0..image.len().min(area as u64))).ok()
}

/// The same, by the C tool; or what it said.
fn theirs(folder: &Path) -> std::result::Result<Vec<u8>, String> {
    let args = ["20", "qemu-img", "convert", "-f", "qcow2", "-O", "raw", "image", "disk"];
    let done = Command::new("timeout").args(args).current_dir(folder).output().unwrap();
    match done.status.success() {
        true => Ok(fs::read(folder.join("disk")).unwrap()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

/// A file with changes: mostly behind its header, and without moving what is there.
fn damaged(seeds: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let index = usize::try_from(seed).unwrap() % seeds.len();
    let file = &seeds[index][SCRIPT_BYTES..];
    if seed.is_multiple_of(5) {
        return mutate(&IMAGE, &[file.to_vec()], seed);
    }
    let (header, rest) = file.split_at(512);
    let mut changed = mutate(&IMAGE, &[rest.to_vec()], seed);
    changed.resize(rest.len(), 0);
    [header, &changed].concat()
}

#[derive(Debug, Default)]
struct Counts {
    same: u32,
    both_refuse: u32,
    only_here: u32,
    only_there: u32,
}

#[test]
fn oracle_damaged_images_hold_the_same_data() {
    let folder = Folder::new();
    let seeds = (IMAGE.seeds)();
    let (mut counts, mut unknown) = (Counts::default(), Vec::new());
    for seed in 0..IMAGES {
        let file = damaged(&seeds, seed);
        let image = Image::from_bytes(&file);
        // Whose backing file is another file, and whose disk is long, is not compared.
        if header(&image)
            .is_some_and(|header| header.backing_name().is_some() || header.len_guest() > LEN_MAX)
        {
            continue;
        }
        fs::write(folder.0.join("image"), &file).unwrap();
        match (ours(&image), theirs(&folder.0)) {
            (Ok(here), Ok(there)) => {
                // The C tool rounds a length down to whole sectors, and files up.
                let len = here.len().min(there.len());
                assert!(
                    here.len().abs_diff(there.len()) < 512,
                    "mutation {seed}: {} {}",
                    here.len(),
                    there.len()
                );
                let differs = here[..len].iter().zip(&there[..len]).position(|(here, there)| here != there);
                assert_eq!(differs, None, "mutation {seed} holds other data");
                counts.same += 1;
            }
            (Err(_), Err(_)) => counts.both_refuse += 1,
            (Ok(_), Err(there)) => {
                counts.only_there += 1;
                unknown.push(format!("mutation {seed}: only they refuse: {there}"));
            }
            (Err(here), Ok(_)) => {
                counts.only_here += 1;
                let report = Error::report(&here);
                if !KNOWN.iter().any(|text| report.contains(text)) {
                    unknown.push(format!("mutation {seed}: only we refuse: {report}"));
                }
            }
        }
    }
    println!("{counts:?}");
    assert!(counts.same > 100, "{counts:?}");
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}
