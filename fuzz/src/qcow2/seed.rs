//! Where mutations of qcow2 begin: small images of many kinds, with some data in them.

use drystone_base::{GuestOffset, GuestRange};
use drystone_format::qcow2::Header;
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::header::Version;
use drystone_testkit::client::{BackendClient, Target as _};
use drystone_testkit::disk::Image;
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::image::{OpenImage, SCRIPT_BYTES};
use crate::request::disk;

/// Images of several kinds, none larger than a target takes.
fn kinds() -> Vec<CreateOptions> {
    let kind = |len, cluster_bytes, refcount_bits| CreateOptions {
        cluster_bytes,
        refcount_bits,
        ..CreateOptions::new(len)
    };
    vec![
        kind(16 << 10, 512, 16),
        kind(64 << 10, 512, 1),
        kind(20_000 / 512 * 512, 512, 64),
        kind(32 << 10, 1024, 2),
        CreateOptions { version: Version::V2, ..kind(32 << 10, 512, 16) },
        CreateOptions { lazy_refcounts: true, ..kind(64 << 10, 1024, 8) },
        CreateOptions { is_mapped: true, ..kind(4 << 10, 512, 32) },
        CreateOptions {
            backing_name: Some(b"base.img".to_vec()),
            backing_format: Some(b"raw".to_vec()),
            ..kind(16 << 20, 1024, 4)
        },
    ]
}

fn new_image(options: &CreateOptions) -> Image {
    let layout = options.layout().unwrap();
    let mut image = Image::new(layout.len_file);
    for (at, bytes) in &layout.pieces {
        image.write(at.get(), bytes);
    }
    image
}

/// The image after some requests that succeed.
fn used(image: &Image) -> Image {
    let sim = Sim::seeded(0);
    let graph = SimGraph::start(&sim);
    let disk = disk(image);
    let opened = OpenImage::open(&graph, &disk, false).unwrap();
    let user = opened.backend.clone();
    let written = sim.block_on(&sim.io(1), async {
        let mut client = BackendClient::new(&user, &sim.io(1));
        client.write(0, &[0x5a; 700], false).await?;
        client.write(3000, &[0xc3; 512], false).await?;
        client.write_zeroes(GuestRange::new(GuestOffset::new(1024), 1024), false).await?;
        client.discard(GuestRange::new(GuestOffset::new(3072), 512)).await?;
        client.flush().await
    });
    written.unwrap().unwrap();
    drop(user);
    opened.close(&graph).unwrap();
    disk.image()
}

/// Files of all kinds.
pub(super) fn files() -> Vec<Vec<u8>> {
    kinds().iter().map(|kind| used(&new_image(kind)).to_vec()).collect()
}

/// Files behind a script of requests.
pub(super) fn images() -> Vec<Vec<u8>> {
    let script: Vec<u8> = (0..=u8::MAX).map(|at| at.wrapping_mul(37)).take(SCRIPT_BYTES).collect();
    files().into_iter().map(|file| [script.clone(), file].concat()).collect()
}

/// The first clusters of files.
pub(super) fn headers() -> Vec<Vec<u8>> {
    let start = |file: Vec<u8>| file[..Header::area_len_bytes(&file).unwrap()].to_vec();
    files().into_iter().map(start).collect()
}

/// Tables cut out of files, an entry of a snapshot, a directory of bitmaps.
pub(super) fn tables() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = files()
        .into_iter()
        .map(|file| [&[0, 0, 4, 0][..], &file[512..file.len().min(3584)]].concat())
        .collect();
    let snapshot = [
        &[0, 0, 4, 1][..],
        &0x1000_u64.to_be_bytes(),
        &[0, 0, 0, 1, 0, 1, 0, 4],
        &[0; 24],
        &[0, 0, 0, 16],
        &[0; 8],
        &65536_u64.to_be_bytes(),
        b"1name\0\0\0",
    ];
    all.push(snapshot.concat());
    let bitmap = [
        &[0, 0, 4, 0][..],
        &[0, 0, 0, 1, 0, 0, 0, 0],
        &32_u64.to_be_bytes(),
        &0x1000_u64.to_be_bytes(),
        &0x2000_u64.to_be_bytes(),
        &[0, 0, 0, 1, 0, 0, 0, 2, 1, 16, 0, 3, 0, 0, 0, 0],
        b"day\0\0\0\0\0",
    ];
    all.push(bitmap.concat());
    all
}

/// A stream that fills a cluster of 512 bytes, in both kinds of compression.
pub(super) fn compressed() -> Vec<Vec<u8>> {
    // Raw deflate, a stored block: final, 512 bytes, and their complement.
    let stored = [&[0, 0, 1, 0x00, 0x02, 0xff, 0xfd][..], &[7; 512]].concat();
    // Raw deflate with the fixed codes: one byte, and it again and again.
    let repeated = [0, 0, 0x4b, 0x4c, 0x1c, 0x05, 0xa3, 0x60, 0x14, 0x0c, 0x3b, 0x00, 0x00].to_vec();
    // zstd: a frame with one block that repeats a byte 512 times.
    let frame = [0, 1, 0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x01, 0x03, 0x10, 0x00, 0x41].to_vec();
    vec![stored, repeated, frame]
}

/// Words of [`super::PRESSED`].
pub(super) fn pressed() -> Vec<Vec<u8>> {
    vec![
        b"\x01\0\0\0\0\x3fthe quick brown fox jumps over the lazy dog, and then once more: \x02\x03\xff\0\x20".to_vec(),
        b"\x03\0\0\x01\x07\xff\x41\x03\x07\xff\x05\x04\x02\x07\xff\x0f\xff\x02\x07\xff\x10\0".to_vec(),
        b"\x02\x01\0\x03\x01\0\x09\xff\x02\x03\0\0\x01".to_vec(),
        b"\x01\0\x20\x03\x07\xff\x09\xff\x03\x07\xff\x09\xff".to_vec(),
    ]
}

/// Options of [`super::CREATE`].
pub(super) fn created() -> Vec<Vec<u8>> {
    vec![
        b"\x10\0\0\0\0\0\0\x10\0\0\0\0\0".to_vec(),
        b"\x09\x40\0\0\0\0\0\0\x40\0\0\0\0".to_vec(),
        b"\x0c\x02\0\0\0\0\0\x40\0\0\0\x13\x04base".to_vec(),
        b"\x0e\x90\x01\0\0\0\0\x40\0\0\0\0\x04data".to_vec(),
    ]
}
