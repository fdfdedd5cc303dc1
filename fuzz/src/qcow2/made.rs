//! What we make ourselves of somebody's bytes: compressed clusters and new images. Others must be able to read it.

use drystone_base::rng::Rng;
use drystone_format::qcow2::Header;
use drystone_format::qcow2::compress::{Compression, Compressor, Decompressor};
use drystone_format::qcow2::create::CreateOptions;
use drystone_format::qcow2::header::Version;
use drystone_testkit::disk::Image;
use flate2::{Decompress, FlushDecompress, Status};

use super::image;
use crate::input::Input;

/// `[bits of a cluster, algorithm, what to leave out] words`: a cluster made of them, compressed and read back, by a press that
/// was used for something else before.
pub(super) fn press(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let cluster_bytes = 512 << input.choice(&[0, 3, 5, 7]);
    let compression = input.choice(&[Compression::Deflate, Compression::Zstd]);
    let room = cluster_bytes - 1 - usize::from(input.byte()).min(cluster_bytes / 2);
    let cluster = spell(input, cluster_bytes);
    let mut compressor = Compressor::new(compression);
    let mut out = vec![0xee; cluster_bytes];
    let first = compressor.compress(&cluster, &mut out[..room]);
    assert!(out[room..].iter().all(|&byte| byte == 0xee), "more was written than there is room for");
    let stream = out[..first.unwrap_or(0)].to_vec();
    let _ = compressor.compress(bytes, &mut out);
    let again = compressor.compress(&cluster, &mut out[..room]);
    assert_eq!(
        again.map(|len| &out[..len]),
        first.map(|_| &stream[..]),
        "a stream depends on the one before it"
    );
    if first.is_none() {
        return;
    }
    let mut back = vec![0xff; cluster_bytes];
    assert_eq!(Decompressor::new(compression).decompress(&stream, &mut back), Ok(()));
    assert!(back == cluster, "what comes out is not what went in");
    if compression == Compression::Deflate {
        // Readers keep no more than 4 KiB of what came out.
        let mut inflate = Decompress::new_with_window_bits(false, 12);
        let mut back = vec![0xff; cluster_bytes];
        let status = inflate.decompress(&stream, &mut back, FlushDecompress::Finish);
        assert!(matches!(status, Ok(Status::StreamEnd)), "{status:?}");
        assert!(inflate.total_in() == stream.len() as u64 && back == cluster);
    }
}

/// Bytes as they are, runs, and repetitions from near and far, as long as a cluster.
fn spell(mut input: Input<'_>, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::with_capacity(len);
    while bytes.len() < len && !input.is_empty() {
        let (what, count) = (input.byte() % 4, 1 + usize::from(input.u16() % 2048));
        match what {
            0 => bytes.extend(input.bytes(1 + count % 64)),
            1 => bytes.resize(bytes.len() + count, input.byte()),
            2 => {
                let back = 1 + usize::from(input.u16()) % bytes.len().max(1);
                for _ in 0..count {
                    bytes.push(bytes.len().checked_sub(back).map_or(0, |from| bytes[from]));
                }
            }
            _ => {
                let (seed, kinds) = (u64::from(input.byte()), 1 + u64::from(input.byte()));
                let mut rng = Rng::new(seed);
                bytes.extend((0..count).map(|_| u8::try_from(rng.below(kinds)).unwrap_or(0)));
            }
        }
    }
    bytes.resize(len, 0);
    bytes
}

/// Options of a new image: refused, or an image in which a check finds nothing, with the disk that was asked for.
pub(super) fn create(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let bits = input.byte() % 64;
    let text = |wanted: bool, bytes: &[u8]| wanted.then(|| bytes.to_vec());
    let flags = input.byte();
    let has = |bit: u8| flags & (1 << bit) != 0;
    let options = CreateOptions {
        cluster_bytes: if has(0) { u64::from(input.u32()) } else { 1 << (bits % 24) },
        version: if has(1) { Version::V2 } else { Version::V3 },
        refcount_bits: if has(2) { input.u64() } else { 1 << (bits % 8) },
        lazy_refcounts: has(3),
        compression: input.choice(&[Compression::Deflate, Compression::Zstd]),
        extended_l2: has(4),
        is_data_raw: has(5),
        is_mapped: has(6),
        // Not so long that its tables alone would take all memory.
        ..CreateOptions::new(input.u64() >> (20 + bits % 44))
    };
    let backing = input.byte();
    let length = usize::from(input.byte());
    let options = CreateOptions {
        data_file: text(has(7), input.bytes(length)),
        backing_name: text(backing & 1 != 0, input.bytes(length * usize::from(backing >> 4))),
        backing_format: text(backing & 2 != 0, b"raw"),
        ..options
    };
    let is_small = options.cluster_bytes.checked_mul(1 << 13).is_none_or(|bytes| options.len_guest <= bytes);
    if options.is_mapped && !is_small {
        return;
    }
    let Ok(layout) = options.layout() else { return };
    let written: usize = layout.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(written < 128 << 20, "{written} bytes for a new image");
    let mut image = Image::new(layout.len_file);
    for (at, bytes) in &layout.pieces {
        assert!(at.get() + bytes.len() as u64 <= layout.len_file, "a piece goes past the end of the file");
        image.write(at.get(), bytes);
    }
    let area = Header::area_len_bytes(&image.bytes(0..512)).unwrap();
    let header = Header::parse(&image.bytes(0..area as u64)).unwrap();
    assert_eq!(
        (header.len_guest(), header.version()),
        (options.len_guest.next_multiple_of(512), options.version)
    );
    assert_eq!(header.cluster().bytes(), options.cluster_bytes);
    assert_eq!(header.backing_name(), options.backing_name.as_deref());
    let outcome = image::checked(&image).unwrap();
    assert_eq!((outcome.corruptions, outcome.leaks, outcome.check_errors), (0, 0, 0), "{options:?}");
}
