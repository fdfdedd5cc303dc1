//! Operations in flight together: their order, their tearing, and operations that stand still.

use std::collections::BTreeSet;

use drystone_core::runtime::yield_now;

use super::*;

/// What two writes in flight to the same 8 sectors leave, one letter for each sector.
fn race(seed: u64) -> String {
    let disk = SimDisk::zeroed(4096, seed);
    let sim = Sim::seeded(seed);
    for letter in *b"ab" {
        spawn(&sim, &disk, async move |client| client.write(0, &[letter; 4096]).await.unwrap());
    }
    sim.run_to_end().unwrap();
    letters(&disk.image().to_vec())
}

/// The letter of each sector, `?` where a sector holds more than one.
fn letters(bytes: &[u8]) -> String {
    let letter = |sector: &[u8]| match sector.iter().all(|&byte| byte == sector[0]) {
        true if sector[0] == 0 => '.',
        true => char::from(sector[0]),
        false => '?',
    };
    bytes.chunks(512).map(letter).collect()
}

#[test]
fn of_two_writes_in_flight_either_wins_sector_by_sector() {
    let seen: BTreeSet<String> = (0..3000).map(race).collect();
    assert!(seen.contains("aaaaaaaa") && seen.contains("bbbbbbbb"), "{seen:?}");
    assert!(seen.len() > 20, "some are mixtures: {seen:?}");
    assert!(seen.iter().all(|mixture| !mixture.contains(['?', '.'])), "no sector is torn or lost: {seen:?}");
}

#[test]
fn a_read_may_see_a_part_of_a_write_in_flight() {
    let seen: BTreeSet<String> = (0..2000)
        .map(|seed| {
            let disk = SimDisk::zeroed(4096, seed);
            let sim = Sim::seeded(seed);
            spawn(&sim, &disk, async |client| client.write(0, &[b'a'; 4096]).await.unwrap());
            let client = DiskClient::new(disk.clone(), &sim.io(2));
            letters(&sim.block_on(&sim.io(2), client.read(0, 4096)).unwrap().unwrap())
        })
        .collect();
    assert!(seen.contains("aaaaaaaa") && seen.contains("........"), "{seen:?}");
    assert!(seen.len() > 10, "some are mixtures: {seen:?}");
}

#[test]
fn operations_end_in_another_order_than_they_began() {
    let reordered = (0..100).filter(|&seed| {
        let disk = SimDisk::zeroed(65536, seed);
        let sim = Sim::seeded(seed);
        for at in [0, 8192, 16384] {
            spawn(&sim, &disk, async move |client| client.write(at, &[1; 4096]).await.unwrap());
        }
        sim.run_to_end().unwrap();
        let ends: Vec<u64> = disk.trace().iter().map(|record| record.ended.unwrap().0).collect();
        !ends.is_sorted()
    });
    assert!(reordered.count() > 20);
}

#[test]
fn an_operation_stands_still_until_it_is_released() {
    for seed in 0..50 {
        let disk = SimDisk::zeroed(65536, seed);
        let sim = Sim::seeded(seed);
        let hold = disk.hold(OpFilter::of(OpKind::Write).touching(crate::notation::range("4K..8K")));
        for at in [0, 4096, 6144, 8192] {
            spawn(&sim, &disk, async move |client| client.write(at, &[5; 2048]).await.unwrap());
        }
        sim.block_on(&sim.control(), hold.reached(2)).unwrap();
        let stuck = sim.run_to_end().unwrap_err().to_string();
        assert!(stuck.contains("disk 'sim' op"), "{stuck}");
        assert!(stuck.contains("Write 4K..6K in flight"), "{stuck}");
        assert_eq!(letters(&disk.image().bytes(4096..8192)), "........");
        assert!(hold.release_one());
        let stuck = sim.run_to_end().unwrap_err();
        assert_eq!((hold.count(), letters(&disk.image().bytes(4096..8192))).0, 1, "{stuck}");
        drop(hold);
        sim.run_to_end().unwrap();
        assert_eq!(disk.image().bytes(4096..8192), [5; 4096]);
    }
}

#[test]
fn a_test_waits_for_an_operation_and_not_for_time() {
    let disk = SimDisk::zeroed(4096, 1);
    let sim = Sim::seeded(1);
    let hold = disk.hold(OpFilter::any());
    let local = sim.io(1);
    spawn(&sim, &disk, async move |client| {
        local.sleep_until(1_000_000_000).await;
        yield_now().await;
        client.flush().await.unwrap();
    });
    sim.block_on(&sim.control(), hold.reached(1)).unwrap();
    assert_eq!(sim.now_ns(), 1_000_000_000);
    assert_eq!(hold.release_all(), 1);
    assert!(!hold.release_one());
    sim.run_to_end().unwrap();
}
