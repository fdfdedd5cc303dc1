//! Each kind of fault, and running out of space.

use drystone_core::disk::Preallocation;

use super::*;
use crate::notation::range;

const WRITE: OpFilter = OpFilter::of(OpKind::Write);

/// A disk of sevens, at seeded paces.
fn sevens(seed: u64) -> SimDisk {
    SimDisk::new(Image::from_bytes(&[7; 65536]), DiskOptions::seeded(seed))
}

#[test]
fn only_the_nth_operation_fails() {
    let disk = sevens(1);
    disk.inject(Fault::nth(2, WRITE, FaultEffect::Io));
    with(&disk, 1, async |client| {
        let mut results = Vec::new();
        for _ in 0..4 {
            client.flush().await.unwrap();
            results.push(errno(client.write(0, &[1; 512]).await));
        }
        assert_eq!(results, [0, 0, 5, 0]);
    });
    assert_eq!(disk.faults_hit(), 1);
    assert_eq!(disk.trace()[5].ended.unwrap().1, Outcome::Failed(drystone_base::Kind::Io));
}

#[test]
fn every_kind_of_operation_can_fail() {
    for effect in [FaultEffect::Io, FaultEffect::NoSpace, FaultEffect::Short] {
        let disk = sevens(1);
        disk.inject(Fault::every(OpFilter::any(), effect));
        let expected = if effect == FaultEffect::NoSpace { 28 } else { 5 };
        with(&disk, 1, async |client| {
            assert_eq!(errno(client.read(0, 512).await), expected);
            assert_eq!(errno(client.write(0, &[1; 512]).await), expected);
            assert_eq!(errno(client.flush().await), expected);
            assert_eq!(errno(client.discard(range("0..4K")).await), expected);
            assert_eq!(errno(client.write_zeroes(range("0..4K"), true).await), expected);
            assert_eq!(errno(client.truncate(0, Preallocation::Off).await), expected);
        });
        assert_eq!((disk.faults_hit(), disk.len()), (6, 65536), "{effect:?}");
    }
}

#[test]
fn a_range_fails_for_good_or_for_a_number_of_times() {
    let disk = sevens(1);
    disk.inject(Fault::every(OpFilter::any().touching(range("8K..9K")), FaultEffect::Io));
    disk.inject(Fault::every(OpFilter::of(OpKind::Flush), FaultEffect::NoSpace).times(2));
    with(&disk, 1, async |client| {
        for _ in 0..3 {
            assert_eq!(errno(client.read(0, 8192).await), 0, "only touches it");
            assert_eq!(errno(client.read(0, 8193).await), 5);
        }
        let flushes = [client.flush().await, client.flush().await, client.flush().await];
        assert_eq!(flushes.map(errno), [28, 28, 0]);
        disk.clear_faults();
        assert_eq!(errno(client.read(0, 65536).await), 0);
    });
}

#[test]
fn a_failed_write_may_have_changed_any_of_its_sectors_and_no_other() {
    let mut changed_counts = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let disk = sevens(seed);
        disk.inject(Fault::nth(0, WRITE, FaultEffect::Io));
        with(&disk, seed, async |client| assert_eq!(errno(client.write(4096, &[1; 2048]).await), 5));
        let bytes = disk.image().to_vec();
        assert!(bytes[..4096].iter().chain(&bytes[6144..]).all(|&byte| byte == 7));
        let sectors: Vec<u8> = bytes[4096..6144].chunks(512).map(|sector| sector[0]).collect();
        assert!(bytes[4096..6144].chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
        changed_counts.insert(sectors.iter().filter(|&&byte| byte == 1).count());
    }
    assert_eq!(changed_counts.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_short_write_changes_a_beginning_only() {
    let mut lens = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let disk = sevens(seed);
        disk.inject(Fault::nth(0, WRITE, FaultEffect::Short));
        with(&disk, seed, async |client| assert_eq!(errno(client.write(4096, &[1; 2048]).await), 5));
        let bytes = disk.image().bytes(4096..6144);
        let len = bytes.iter().take_while(|&&byte| byte == 1).count();
        assert!(bytes[len..].iter().all(|&byte| byte == 7));
        lens.insert(len);
    }
    assert_eq!(lens.into_iter().collect::<Vec<_>>(), [0, 512, 1024, 1536]);
}

#[test]
fn a_damaged_read_is_wrong_by_the_same_bit_each_time() {
    let disk = sevens(1);
    disk.inject(Fault::every(OpFilter::of(OpKind::Read).touching(range("4K..5K")), FaultEffect::Damage));
    with(&disk, 1, async |client| {
        let wrong = client.read(4096, 1024).await.unwrap();
        for sector in wrong.chunks(512) {
            let flipped: u32 = sector.iter().map(|byte| (byte ^ 7).count_ones()).sum();
            assert_eq!(flipped, 1);
        }
        assert_eq!(client.read(4096, 1024).await.unwrap(), wrong);
        assert_eq!(client.read(8192, 512).await.unwrap(), [7; 512]);
    });
    assert_eq!(disk.image().to_vec(), [7; 65536]);
}

#[test]
fn a_full_disk_has_room_again_when_it_is_given_some() {
    for seed in 0..50 {
        let disk = SimDisk::zeroed(0, seed);
        disk.set_space(8192);
        with(&disk, seed, async |client| {
            client.write(0, &[1; 4096]).await.unwrap();
            assert_eq!(errno(client.write(100, &[2; 8192]).await), 28);
            assert_eq!(errno(client.write(0, &[3; 4096]).await), 0, "what is allocated can be written");
            assert_eq!(errno(client.truncate(1 << 20, Preallocation::Off).await), 0, "a hole takes no room");
            assert_eq!(errno(client.truncate(2 << 20, Preallocation::Falloc).await), 28);
            assert_eq!(errno(client.write_zeroes(range("0..16K"), false).await), 28);
            assert_eq!(errno(client.write_zeroes(range("0..16K"), true).await), 0);
            assert_eq!(disk.image().allocated_bytes(), 0, "holes give room back");
            disk.set_space(1 << 20);
            client.write(100, &[2; 8192]).await.unwrap();
            assert_eq!(client.read(100, 8192).await.unwrap(), [2; 8192]);
        });
        assert!(disk.image().allocated_bytes() <= 1 << 20);
    }
}

#[test]
fn reserved_space_is_there_when_it_is_written() {
    let disk = instant(0);
    disk.set_space(16384);
    with(&disk, 1, async |client| {
        client.truncate(16384, Preallocation::Full).await.unwrap();
        assert_eq!(errno(client.truncate(1, Preallocation::Metadata).await), 95);
        client.write(0, &[1; 16384]).await.unwrap();
        assert_eq!(errno(client.write(16384, b"x").await), 28);
    });
}

#[test]
fn zeroes_may_be_refused_where_there_is_no_fast_way() {
    use drystone_core::disk::{Disk, DiskOp};
    let disk =
        SimDisk::new(Image::new(4096), DiskOptions { has_fast_zeroes: false, ..DiskOptions::seeded(1) });
    with(&disk, 1, async |client| client.write_zeroes(range("0..4K"), true).await.unwrap());
    let sim = Sim::seeded(1);
    let op = DiskOp::WriteZeroes { range: range("0..4K"), may_unmap: true, fast_only: true };
    let mut refused = disk.submit(&sim.io(1), op);
    assert_eq!(errno(refused.try_take().unwrap().result), 95);
}
