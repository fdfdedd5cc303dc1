//! Images that the C tools made, read and checked here: the same bytes, the same map, the same numbers.
//!
//! Invariant: every image is read by header, L1, L2 and data cluster alone, with no other code than this crate's.

use std::fmt::Write as _;

use drystone_base::{GuestOffset, HostOffset};
use drystone_format::qcow2::check::Outcome;
use drystone_format::qcow2::compress::Decompressor;
use drystone_format::qcow2::entry::{L2Entry, RawEntry, parse_l1};
use drystone_format::qcow2::header::Access;
use drystone_format::qcow2::snapshot::Snapshots;
use drystone_format::qcow2::{Header, bitmap};

pub(crate) use crate::common::golden_image as image;
use crate::common::{Image, golden, outcome_of_json, parse_od};

const NAMES: [&str; 10] = [
    "c512",
    "c512-r64",
    "c1k-r1",
    "c1k-mixed",
    "c4k-v2",
    "c4k-r2-lazy",
    "c4k-r32-zstd",
    "c64k",
    "c64k-v2",
    "c2m-r8",
];

impl Image {
    fn slice(&self, at: HostOffset, len: usize) -> &[u8] {
        let at = usize::try_from(at.get()).unwrap();
        &self.bytes[at..self.bytes.len().min(at + len)]
    }

    fn word(&self, table: HostOffset, index: usize) -> u64 {
        u64::from_be_bytes(self.slice(table.plus(index as u64 * 8), 8).try_into().unwrap())
    }

    /// What the active tables say about the cluster at a guest offset.
    fn entry(&self, header: &Header, at: GuestOffset) -> L2Entry {
        let place = header.l2().place(at);
        let raw = self.word(header.l1().at, usize::try_from(place.l1_index).unwrap());
        let Some(l2) = parse_l1(raw, header.cluster()).unwrap() else { return L2Entry::Unallocated };
        L2Entry::parse(RawEntry::standard(self.word(l2.at, place.l2_index)), header.l2()).unwrap()
    }

    /// Every guest cluster and what the tables say about it.
    fn entries<'a>(&'a self, header: &'a Header) -> impl Iterator<Item = (u64, L2Entry)> + 'a {
        let starts = (0..header.len_guest()).step_by(header.cluster().buffer_len());
        starts.map(|start| (start, self.entry(header, GuestOffset::new(start))))
    }
}

#[test]
fn every_byte_of_every_disk_is_read_right() {
    for name in NAMES {
        let image = image(name);
        let header = image.header().unwrap();
        let expected = parse_od(&golden(&format!("{name}.disk")));
        assert_eq!(expected.len() as u64, header.len_guest());
        let mut decompressor = Decompressor::new(header.compression());
        for (start, entry) in image.entries(&header) {
            let mut cluster = vec![0; header.cluster().buffer_len()];
            match entry {
                L2Entry::Unallocated | L2Entry::Zero(_) => {}
                L2Entry::Data(data) => {
                    let stored = image.slice(data.at, cluster.len());
                    cluster[..stored.len()].copy_from_slice(stored);
                }
                L2Entry::Compressed(stored) => {
                    let stored = image.slice(stored.at, stored.stored_bytes as usize);
                    decompressor.decompress(stored, &mut cluster).unwrap();
                }
                L2Entry::Mixed(_) => unreachable!("no recorded image has subclusters"),
            }
            let start = usize::try_from(start).unwrap();
            let same = expected[start..].iter().zip(&cluster).all(|(there, here)| there == here);
            assert!(same, "{name} at {start:#x}: {entry:?}");
        }
    }
}

/// A line per run of clusters that the C tool would print as one.
#[derive(Clone, PartialEq)]
struct Run {
    start: u64,
    len: u64,
    entry: &'static str,
    at: Option<u64>,
}

fn map(image: &Image) -> String {
    let header = image.header().unwrap();
    let mut runs: Vec<Run> = Vec::new();
    for (start, entry) in image.entries(&header) {
        let (flags, at) = match entry {
            L2Entry::Unallocated => {
                (r#""present": false, "zero": true, "data": false, "compressed": false"#, None)
            }
            L2Entry::Zero(data) => {
                let flags = r#""present": true, "zero": true, "data": false, "compressed": false"#;
                (flags, data.map(|data| data.at.get()))
            }
            L2Entry::Data(data) => {
                (r#""present": true, "zero": false, "data": true, "compressed": false"#, Some(data.at.get()))
            }
            L2Entry::Compressed(_) => {
                (r#""present": true, "zero": false, "data": true, "compressed": true"#, None)
            }
            L2Entry::Mixed(_) => unreachable!("no recorded image has subclusters"),
        };
        let len = header.cluster().bytes().min(header.len_guest() - start);
        match runs.last_mut() {
            Some(run) if run.entry == flags && run.at.map(|at| at + run.len) == at => run.len += len,
            _ => runs.push(Run { start, len, entry: flags, at }),
        }
    }
    let mut text = String::new();
    for Run { start, len, entry, at } in runs {
        let at = at.map_or(String::new(), |at| format!(", \"offset\": {at}"));
        let line = format!("{{ \"start\": {start}, \"length\": {len}, \"depth\": 0, {entry}{at}}}");
        write!(text, "{}{line}", if text.is_empty() { "[" } else { ",\n" }).unwrap();
    }
    text + "]\n"
}

#[test]
fn every_map_is_that_of_the_c_tool() {
    for name in NAMES {
        assert_eq!(map(&image(name)), golden(&format!("{name}.map")), "{name}");
    }
}

#[test]
fn every_check_has_the_numbers_of_the_c_tool() {
    for name in NAMES {
        let (outcome, findings) = image(name).check();
        assert_eq!(outcome.unwrap(), outcome_of_json(&golden(&format!("{name}.check"))), "{name}");
        assert_eq!(findings, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn every_damage_is_found_as_often_as_by_the_c_tool() {
    let list = golden("damages.txt");
    assert!(list.lines().count() > 50);
    for line in list.lines() {
        let [name, label, offset, bytes, json] = line.splitn(5, " | ").collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let mut image = image(name);
        let offset: usize = offset.parse().unwrap();
        for (index, digits) in bytes.as_bytes().chunks(2).enumerate() {
            let byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
            image.bytes[offset + index] = byte;
        }
        let expected = outcome_of_json(json);
        assert_ne!(expected, Outcome::default(), "{line}");
        let (outcome, findings) = image.check();
        assert_eq!(outcome.unwrap(), expected, "{name}: {label}: {findings:#?}");
    }
}

#[test]
fn snapshots_and_bitmaps_are_listed() {
    for name in ["c512", "c64k"] {
        let image = image(name);
        let header = image.header().unwrap();
        let snapshots = header.snapshots();
        let table = Snapshots::parse(image.slice(snapshots.at, 64 << 10), snapshots.count).unwrap();
        let [snapshot] = &table.list[..] else { panic!("{name}") };
        assert_eq!((&snapshot.name[..], snapshot.len_guest), (&b"before"[..], Some(8 << 20)));
        assert!(snapshot.l1(header.cluster()).is_ok());
        let bitmaps = bitmaps(&image, &header);
        let [bitmap] = &bitmaps[..] else { panic!("{name}") };
        assert_eq!((&bitmap.name[..], bitmap.auto), (&b"daily"[..], true));
        assert_eq!(header.access(), Access::ReadWrite);
    }
}

fn bitmaps(image: &Image, header: &Header) -> Vec<bitmap::Bitmap> {
    let extension = header.extensions().bitmaps().unwrap();
    let directory = image.slice(extension.directory, usize::try_from(extension.directory_len_bytes).unwrap());
    extension.parse_directory(directory, header.cluster()).unwrap()
}

#[test]
fn every_header_is_written_back_as_it_was() {
    for name in NAMES {
        let image = image(name);
        let header = image.header().unwrap();
        let encoded = header.encode().unwrap();
        assert_eq!(encoded, image.bytes[..encoded.len()], "{name}");
    }
}
