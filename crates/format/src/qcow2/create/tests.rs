//! What a new image says and counts, and the options that are refused.

use super::*;
use crate::qcow2::refcount::parse_table_entry;

fn options(len_guest: u64) -> CreateOptions {
    CreateOptions::new(len_guest)
}

/// The image's bytes, as far as pieces cover them; the rest of the file is zeroes.
fn image(layout: &Layout) -> Vec<u8> {
    let end = layout.pieces.iter().map(|(at, bytes)| at.get() + bytes.len() as u64).max().unwrap();
    assert!(end <= layout.len_file.max(end));
    let mut image = vec![0; usize::try_from(end).unwrap()];
    for (at, bytes) in &layout.pieces {
        let at = usize::try_from(at.get()).unwrap();
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

#[test]
fn every_cluster_of_every_new_image_is_counted_once() {
    for cluster_bytes in (9..=21).map(|bits| 1 << bits) {
        for refcount_bits in (0..=6).map(|order| 1 << order) {
            for len_guest in [0, 1 << 20, 20 << 30] {
                let layout =
                    CreateOptions { cluster_bytes, refcount_bits, ..options(len_guest) }.layout().unwrap();
                check_counts(&image(&layout), layout.len_file);
            }
        }
    }
}

fn check_counts(image: &[u8], len_file: u64) {
    let header = Header::parse(&image[..image.len().min(2 << 20)]).unwrap();
    let cluster = header.cluster();
    let table_at = usize::try_from(header.refcounts().at.get()).unwrap();
    let per_block = header.width().per_block(cluster);
    let clusters = usize::try_from(cluster.clusters(len_file)).unwrap();
    let mut counted = 0;
    for entry in image[table_at..].chunks_exact(8).take(clusters.div_ceil(per_block)) {
        let raw = u64::from_be_bytes(entry.try_into().unwrap());
        let at = usize::try_from(parse_table_entry(raw, cluster).unwrap().unwrap().get()).unwrap();
        let block = &image[at..image.len().min(at + cluster.buffer_len())];
        counted += (0..per_block).map_while(|index| header.width().get(block, index)).sum::<u64>();
    }
    assert_eq!(counted, clusters as u64, "{cluster:?} {:?}", header.width());
    let l1_end = header.l1().at.get() + u64::from(header.l1().entries) * 8;
    assert!(l1_end <= len_file);
}

#[test]
fn a_mapped_image_counts_its_data_too() {
    for (cluster_bytes, refcount_bits) in [(512, 16), (512, 64), (4096, 1), (65536, 16), (2 << 20, 8)] {
        for len_guest in [0, 1, 1 << 20, 10_000_000] {
            let options =
                CreateOptions { cluster_bytes, refcount_bits, is_mapped: true, ..options(len_guest) };
            let layout = options.layout().unwrap();
            check_counts(&image(&layout), layout.len_file);
        }
    }
    let huge = CreateOptions { is_mapped: true, ..options(3 << 40) };
    assert_eq!(huge.layout(), Err(CreateError::Tables(384 << 20)));
}

#[test]
fn a_new_image_says_what_was_asked_for() {
    let asked = CreateOptions {
        lazy_refcounts: true,
        compression: Compression::Zstd,
        backing_name: Some(b"base.img".into()),
        backing_format: Some(b"raw".into()),
        ..options(1000)
    };
    let layout = asked.layout().unwrap();
    let header = Header::parse(&image(&layout)).unwrap();
    assert_eq!(header.len_guest(), 1024, "the length is rounded up");
    assert_eq!((header.compression(), header.version()), (Compression::Zstd, Version::V3));
    assert!(header.compatible().has(CompatibleBit::LazyRefcounts));
    assert_eq!(header.backing_name(), Some(&b"base.img"[..]));
    assert_eq!(header.extensions().backing_format(), Some(&b"raw"[..]));
    assert_eq!(header.extensions().feature_names().len(), 8);
}

/// A power cut can tear what is longer than a sector.
#[test]
fn one_sector_makes_the_rest_an_image() {
    let backing = CreateOptions { backing_name: Some(b"base.img".into()), ..options(1 << 20) };
    let backing = CreateOptions { backing_format: Some(b"raw".into()), ..backing };
    for asked in [options(1 << 20), backing, CreateOptions { version: Version::V2, ..options(0) }] {
        let mut layout = asked.layout().unwrap();
        let (at, first) = layout.pieces.pop().unwrap();
        assert_eq!((at.get(), first.len()), (0, first.len().min(512)));
        assert_eq!(image(&layout).iter().take(512).find(|byte| **byte != 0), None);
    }
}

#[test]
fn options_out_of_range_are_refused() {
    for cluster_bytes in [0, 256, 1000, 4 << 20] {
        let error = CreateOptions { cluster_bytes, ..options(0) }.layout();
        assert_eq!(error, Err(CreateError::ClusterBytes(cluster_bytes)));
    }
    for refcount_bits in [0, 3, 128] {
        let error = CreateOptions { refcount_bits, ..options(0) }.layout();
        assert_eq!(error, Err(CreateError::RefcountBits(refcount_bits)));
    }
    for (cluster_bytes, most) in [(512, 128 << 30), (65536, 2 << 50), (2 << 20, 2 << 60)] {
        assert!(CreateOptions { cluster_bytes, ..options(most) }.layout().is_ok(), "{cluster_bytes}");
        for len_bytes in [most + 1, LEN_MAX, u64::MAX] {
            let error = CreateOptions { cluster_bytes, ..options(len_bytes) }.layout();
            assert_eq!(error, Err(CreateError::TooLarge { len_bytes, cluster_bytes }));
        }
    }
}

#[test]
fn version_2_has_none_of_the_newer_options() {
    let v2 = CreateOptions { version: Version::V2, ..options(1 << 20) };
    assert!(v2.layout().is_ok());
    let refused = [
        CreateOptions { refcount_bits: 8, ..v2.clone() },
        CreateOptions { lazy_refcounts: true, ..v2.clone() },
        CreateOptions { compression: Compression::Zstd, ..v2.clone() },
        CreateOptions { extended_l2: true, ..v2.clone() },
        CreateOptions { data_file: Some(b"data".into()), ..v2 },
    ];
    for options in refused {
        assert!(matches!(options.layout(), Err(CreateError::NeedsV3(_))), "{options:?}");
    }
}

#[test]
fn subclusters_and_data_files_have_their_conditions() {
    let extended = CreateOptions { extended_l2: true, cluster_bytes: 8192, ..options(0) }.layout();
    assert_eq!(extended, Err(CreateError::ExtendedL2(8192)));
    let alone = CreateOptions { is_data_raw: true, ..options(0) };
    assert_eq!(alone.layout(), Err(CreateError::RawWithoutDataFile));
    let apart = CreateOptions { data_file: Some(b"data".into()), ..alone };
    let layout = apart.layout().unwrap();
    let mut bytes = vec![0; usize::try_from(layout.len_file).unwrap()];
    for (at, piece) in &layout.pieces {
        let at = usize::try_from(at.get()).unwrap();
        bytes.resize(bytes.len().max(at + piece.len()), 0);
        bytes[at..at + piece.len()].copy_from_slice(piece);
    }
    let header = Header::parse(&bytes[..65536]).unwrap();
    assert!(header.is_data_raw());
    assert_eq!(header.extensions().data_file(), Some(&b"data"[..]));
    let backing = Some(b"base".to_vec());
    let over = CreateOptions { backing_name: backing.clone(), backing_format: backing, ..apart.clone() };
    assert_eq!(over.layout(), Err(CreateError::RawDataOverBacking));
    assert!(CreateOptions { is_data_raw: false, ..over }.layout().is_ok());
    let nameless = CreateOptions { data_file: Some(Vec::new()), ..apart };
    assert_eq!(nameless.layout(), Err(CreateError::DataFileName));
}

#[test]
fn a_backing_file_has_a_name_and_a_format() {
    let backing = |name: Option<&str>, format: Option<&str>| {
        let bytes = |text: &str| text.as_bytes().to_vec();
        CreateOptions { backing_name: name.map(bytes), backing_format: format.map(bytes), ..options(0) }
            .layout()
    };
    assert_eq!(backing(Some("a"), None), Err(CreateError::BackingFormatMissing));
    assert_eq!(backing(None, Some("raw")), Err(CreateError::BackingNameMissing));
    for name in ["", "a\0b", &"x".repeat(1024)] {
        assert_eq!(backing(Some(name), Some("raw")), Err(CreateError::BackingName));
    }
    assert!(backing(Some(&"x".repeat(1023)), Some("raw")).is_ok());
}

#[test]
fn the_header_of_a_small_cluster_drops_feature_names_before_it_refuses_a_name() {
    let named = |len| CreateOptions {
        cluster_bytes: 512,
        backing_name: Some(vec![b'x'; len]),
        backing_format: Some(b"raw".into()),
        ..options(0)
    };
    let room = 512 - 112 - 16 - 8;
    let layout = named(room).layout().unwrap();
    let header = Header::parse(&image(&layout)).unwrap();
    assert_eq!((header.backing_name().unwrap().len(), header.extensions().feature_names().len()), (room, 0));
    assert_eq!(named(room + 1).layout(), Err(CreateError::Header(HeaderError::DoesNotFit(513))));
}
