//! Headers field by field: every limit, every truncation, every flipped bit, and what an image may be opened for.

use drystone_base::BeMut;

use super::*;
use crate::qcow2::feature::{AutoclearBit, CompatibleBit, IncompatibleBit};
use crate::qcow2::geometry::HOST_END;

/// A version 3 header of a 1 MiB disk with 4 KiB clusters, an unknown extension and a backing file.
fn valid() -> Vec<u8> {
    let mut out = Vec::new();
    BeMut(&mut out).bytes(&MAGIC).u32(3).u64(0).u32(0).u32(12).u64(1 << 20).u32(0);
    BeMut(&mut out).u32(1).u64(0x3000).u64(0x1000).u32(1).u32(0).u64(0);
    BeMut(&mut out).u64(0).u64(1).u64(0).u32(4).u32(120);
    BeMut(&mut out).u64(0).u64(0x1234_5678_9abc_def0); // compression type, then a field that nobody knows
    BeMut(&mut out).u32(0x1234_5678).u32(3).bytes(b"abc\0\0\0\0\0");
    BeMut(&mut out).u32(0xe279_2aca).u32(3).bytes(b"raw\0\0\0\0\0");
    BeMut(&mut out).u64(0);
    let name_at = out.len() as u64;
    out[8..16].copy_from_slice(&name_at.to_be_bytes());
    out[16..20].copy_from_slice(&8u32.to_be_bytes());
    out.extend_from_slice(b"base.img");
    out
}

fn valid_v2() -> Vec<u8> {
    let mut out = valid()[..72].to_vec();
    out[4..8].copy_from_slice(&2u32.to_be_bytes());
    out[8..20].fill(0);
    out.extend_from_slice(&[0; 8]);
    out
}

/// The valid header with some bytes replaced.
fn with(edits: &[(usize, &[u8])]) -> Result<Header, HeaderError> {
    let mut bytes = valid();
    for (at, edit) in edits {
        bytes[*at..*at + edit.len()].copy_from_slice(edit);
    }
    bytes.resize(4096, 0);
    Header::parse(&bytes)
}

fn with_u32(at: usize, value: u32) -> Result<Header, HeaderError> {
    with(&[(at, &value.to_be_bytes())])
}

fn with_u64(at: usize, value: u64) -> Result<Header, HeaderError> {
    with(&[(at, &value.to_be_bytes())])
}

fn access_of(header: Result<Header, HeaderError>) -> Access {
    header.unwrap().access()
}

#[test]
fn every_field_is_read() {
    let header = Header::parse(&valid()).unwrap();
    assert_eq!((header.version(), header.cluster().bits(), header.len_guest()), (Version::V3, 12, 1 << 20));
    assert_eq!(header.l1(), L1Table { at: HostOffset::new(0x3000), entries: 1 });
    assert_eq!(header.refcounts(), RefcountTable { at: HostOffset::new(0x1000), clusters: 1 });
    assert_eq!((header.width(), header.crypt()), (RefcountWidth::BITS_16, Crypt::None));
    assert!(header.compatible().has(CompatibleBit::LazyRefcounts));
    assert_eq!(header.backing_name(), Some(&b"base.img"[..]));
    assert_eq!(header.extensions().backing_format(), Some(&b"raw"[..]));
    assert_eq!(header.access(), Access::ReadWrite);
    assert_eq!(Header::area_len_bytes(&valid()[..PREFIX_BYTES]), Ok(4096));
}

#[test]
fn a_header_encodes_to_what_it_was_parsed_from() {
    for bytes in [valid(), valid_v2()] {
        assert_eq!(Header::parse(&bytes).unwrap().encode(), Ok(bytes));
    }
}

#[test]
fn every_truncation_is_refused_as_one() {
    for bytes in [valid(), valid_v2()] {
        for len in 0..bytes.len() {
            assert_eq!(Header::parse(&bytes[..len]), Err(HeaderError::Truncated), "len {len}");
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_gives_a_header_that_encodes() {
    for bytes in [valid(), valid_v2()] {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped.resize(4096, 0);
            if let Ok(header) = Header::parse(&flipped) {
                let again = Header::parse(&header.encode().unwrap());
                assert_eq!(again.as_ref(), Ok(&header), "bit {bit}");
                let _ = header.access();
            }
        }
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_with_their_number() {
    assert_eq!(with_u32(0, 0), Err(HeaderError::Magic));
    for version in [0, 1, 4] {
        assert_eq!(with_u32(4, version), Err(HeaderError::Version(version)));
    }
    for bits in [0, 8, 22, u32::MAX] {
        assert_eq!(with_u32(20, bits), Err(HeaderError::ClusterBits(bits)));
    }
    for len in [0, 96, 103, 106, 4104, u32::MAX] {
        assert_eq!(with_u32(100, len), Err(HeaderError::HeaderLength(len)));
    }
    assert_eq!(with_u32(32, 3), Err(HeaderError::Crypt(3)));
    assert_eq!(with_u32(96, 7), Err(HeaderError::RefcountOrder(7)));
    assert_eq!(with_u64(24, 1 << 63), Err(HeaderError::LenGuest(1 << 63)));
    assert_eq!(with_u64(24, u64::MAX), Err(HeaderError::LenGuest(u64::MAX)));
}

#[test]
fn the_l1_table_covers_the_disk_and_has_a_limit() {
    assert_eq!(with_u64(24, (2 << 20) + 1), Err(HeaderError::L1TooShort { entries: 1, needed: 2 }));
    assert!(with_u64(24, 2 << 20).is_ok());
    assert!(with_u32(36, 4 << 20).is_ok());
    let len_bytes = (32 << 20) + 8;
    let too_long = HeaderError::TableLength { table: "active L1 table", len_bytes };
    assert_eq!(with_u32(36, (4 << 20) + 1), Err(too_long));
    assert_eq!(
        with(&[(24, &[0; 8]), (36, &[0; 12])]).unwrap().l1().entries,
        0,
        "an empty disk needs no table"
    );
}

#[test]
fn tables_start_where_they_can() {
    for (field, table) in [(40, "active L1 table"), (48, "refcount table")] {
        for at in [0, 1, 0x1800, HOST_END, 1 << 63, u64::MAX << 12] {
            assert_eq!(with_u64(field, at), Err(HeaderError::TableOffset { table, at }));
        }
        assert!(with_u64(field, HOST_END - 4096).is_ok());
    }
    let snapshots = |count: u32, at: u64| with(&[(60, &count.to_be_bytes()), (64, &at.to_be_bytes())]);
    assert!(snapshots(0, 0).is_ok());
    assert!(snapshots(SNAPSHOTS_MAX, 0x4000).is_ok());
    assert_eq!(snapshots(SNAPSHOTS_MAX + 1, 0x4000), Err(HeaderError::Snapshots(SNAPSHOTS_MAX + 1)));
    for (count, at) in [(1, 0), (1, 1), (0, 1), (1, HOST_END)] {
        assert_eq!(snapshots(count, at), Err(HeaderError::TableOffset { table: "snapshot table", at }));
    }
}

#[test]
fn the_refcount_table_exists_and_has_a_limit() {
    assert_eq!(with_u32(56, 0), Err(HeaderError::NoRefcountTable));
    assert!(with_u32(56, 2048).is_ok());
    let too_long = HeaderError::TableLength { table: "refcount table", len_bytes: 2049 << 12 };
    assert_eq!(with_u32(56, 2049), Err(too_long));
    assert!(matches!(with_u32(56, u32::MAX), Err(HeaderError::TableLength { .. })));
}

#[test]
fn the_backing_files_name_is_short_and_in_the_first_cluster() {
    let name = |at: u64, len: u32| with(&[(8, &at.to_be_bytes()), (16, &len.to_be_bytes())]);
    assert_eq!(name(4088, 8).unwrap().backing_name(), None, "a name of zeroes is none");
    assert!(name(2048, 1023).is_ok());
    for (at, len_bytes) in
        [(2048, 1024), (4089, 8), (4097, 1), (8, 8), (112, 8), (u64::MAX, 1), (2048, u32::MAX)]
    {
        assert_eq!(name(at, len_bytes), Err(HeaderError::BackingName { at, len_bytes }));
    }
    assert_eq!(name(0, u32::MAX).unwrap().backing_name(), None);
    assert_eq!(name(2048, 0).unwrap().backing_name(), None);
}

#[test]
fn compression_type_and_feature_bit_agree() {
    let compression = |bit: u8, value: u8| with(&[(79, &[bit << 3]), (104, &[value])]);
    assert_eq!(compression(0, 0).unwrap().compression(), Compression::Deflate);
    assert_eq!(compression(1, 1).unwrap().compression(), Compression::Zstd);
    for (bit, value) in [(0, 1), (1, 0), (1, 2), (0, 255)] {
        let error = HeaderError::CompressionType { value, bit: bit == 1 };
        assert_eq!(compression(bit, value), Err(error));
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    assert_eq!(access_of(with_u32(32, 2)), Access::Refused(RefusedReason::Encrypted(Crypt::Luks)));
    assert_eq!(access_of(with_u64(72, 4)), Access::ReadWrite);
    assert_eq!(access_of(with_u64(88, 2)), Access::Refused(RefusedReason::NoDataFile));
    let Access::Refused(reason) = access_of(with_u64(72, 1 << 63 | 1 << 5 | 1)) else { panic!() };
    assert_eq!(reason.to_string(), "the image uses features that are not supported: bit 5, bit 63");
}

#[test]
fn that_a_data_file_is_raw_stays_true() {
    let raw = with(&[(79, &[4]), (95, &[2 | 4])]).unwrap();
    assert!(raw.is_data_raw());
    let writable = raw.for_writing().unwrap().unwrap();
    assert_eq!((writable.autoclear().raw(), writable.is_data_raw()), (2, true));
    assert_eq!(writable.for_writing(), Ok(None));
}

#[test]
fn subclusters_need_large_clusters_and_longer_l1_tables() {
    assert_eq!(with(&[(79, &[16])]), Err(HeaderError::ExtendedL2(4096)));
    let large = |features: u8, len_guest: u64| {
        let tables = [0x8000_u64.to_be_bytes(), 0x4000_u64.to_be_bytes()].concat();
        let len_guest = len_guest.to_be_bytes();
        with(&[(20, &[0, 0, 0, 14]), (40, &tables), (79, &[features]), (24, &len_guest)])
    };
    let header = large(16, 1 << 20).unwrap();
    assert_eq!((header.l2().entry_bytes(), header.l2().subclusters()), (16, 32));
    let len = header.l2().span_bytes();
    assert!(large(16, len).is_ok());
    let longer = large(16, len + 1);
    assert!(matches!(longer, Err(HeaderError::L1TooShort { .. })), "{longer:?}");
    assert!(large(0, len + 1).is_ok());
}

#[test]
fn an_unknown_feature_has_the_name_that_the_image_gives_it() {
    let mut bytes = valid();
    bytes[72..80].copy_from_slice(&(1u64 << 5).to_be_bytes());
    bytes[8..20].fill(0);
    bytes.truncate(120);
    BeMut(&mut bytes).u32(0x6803_f857).u32(48).u8(0).u8(5).bytes(b"time travel");
    bytes.resize(4096, 0);
    let features = RefusedReason::Features(vec!["time travel".into()]);
    assert_eq!(access_of(Header::parse(&bytes)), Access::Refused(features));
}

#[test]
fn damage_allows_reading_only() {
    assert_eq!(access_of(with_u64(72, 1)), Access::ReadOnly(ReadOnlyReason::Dirty));
    assert_eq!(access_of(with_u64(72, 3)), Access::ReadOnly(ReadOnlyReason::Corrupt));
}

/// The valid header with a bitmaps extension in place of the others, and autoclear bits.
fn with_bitmaps(autoclear: u64) -> Header {
    let mut bytes = valid();
    bytes[8..20].fill(0);
    bytes[88..96].copy_from_slice(&autoclear.to_be_bytes());
    bytes.truncate(120);
    BeMut(&mut bytes).u32(0x2385_2875).u32(24).u32(2).u32(0).u64(64).u64(0x5000).u64(0);
    Header::parse(&bytes).unwrap()
}

#[test]
fn bitmaps_do_not_keep_anybody_from_writing() {
    let header = with_bitmaps(1);
    assert_eq!(header.extensions().bitmaps().unwrap().count, 2);
    assert_eq!((header.access(), header.for_writing()), (Access::ReadWrite, Ok(None)));
}

/// Whatever reaches the disk of the new first sector, and of the name that was written before, is one header or the other.
#[test]
fn bitmaps_move_in_one_sector_and_the_backing_name_stays_readable() {
    let bitmaps = crate::qcow2::bitmap::BitmapsExtension {
        count: 3,
        directory: HostOffset::new(0x7000),
        directory_len_bytes: 96,
    };
    let mut image = valid();
    image.resize(0x10000, 0);
    let header = Header::parse(&image).unwrap();
    for next in
        [Some(bitmaps), Some(crate::qcow2::bitmap::BitmapsExtension { count: 4, ..bitmaps }), None, None]
    {
        let before = Header::parse(&image).unwrap();
        let placed = before.with_bitmaps(&image[..SECTOR_BYTES], next).unwrap();
        if let Some((at, name)) = &placed.name {
            let at = usize::try_from(*at).unwrap();
            image[at..at + name.len()].copy_from_slice(name);
            assert_eq!(Header::parse(&image).unwrap().backing_name(), before.backing_name());
        }
        image[..SECTOR_BYTES].copy_from_slice(&placed.sector);
        let after = Header::parse(&image).unwrap();
        assert_eq!(after, placed.header);
        assert_eq!(after.extensions().bitmaps(), next);
        assert_eq!(after.autoclear().has(AutoclearBit::Bitmaps), next.is_some());
        assert_eq!(after.extensions().has_bitmaps_extension(), next.is_some());
        assert_eq!((after.backing_name(), after.l1()), (header.backing_name(), header.l1()));
    }
}

#[test]
fn bitmaps_that_are_not_consistent_any_more_do_not_matter_and_stay() {
    let header = with_bitmaps(0);
    assert_eq!((header.extensions().bitmaps(), header.access()), (None, Access::ReadWrite));
    assert!(Header::parse(&header.encode().unwrap()).unwrap().extensions().has_bitmaps_extension());
}

#[test]
fn autoclear_features_are_cleared_before_the_first_write() {
    assert_eq!(with_bitmaps(0).for_writing(), Ok(None));
    let header = with_bitmaps(1 << 40 | 1);
    let writing = header.for_writing().unwrap().unwrap();
    assert_eq!(writing.autoclear().raw(), 1);
    assert_eq!(writing.extensions().bitmaps(), header.extensions().bitmaps());
    assert_eq!(with_u64(88, 1 << 40).unwrap().access(), Access::ReadWrite);
}

#[test]
fn a_change_is_checked_as_a_header_is() {
    let header = Header::parse(&valid()).unwrap();
    let change = HeaderChange { len_guest: Some(4 << 20), ..HeaderChange::default() };
    assert_eq!(header.changed(&change), Err(HeaderError::L1TooShort { entries: 1, needed: 2 }));
    let l1 = L1Table { at: HostOffset::new(0x8000), entries: 2 };
    let grown = header.changed(&HeaderChange { l1: Some(l1), ..change }).unwrap();
    assert_eq!((grown.l1(), grown.len_guest()), (l1, 4 << 20));
    assert_eq!(grown.backing_name(), header.backing_name());
    let feature = Autoclear::EMPTY.with(AutoclearBit::Bitmaps, true);
    let change = HeaderChange { autoclear: Some(feature), ..HeaderChange::default() };
    let v2 = Header::parse(&valid_v2()).unwrap();
    assert_eq!(v2.changed(&change), Err(HeaderError::Version(2)));
}

#[test]
fn a_name_that_does_not_fit_behind_the_extensions_any_more_is_an_error() {
    let mut bytes = valid();
    bytes[16..20].copy_from_slice(&1023u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&9u32.to_be_bytes());
    bytes[24..32].fill(0);
    bytes.resize(512, b'x');
    assert!(matches!(Header::parse(&bytes), Err(HeaderError::BackingName { .. })));
    bytes[16..20].copy_from_slice(&350u32.to_be_bytes());
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.backing_name().map(<[u8]>::len), Some(350));
    assert!(header.encode().is_ok());
}

/// A header that fills its cluster has no room for another end of extensions: it could not be marked as corrupt.
#[test]
fn a_change_needs_no_room() {
    let mut bytes = valid()[..104].to_vec();
    bytes[8..20].fill(0);
    bytes[20..24].copy_from_slice(&9u32.to_be_bytes());
    bytes[40..56].copy_from_slice(&[0x400u64.to_be_bytes(), 0x200u64.to_be_bytes()].concat());
    bytes[24..32].copy_from_slice(&4096u64.to_be_bytes());
    bytes[100..104].copy_from_slice(&512u32.to_be_bytes());
    bytes.resize(512, 0);
    let header = Header::parse(&bytes).unwrap();
    let incompatible = header.incompatible().with(IncompatibleBit::Corrupt, true);
    let change = HeaderChange { incompatible: Some(incompatible), ..HeaderChange::default() };
    header.changed(&change).unwrap().patch(&mut bytes);
    assert!(Header::parse(&bytes).unwrap().incompatible().has(IncompatibleBit::Corrupt));
}
