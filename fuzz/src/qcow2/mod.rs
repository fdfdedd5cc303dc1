//! qcow2: the parsers of its structures, its compressed clusters, whole images, and what we make of options and bytes.

pub mod image;
mod made;
mod repair;
mod seed;
mod table;

use drystone_format::qcow2::compress::{Compression, Decompressor};

use crate::Target;
use crate::input::Input;

/// A header with its extensions, written back as it was.
pub const HEADER: Target = Target {
    name: "qcow2_header",
    run: table::header,
    seeds: seed::headers,
    words: &[
        b"QFI\xfb",
        b"\0\0\0\x68",
        b"\xe2\x79\x2a\xca",
        b"\x68\x03\xf8\x57",
        b"\x23\x85\x28\x75",
        b"\x05\x37\xbe\x77",
        b"DATA",
    ],
    len_max: 4096,
    mutations: 20_000,
};

/// Tables of clusters, refcounts, snapshots and bitmaps.
pub const TABLES: Target = Target {
    name: "qcow2_tables",
    run: table::tables,
    seeds: seed::tables,
    words: &[],
    len_max: 4096,
    mutations: 5000,
};

/// Compressed clusters.
pub const COMPRESSED: Target = Target {
    name: "qcow2_compressed",
    run: decompress,
    seeds: seed::compressed,
    words: &[b"\x28\xb5\x2f\xfd"],
    len_max: 2048,
    mutations: 3000,
};

/// Clusters that are compressed.
pub const PRESSED: Target = Target {
    name: "qcow2_pressed",
    run: made::press,
    seeds: seed::pressed,
    words: &[b"\x01\x07\xff", b"\x02\x07\xff\x0f\xff", b"\x02\x01\0\x10\0"],
    len_max: 1024,
    mutations: 1500,
};

/// Images that are made.
pub const CREATE: Target = Target {
    name: "qcow2_create",
    run: made::create,
    seeds: seed::created,
    words: &[b"\0\x01\0\0"],
    len_max: 1200,
    mutations: 1500,
};

/// A file that is opened as an image, checked, read, written and closed.
pub const IMAGE: Target = Target {
    name: "qcow2_image",
    run: image::run,
    seeds: seed::images,
    words: &[b"QFI\xfb", b"\x80\0\0\0\0\0\x10\0", b"\0\0\0\0\0\0\0\x01", b"\x40\0\0\0\0\0\x0c\0"],
    len_max: 16 << 10,
    mutations: 1200,
};

/// `[bits of a cluster, algorithm] stream`: the same answer twice, from a used decompressor and from a new one.
fn decompress(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cluster_bytes = 512 << input.choice(&[0, 3, 7]);
    let compression = input.choice(&[Compression::Deflate, Compression::Zstd]);
    let mut used = Decompressor::new(compression);
    let (mut first, mut second) = (vec![0; cluster_bytes], vec![0xff; cluster_bytes]);
    let answer = used.decompress(input.rest(), &mut first).is_ok();
    let _ = used.decompress(&[0xff; 16], &mut second);
    assert_eq!(used.decompress(input.rest(), &mut second).is_ok(), answer, "damage is remembered");
    assert!(!answer || first == second, "a cluster depends on the one before it");
    assert_eq!(Decompressor::new(compression).decompress(input.rest(), &mut second).is_ok(), answer);
    assert!(!answer || first == second);
}
