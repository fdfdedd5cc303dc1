//! Parsers of bytes to values, and back.

use drystone_base::HostOffset;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::bitmap::BitmapsExtension;
use drystone_format::qcow2::entry::{L2Entry, RawEntry, encode_l1, parse_l1};
use drystone_format::qcow2::geometry::ClusterBits;
use drystone_format::qcow2::header::{BACKING_NAME_BYTES_MAX, SNAPSHOTS_MAX, Version};
use drystone_format::qcow2::l2::L2Format;
use drystone_format::qcow2::refcount::{RefcountWidth, parse_table_entry};
use drystone_format::qcow2::snapshot::Snapshots;

use crate::input::Input;

/// The longest L1 table that a header may ask for, in entries; spec has no limit, 32 MiB are that of the C tools.
const L1_ENTRIES_MAX: u32 = 4 << 20;

/// The start of a file.
pub(super) fn header(bytes: &[u8]) {
    let Ok(area) = Header::area_len_bytes(bytes) else {
        assert!(Header::parse(bytes).is_err(), "a header without a version or a cluster size");
        return;
    };
    assert!(area <= 2 << 20);
    let Ok(header) = Header::parse(&bytes[..area.min(bytes.len())]) else { return };
    assert!(header.l1().entries <= L1_ENTRIES_MAX);
    assert!(header.snapshots().count <= SNAPSHOTS_MAX);
    assert!(header.backing_name().is_none_or(|name| name.len() <= BACKING_NAME_BYTES_MAX as usize));
    let _ = (header.access(), header.extensions().feature_names(), header.extensions().data_file());
    // One that fills its cluster may have no room for its own name behind its extensions.
    if let Ok(encoded) = header.encode() {
        assert!(encoded.len() <= area);
        assert_eq!(Header::parse(&encoded).as_ref(), Ok(&header), "written back, it is another");
    }
    if let Ok(Some(writable)) = header.for_writing() {
        assert!(writable.autoclear().is_empty());
        assert_eq!((writable.l1(), writable.len_guest()), (header.l1(), header.len_guest()));
    }
}

/// `[cluster size, version, width, count] bytes`, of which every table is made.
pub(super) fn tables(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cluster = ClusterBits::checked(9 + u32::from(input.byte() % 13)).unwrap();
    let version = input.choice(&[Version::V3, Version::V2]);
    let width = RefcountWidth::from_order(u32::from(input.byte() % 7)).unwrap();
    let count = u32::from(input.byte());
    let bytes = input.rest();
    for pair in bytes.as_chunks::<16>().0 {
        let [descriptor, bitmap] = [0, 8].map(|at| u64::from_be_bytes(pair[at..at + 8].try_into().unwrap()));
        pointers(descriptor, cluster);
        for l2 in formats(cluster, version) {
            entries(RawEntry { descriptor, bitmap: if l2.is_extended() { bitmap } else { 0 } }, l2);
        }
    }
    refcounts(bytes, width);
    snapshots(bytes, count, cluster, version);
    bitmaps(bytes, cluster);
}

fn formats(cluster: ClusterBits, version: Version) -> impl Iterator<Item = L2Format> {
    let standard = [false, true].map(|apart| L2Format::standard(cluster, version).with_data_file(apart));
    standard.into_iter().flat_map(|l2| [Some(l2), l2.with_extended(true)]).flatten()
}

fn pointers(raw: u64, cluster: ClusterBits) {
    if let Ok(entry) = parse_l1(raw, cluster) {
        assert!(entry.is_none_or(|entry| cluster.is_aligned(entry.at) && entry.at.get() < 1 << 56));
        assert_eq!(parse_l1(encode_l1(entry), cluster), Ok(entry));
    }
    if let Ok(Some(block)) = parse_table_entry(raw, cluster) {
        assert!(cluster.is_aligned(block) && block != HostOffset::ZERO);
    }
}

fn entries(raw: RawEntry, l2: L2Format) {
    let Ok(entry) = L2Entry::parse(raw, l2) else { return };
    assert!(entry.place().is_none_or(|place| l2.cluster().is_aligned(place.at)));
    match entry {
        L2Entry::Compressed(stored) => {
            assert!(u64::from(stored.stored_bytes) <= 2 * l2.cluster().bytes());
            assert!(stored.at.get() + u64::from(stored.stored_bytes) <= 1 << 57);
        }
        L2Entry::Mixed(mixed) => {
            assert_eq!(mixed.data & mixed.zero, 0);
            assert!(mixed.place.is_some() || mixed.data == 0);
            assert_eq!(mixed.entry(l2), entry, "a cluster of one kind is not mixed");
        }
        L2Entry::Data(_) | L2Entry::Unallocated | L2Entry::Zero(_) => {}
    }
    let mut index = 0;
    while index < l2.subclusters() {
        let (part, count) = entry.run(index, l2);
        assert!(count > 0 && (index..index + count).all(|index| entry.part(index) == part));
        index += count;
    }
    assert_eq!(index, l2.subclusters());
    assert_eq!(L2Entry::parse(entry.encode(l2), l2), Ok(entry), "{raw:x?}");
}

fn refcounts(bytes: &[u8], width: RefcountWidth) {
    let mut copy = vec![0; bytes.len()];
    let mut index = 0;
    while let Some(count) = width.get(bytes, index) {
        assert!(count <= width.count_max());
        assert_eq!(width.set(&mut copy, index, count), Some(()));
        index += 1;
    }
    let whole = index * width.bits() as usize / 8;
    assert_eq!(copy[..whole], bytes[..whole], "counts of {} bits", width.bits());
    assert_eq!(width.set(&mut copy, index, 0), None);
}

fn snapshots(bytes: &[u8], count: u32, cluster: ClusterBits, version: Version) {
    let Ok(table) = Snapshots::parse(bytes, count) else { return };
    assert_eq!(table.list.len(), count as usize);
    assert!(table.table_len_bytes <= bytes.len().next_multiple_of(8) as u64);
    for snapshot in &table.list {
        let _ = snapshot.is_incomplete(version);
        if let Ok(l1) = snapshot.l1(cluster) {
            assert!(l1.entries <= L1_ENTRIES_MAX && cluster.is_aligned(l1.at));
        }
    }
}

/// An extension of 24 bytes, and a directory behind it.
fn bitmaps(bytes: &[u8], cluster: ClusterBits) {
    let Some((data, directory)) = bytes.split_at_checked(24) else { return };
    let Ok(extension) = BitmapsExtension::parse(data, cluster) else { return };
    let Ok(list) = extension.parse_directory(directory, cluster) else { return };
    assert_eq!(list.len(), extension.count as usize);
    assert!(list.iter().all(|bitmap| bitmap.granularity_bits < 32 && !bitmap.name.is_empty()));
}
