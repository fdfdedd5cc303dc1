//! Images that were made to harm whoever opens them.
//!
//! ```text
//!   a good image ──► some fields changed ──► opened, read, written on a simulated disk
//! ```

use drystone_base::{Kind, Result};
use drystone_format::qcow2::Header;
use drystone_format::qcow2::bitmap::BitmapsExtension;
use drystone_format::qcow2::compress::{Compression, Decompressor};
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::geometry::ClusterBits;
use drystone_format::qcow2::snapshot::Snapshots;
use drystone_fuzz::qcow2::image::OpenImage;
use drystone_fuzz::request::{disk, sim};
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{Image, OpKind, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::notation::range;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// An image of 32 KiB with clusters of 512 bytes, and what its header says.
fn image() -> (Image, Header) {
    let options = CreateOptions { cluster_bytes: 512, ..CreateOptions::new(32 << 10) };
    let layout = options.layout().unwrap();
    let mut image = Image::new(layout.len_file);
    for (at, bytes) in &layout.pieces {
        image.write(at.get(), bytes);
    }
    let header = Header::parse(&image.bytes(0..512)).unwrap();
    (image, header)
}

/// The image with an L2 table whose first entry is `entry`, at the end of the file.
fn with_entry(entry: u64) -> (Image, Header) {
    let (mut image, header) = image();
    let l2 = image.len().next_multiple_of(512);
    image.set_len(l2 + 512);
    put(&mut image, l2, entry);
    put(&mut image, header.l1().at.get(), l2 | COPIED);
    let block = word(&image, header.refcounts().at.get());
    let count = block + l2 / 512 * 2;
    image.write(count, &1_u16.to_be_bytes());
    (image, header)
}

fn put(image: &mut Image, at: u64, word: u64) {
    image.write(at, &word.to_be_bytes());
}

fn word(image: &Image, at: u64) -> u64 {
    u64::from_be_bytes(image.bytes(at..at + 8).try_into().unwrap())
}

/// Why the image is not opened; `None` if it is. And how much was read to find out.
fn opened(image: &Image, read_only: bool) -> (Option<Kind>, u64) {
    let (sim, disk) = (sim(), disk(image));
    let graph = SimGraph::start(&sim);
    let result = OpenImage::open(&graph, &disk, read_only).map(|opened| opened.close(&graph));
    let read = disk.trace().iter().filter(|op| op.kind == OpKind::Read).map(|op| op.range.len()).sum();
    (result.err().map(|error| error.kind()), read)
}

/// What becomes of a write and a read of the first 512 bytes, and the image after it.
fn used(image: &Image) -> (Result<()>, Result<Vec<u8>>, Image) {
    let (sim, disk): (_, SimDisk) = (sim(), disk(image));
    let graph = SimGraph::start(&sim);
    let opened = OpenImage::open(&graph, &disk, false).unwrap();
    let user = opened.backend.clone();
    let results = sim.block_on(&sim.io(1), async {
        let mut client = BackendClient::new(&user, &sim.io(1));
        let read = client.read(range("0..512")).await;
        let written = client.write(0, &[0xd7; 512], true).await;
        let _ = client.flush().await;
        (written, read)
    });
    drop(user);
    let _ = opened.close(&graph);
    let (written, read) = results.unwrap();
    (written, read, disk.image())
}

#[test]
fn a_table_of_any_claimed_length_is_refused_before_it_is_read() {
    // Entries of L1, clusters of the refcount table, snapshots.
    for (at, count) in
        [(36, u32::MAX), (36, (4 << 20) + 1), (36, 0), (56, u32::MAX), (56, 0), (60, u32::MAX), (60, 65537)]
    {
        let (mut image, _) = image();
        image.write(at, &count.to_be_bytes());
        let (kind, read) = opened(&image, false);
        assert_eq!(kind, Some(Kind::InvalidImage), "{count} at {at}");
        assert!(read <= 2048, "{count} at {at}: {read} bytes were read");
    }
}

#[test]
fn tables_whose_end_wraps_around_are_refused() {
    for at in [40, 48, 64] {
        for place in [u64::MAX, u64::MAX - 511, 1 << 63, 1 << 56, (1 << 56) - 512, 1] {
            let (mut image, _) = image();
            image.write(60, &u32::from(at == 64).to_be_bytes());
            put(&mut image, at, place);
            let (kind, read) = opened(&image, false);
            // A table behind the end of the file is found when it is read.
            let is_refused = kind.is_some() || (place == (1 << 56) - 512 && at == 64);
            assert!(is_refused && read < 1 << 20, "{at}: {place:#x}: {kind:?}");
        }
    }
}

#[test]
fn no_cluster_size_and_no_width_divides_by_zero_or_shifts_too_far() {
    for (at, known) in [(20, 9..=21), (96, 0..=6)] {
        for value in (0..256).chain([u32::MAX, 1 << 31]) {
            let (mut image, _) = image();
            image.write(at, &u32::to_be_bytes(value));
            let (kind, _) = opened(&image, true);
            assert!(known.contains(&value) || kind == Some(Kind::InvalidImage), "{value} at {at}: {kind:?}");
        }
    }
}

#[test]
fn an_opening_that_fails_leaves_nothing_to_trip_over() {
    let (good, _) = image();
    let (sim, good_disk) = (sim(), disk(&good));
    let graph = SimGraph::start(&sim);
    let mut failed = 0;
    for byte in 0..112 {
        let mut bad = good.clone();
        bad.write(byte, &[good.bytes(byte..byte + 1)[0] ^ 0xff]);
        match OpenImage::open(&graph, &disk(&bad), false) {
            Ok(opened) => drop(opened.close(&graph)),
            Err(_) => failed += 1,
        }
        OpenImage::open(&graph, &good_disk, false).unwrap().close(&graph).unwrap();
    }
    assert!(failed > 50, "{failed}");
}

#[test]
fn header_extensions_that_claim_more_than_there_is_are_refused() {
    for len in [u32::MAX, 0x7fff_ffff, 512, 401] {
        let (mut image, _) = image();
        image.write(112, &[0x12, 0x34, 0x56, 0x78]);
        image.write(116, &len.to_be_bytes());
        assert_eq!(opened(&image, true).0, Some(Kind::InvalidImage), "{len}");
    }
}

#[test]
fn an_end_of_header_extensions_that_claims_data_is_refused_where_there_is_no_room_for_it() {
    for (len, is_opened) in [(0_u32, true), (8, true), (0x0100_0180, false), (u32::MAX, false)] {
        let (mut image, _) = image();
        image.write(112, &[0; 4]);
        image.write(116, &len.to_be_bytes());
        assert_eq!(opened(&image, true).0.is_none(), is_opened, "{len}");
    }
}

#[test]
fn a_snapshot_table_of_any_claimed_size_costs_what_its_bytes_cost() {
    let mut entry = vec![0; 64];
    for (at, len) in [(12, 2), (14, 2), (36, 4), (8, 4)] {
        entry.fill(0);
        entry[at..at + len].fill(0xff);
        match Snapshots::parse(&entry, 1) {
            Ok(table) => {
                assert!(table.list[0].l1(ClusterBits::MIN).is_err(), "an L1 table of {len} bytes of ones")
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(Snapshots::parse(&entry, 65536).is_err());
}

#[test]
fn a_directory_of_bitmaps_of_any_claimed_size_costs_what_its_bytes_cost() {
    let extension = |count: u32, len: u64, at: u64| {
        [&count.to_be_bytes()[..], &[0; 4], &len.to_be_bytes(), &at.to_be_bytes()].concat()
    };
    for (count, len, at) in [
        (u32::MAX, 32, 512),
        (65536, 32, 512),
        (1, u64::MAX, 512),
        (0, 32, 512),
        (1, 32, 1),
        (1, 32, 1 << 56),
    ] {
        assert!(
            BitmapsExtension::parse(&extension(count, len, at), ClusterBits::MIN).is_err(),
            "{count} {len} {at}"
        );
    }
    // As many as there can be, in a directory of one entry whose name or extra data have any length.
    let extension = BitmapsExtension::parse(&extension(65535, 32, 512), ClusterBits::MIN).unwrap();
    for ones in [8..12, 18..20, 20..24, 0..8] {
        let mut entry = [0; 32];
        entry[ones.clone()].fill(0xff);
        assert!(extension.parse_directory(&entry, ClusterBits::MIN).is_err(), "{ones:?}");
    }
}

#[test]
fn a_guest_does_not_write_to_metadata_that_an_entry_points_to() {
    let (image, header) = with_entry(0);
    let l1 = header.l1().at.get();
    let l2 = word(&image, l1) & !COPIED;
    let table = header.refcounts().at.get();
    for target in [0, l1, l2, table, word(&image, table)] {
        let (image, _) = with_entry(target | COPIED);
        let (written, _, after) = used(&image);
        if target != 0 {
            assert_eq!(written.unwrap_err().kind(), Kind::Corrupt, "{target:#x}");
        }
        // Nothing of what was there is the guest's now; the mark of the damage aside, it is as it was.
        for place in [l1, l2, table] {
            assert!(after.bytes(place..place + 512) != [0xd7; 512], "{target:#x}: {place:#x}");
        }
        assert_eq!(after.bytes(0..4), b"QFI\xfb");
    }
}

#[test]
fn clusters_that_claim_to_be_free_are_not_handed_out_while_they_are_in_use() {
    let (mut image, header) = image();
    let table = header.refcounts().at.get();
    let block = word(&image, table);
    // Nothing is counted, the header neither; or there is no block at all.
    let mut uncounted = image.clone();
    uncounted.write(block, &[0; 512]);
    put(&mut image, table, 0);
    for image in [uncounted, image] {
        let (_, _, after) = used(&image);
        let now = Header::parse(&after.bytes(0..512)).unwrap();
        for place in [0, now.l1().at.get(), now.refcounts().at.get(), block] {
            assert!(after.bytes(place..place + 512) != [0xd7; 512], "data of the guest at {place:#x}");
        }
    }
}

#[test]
fn compressed_clusters_behind_the_end_and_inside_of_metadata_are_errors() {
    for entry in [1 << 40, (1 << 61) - 1, 0, 512, 1024] {
        let (image, _) = with_entry(COMPRESSED | entry);
        let (_, read, after) = used(&image);
        assert!(read.is_err(), "{entry:#x}");
        assert_eq!(after.bytes(0..4), b"QFI\xfb");
    }
}

#[test]
fn a_compressed_cluster_of_any_ratio_fills_one_cluster() {
    // A zstd frame of one segment of 128 MiB, in blocks that repeat a byte.
    let mut bomb = b"\x28\xb5\x2f\xfd\xa0\0\0\0\x08".to_vec();
    for _ in 0..1024 {
        bomb.extend_from_slice(&[0x02, 0x00, 0x10, 0x41]);
    }
    // A frame with the largest window that can be written.
    let window = b"\x28\xb5\x2f\xfd\0\xff\x03\x10\0\x41".to_vec();
    for (bytes, compression) in
        [(&bomb, Compression::Zstd), (&window, Compression::Zstd), (&bomb, Compression::Deflate)]
    {
        let mut cluster = vec![0; 4096];
        let _ = Decompressor::new(compression).decompress(bytes, &mut cluster);
        assert_eq!(cluster.len(), 4096);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" 0 kB");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 256 << 10, "{kib} KiB for a cluster of 4 KiB");
}

#[test]
fn an_external_data_file_is_told_and_not_opened_by_the_driver() {
    for name in [&b"/etc/passwd"[..], br#"json:{"driver":"file","filename":"/etc/passwd"}"#] {
        let (mut image, _) = image();
        image.write(79, &[4]);
        image.write(112, b"DATA");
        image.write(116, &u32::try_from(name.len()).unwrap().to_be_bytes());
        image.write(120, name);
        image.write(120 + name.len().next_multiple_of(8) as u64, &[0; 8]);
        for read_only in [true, false] {
            assert_eq!(opened(&image, read_only).0, None);
        }
        // Without the file, there is nowhere to write.
        let (written, ..) = used(&image);
        assert_eq!(written.unwrap_err().kind(), Kind::NotFound);
        let header = Header::parse(&image.bytes(0..512)).unwrap();
        assert_eq!(header.extensions().data_file(), Some(name), "it is told, not opened");
    }
}
