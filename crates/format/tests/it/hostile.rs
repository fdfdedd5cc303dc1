//! Images that were made to hurt: they cost no more time and memory than their bytes are worth, and nothing panics.

use drystone_base::rng::Rng;
use drystone_format::qcow2::check::CheckError;
use drystone_format::qcow2::create::CreateOptions;

use crate::common::Image;
use crate::golden::image;

/// What a check may read of a file of some length: what must be read, tables that overlap, and a constant.
fn read_bytes_max(image: &Image) -> u64 {
    3 * image.bytes.len() as u64 + (64 << 20)
}

/// Parses and checks; neither may panic or read more than the file is worth.
fn survive(image: &Image) {
    let Ok(header) = image.header() else { return };
    let _ = header.access();
    assert!(header.encode().is_ok_and(|bytes| bytes.len() <= header.cluster().buffer_len()));
    let (outcome, findings) = image.check();
    if let Ok(outcome) = outcome {
        assert!(findings.len() as u64 <= outcome.corruptions + outcome.leaks + outcome.check_errors);
    }
    let read = image.read_bytes.get();
    assert!(read <= read_bytes_max(image), "{read} bytes read");
}

#[test]
fn every_truncation_of_an_image_is_survived() {
    for name in ["c512", "c4k-r32-zstd"] {
        let whole = image(name).bytes;
        for len in (0..whole.len()).filter(|len| *len < 1200 || len % 509 == 0) {
            survive(&Image::new(whole[..len].to_vec()));
        }
    }
}

/// Words of metadata: not zero and not all bytes the same, as the guest's data is in these images.
fn words(bytes: &[u8]) -> Vec<usize> {
    let words = bytes.as_chunks::<8>().0.iter().enumerate();
    words
        .filter(|(_, word)| word.windows(2).any(|pair| pair[0] != pair[1]))
        .map(|(index, _)| index * 8)
        .collect()
}

#[test]
fn every_flipped_bit_of_the_metadata_is_survived() {
    let mut image = image("c4k-v2");
    for at in words(&image.bytes) {
        for bit in 0..64 {
            image.bytes[at + bit / 8] ^= 1 << (bit % 8);
            image.read_bytes.set(0);
            survive(&image);
            image.bytes[at + bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn flipped_bits_next_to_bitmaps_and_snapshots_are_survived() {
    let mut image = image("c512");
    let words = words(&image.bytes);
    let mut rng = Rng::new(3);
    for _ in 0..1000 {
        let (at, bit) = (words[rng.index(words.len())], rng.index(64));
        image.bytes[at + bit / 8] ^= 1 << (bit % 8);
        image.read_bytes.set(0);
        survive(&image);
        image.bytes[at + bit / 8] ^= 1 << (bit % 8);
    }
}

fn new_image(options: &CreateOptions) -> Image {
    let layout = options.layout().unwrap();
    let mut bytes = vec![0; usize::try_from(layout.len_file).unwrap()];
    for (at, piece) in layout.pieces {
        let at = usize::try_from(at.get()).unwrap();
        bytes[at..at + piece.len()].copy_from_slice(&piece);
    }
    Image::new(bytes)
}

#[test]
fn a_preallocated_image_is_consistent_and_in_order() {
    for (cluster_bytes, len_guest) in [(512, 200_000), (4096, 5 << 20), (65536, 1 << 20)] {
        let options = CreateOptions { cluster_bytes, is_mapped: true, ..CreateOptions::new(len_guest) };
        let (outcome, findings) = new_image(&options).check();
        let outcome = outcome.unwrap();
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(outcome.clusters_allocated, outcome.clusters_total);
        assert_eq!(outcome.clusters_fragmented, 0);
    }
}

#[test]
fn an_l1_table_full_of_the_same_table_costs_one_read() {
    let mut image = new_image(&CreateOptions { cluster_bytes: 2 << 20, ..CreateOptions::new(1 << 58) });
    let l1 = usize::try_from(image.header().unwrap().l1().at.get()).unwrap();
    let table = (8u64 << 20) | 1 << 63;
    for entry in image.bytes[l1..].chunks_exact_mut(8) {
        entry.copy_from_slice(&table.to_be_bytes());
    }
    let (outcome, _) = image.check();
    assert!(outcome.unwrap().corruptions > 0);
    assert!(image.read_bytes.get() < 100 << 20);
}

#[test]
fn tables_that_overlap_at_every_sector_stop_being_read() {
    let mut image = new_image(&CreateOptions { cluster_bytes: 2 << 20, ..CreateOptions::new(1 << 60) });
    let l1 = usize::try_from(image.header().unwrap().l1().at.get()).unwrap();
    let tail = l1 as u64 + (1 << 20);
    for (index, entry) in image.bytes[l1..].chunks_exact_mut(8).take(1000).enumerate() {
        entry.copy_from_slice(&(tail + index as u64 * 512).to_be_bytes());
    }
    let (outcome, _) = image.check();
    assert!(outcome.unwrap().check_errors > 0);
    assert!(image.read_bytes.get() < read_bytes_max(&image));
}

#[test]
fn a_refcount_table_full_of_itself_costs_one_read() {
    let mut image =
        new_image(&CreateOptions { cluster_bytes: 65536, refcount_bits: 64, ..CreateOptions::new(1 << 30) });
    let table = usize::try_from(image.header().unwrap().refcounts().at.get()).unwrap();
    for entry in image.bytes[table..table + 65536].chunks_exact_mut(8) {
        entry.copy_from_slice(&65536u64.to_be_bytes());
    }
    let (outcome, _) = image.check();
    assert!(outcome.unwrap().corruptions >= 8192);
    assert!(image.read_bytes.get() < 1 << 20);
}

#[test]
fn a_file_with_too_many_clusters_is_refused_before_anything_is_counted() {
    struct Endless(Image);
    impl drystone_format::qcow2::check::Source for Endless {
        fn len_bytes(&self) -> u64 {
            1 << 62
        }

        async fn read_at(&self, _: drystone_base::HostOffset, _: usize) -> drystone_base::Result<Vec<u8>> {
            panic!("nothing is read")
        }
    }
    let image = Endless(new_image(&CreateOptions::new(1 << 30)));
    let header = image.0.header().unwrap();
    let outcome = crate::common::block_on(drystone_format::qcow2::check::check(&image, &header, |_| {}));
    assert!(matches!(outcome, Err(CheckError::Clusters(clusters)) if clusters == 1 << 46));
}
