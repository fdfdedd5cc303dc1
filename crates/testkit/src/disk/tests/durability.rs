//! What survives a power cut: everything that must, nothing that cannot, and all of what might.

use std::collections::BTreeSet;

use drystone_core::disk::Preallocation;
use proptest::prelude::*;

use super::*;
use crate::notation::range;

/// All that could be found, with one letter for each sector.
fn survivors(disk: &SimDisk, limit: usize) -> BTreeSet<String> {
    disk.crash_state().survivors(limit, 1).map(|survivor| show(&survivor.image)).collect()
}

fn show(image: &Image) -> String {
    let letter = |sector: &[u8]| if sector[0] == 0 { '.' } else { char::from(sector[0]) };
    image.to_vec().chunks(512).map(letter).collect()
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn a_flushed_write_survives_and_an_unflushed_one_may() {
    let disk = instant(1024);
    with(&disk, 1, async |client| {
        client.write(0, &[b'a'; 512]).await.unwrap();
        assert_eq!(survivors(&disk, 64), set(&["..", "a."]));
        client.flush().await.unwrap();
        client.write(512, &[b'b'; 512]).await.unwrap();
        assert_eq!(survivors(&disk, 64), set(&["a.", "ab"]));
        client.flush().await.unwrap();
        assert_eq!(survivors(&disk, 64), set(&["ab"]));
        assert_eq!(disk.durable_image(), disk.image());
    });
}

#[test]
fn every_sector_of_an_unflushed_write_may_be_lost() {
    let disk = instant(1536);
    with(&disk, 1, async |client| client.write(0, &[b'a'; 1536]).await.unwrap());
    assert_eq!(survivors(&disk, 8).len(), 8);
}

#[test]
fn of_several_writes_to_a_sector_any_one_may_be_what_survived() {
    let disk = instant(512);
    with(&disk, 1, async |client| {
        for letter in *b"abc" {
            client.write(0, &[letter; 512]).await.unwrap();
        }
    });
    assert_eq!(survivors(&disk, 8), set(&[".", "a", "b", "c"]));
}

#[test]
fn fua_makes_its_own_write_durable_and_nothing_else() {
    let disk = instant(1024);
    with(&disk, 1, async |client| {
        client.write(0, &[b'a'; 1024]).await.unwrap();
        client.write_fua(512, &[b'b'; 512]).await.unwrap();
    });
    assert_eq!(survivors(&disk, 8), set(&[".b", "ab"]), "and the older write does not come back");
}

#[test]
fn a_flush_covers_only_what_had_ended_when_it_began() {
    let disk = instant(1024);
    let sim = Sim::seeded(1);
    let hold = disk.hold(OpFilter::of(OpKind::Flush));
    let client = DiskClient::new(disk.clone(), &sim.io(1));
    sim.block_on(&sim.io(1), client.write(0, &[b'a'; 512])).unwrap().unwrap();
    spawn(&sim, &disk, async |client| client.flush().await.unwrap());
    sim.block_on(&sim.io(1), hold.reached(1)).unwrap();
    sim.block_on(&sim.io(1), client.write(512, &[b'b'; 512])).unwrap().unwrap();
    assert_eq!(survivors(&disk, 8).len(), 4, "nothing is durable before the flush ends");
    drop(hold);
    sim.run_to_end().unwrap();
    assert_eq!(survivors(&disk, 8), set(&["a.", "ab"]));
}

#[test]
fn a_write_in_flight_may_survive_though_nobody_saw_it() {
    let disk =
        SimDisk::new(Image::new(1024), DiskOptions { timing: Timing::Deferred, ..DiskOptions::seeded(1) });
    let sim = Sim::seeded(1);
    let hold = disk.hold(OpFilter::any());
    spawn(&sim, &disk, async |client| assert_eq!(errno(client.write(0, &[b'a'; 1024]).await), 5));
    sim.block_on(&sim.io(1), hold.reached(1)).unwrap();
    assert_eq!(show(&disk.image()), "..");
    disk.power().cut();
    sim.run_to_end().unwrap();
    assert_eq!(survivors(&disk, 8), set(&["..", "a.", ".a", "aa"]));
    assert_eq!(disk.trace()[0].ended.unwrap().1, Outcome::PowerLost);
}

#[test]
fn without_power_everything_fails_and_nothing_changes() {
    let (one, power) = (instant(512), Power::new());
    let other = SimDisk::new(Image::new(512), DiskOptions { power: power.clone(), ..DiskOptions::seeded(1) });
    let third = SimDisk::new(Image::new(512), DiskOptions { power: power.clone(), ..DiskOptions::seeded(2) });
    power.cut_at(2);
    with(&other, 1, async |client| {
        client.flush().await.unwrap();
        client.write(0, &[b'a'; 512]).await.unwrap();
        assert_eq!(errno(client.flush().await), 5, "number 2");
        assert_eq!(errno(client.read(0, 512).await), 5);
    });
    with(&third, 1, async |client| assert_eq!(errno(client.write(0, &[b'b'; 512]).await), 5));
    with(&one, 1, async |client| client.flush().await.unwrap());
    assert_eq!((power.ops_begun(), power.is_off()), (3, true));
    assert_eq!((survivors(&other, 8), survivors(&third, 8)), (set(&[".", "a"]), set(&["."])));
}

#[test]
fn a_reopened_disk_holds_what_survived_and_works() {
    let disk = instant(512);
    with(&disk, 1, async |client| client.write(0, &[b'a'; 512]).await.unwrap());
    disk.power().cut();
    let left = disk.crash_state().survivors(8, 1).next().unwrap();
    assert_eq!(
        (show(&left.image), left.to_string()),
        ("a".into(), "disk 'sim' after the cut: op 0 0..512 kept".into())
    );
    let again = disk.reopened(left.image);
    with(&again, 1, async |client| assert_eq!(client.read(0, 512).await.unwrap(), [b'a'; 512]));
    assert_eq!(survivors(&again, 8), set(&["a"]));
}

#[test]
fn a_length_may_survive_without_its_data_and_the_other_way_round() {
    let disk = instant(0);
    with(&disk, 1, async |client| {
        client.write(0, &[b'a'; 512]).await.unwrap();
        client.write(512, &[b'b'; 512]).await.unwrap();
    });
    assert_eq!(survivors(&disk, 64), set(&["", "a", ".b", "ab", "..", "a."]));
}

#[test]
fn a_lost_truncation_brings_back_what_it_cut_off() {
    let disk = instant(0);
    with(&disk, 1, async |client| {
        client.write(0, &[b'a'; 1024]).await.unwrap();
        client.flush().await.unwrap();
        client.truncate(512, Preallocation::Off).await.unwrap();
        client.write(1024, &[b'b'; 512]).await.unwrap();
        let (lost, kept) = (set(&["aa", "aab"]), set(&["a", "a.b", "a.."]));
        let found = survivors(&disk, 64);
        assert!(found.is_superset(&lost) && found.is_superset(&kept), "{found:?}");
        client.flush().await.unwrap();
        assert_eq!(survivors(&disk, 64), set(&["a.b"]));
    });
}

#[test]
fn a_lost_truncation_does_not_undo_later_durable_data() {
    let disk = instant(0);
    with(&disk, 1, async |client| {
        client.write(0, &[b'a'; 1536]).await.unwrap();
        client.flush().await.unwrap();
        client.truncate(0, Preallocation::Off).await.unwrap();
        client.write_fua(512, &[b'b'; 512]).await.unwrap();
    });
    assert_eq!(survivors(&disk, 64), set(&["aba", ".b"]));
}

#[test]
fn a_failed_flush_makes_nothing_durable_and_the_next_one_does() {
    let disk = instant(512);
    disk.inject(Fault::nth(0, OpFilter::of(OpKind::Flush), FaultEffect::Io));
    with(&disk, 1, async |client| {
        client.write(0, &[b'a'; 512]).await.unwrap();
        assert_eq!(errno(client.flush().await), 5);
        assert_eq!(survivors(&disk, 8), set(&[".", "a"]));
        client.flush().await.unwrap();
        assert_eq!(survivors(&disk, 8), set(&["a"]));
    });
}

#[test]
fn nothing_all_and_each_one_are_always_among_the_survivors() {
    let disk = instant(1 << 20);
    with(&disk, 1, async |client| {
        for index in 0..40 {
            client.write(index * 8192, &[b'a'; 4096]).await.unwrap();
        }
    });
    let state = disk.crash_state();
    let lost: Vec<usize> = state.survivors(10, 1).map(|survivor| survivor.lost.len()).collect();
    assert_eq!((lost.len(), state.change_count()), (82, 40));
    assert_eq!(lost.iter().filter(|&&count| count == 1).count(), 40);
    assert_eq!(lost.iter().filter(|&&count| count == 39).count(), 40);
    assert_eq!(state.survivors(500, 1).count(), 500, "samples fill up to the limit");
    let stories = |seed| state.survivors(500, seed).map(|survivor| survivor.story).collect::<BTreeSet<_>>();
    assert_eq!(stories(1), stories(1));
    assert_ne!(stories(1), stories(2));
}

/// One step of a random program over 8 sectors.
#[derive(Debug, Clone)]
enum Step {
    Write { first: u64, count: u64, fua: bool },
    Truncate(u64),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0_u64..8, 1_u64..3, prop::bool::weighted(0.2));
    let step = prop_oneof![
        5 => write.prop_map(|(first, count, fua)| Step::Write { first, count, fua }),
        1 => (0_u64..9).prop_map(Step::Truncate),
        2 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 0..14)
}

/// For each sector what it may hold after a crash, kept the slow and obvious way.
struct Allowed(Vec<BTreeSet<char>>);

impl Allowed {
    fn change(&mut self, sectors: std::ops::Range<usize>, letter: char, is_durable: bool) {
        for allowed in self.0.iter_mut().take(sectors.end).skip(sectors.start) {
            if is_durable {
                allowed.clear();
            }
            allowed.insert(letter);
        }
    }
}

proptest! {
    #[test]
    fn every_survivor_is_legal_and_every_legal_sector_survives_somewhere(steps in steps()) {
        let disk = instant(0);
        let mut allowed = Allowed(vec![BTreeSet::from(['.']); 16]);
        let mut visible = ['.'; 16];
        with(&disk, 1, async |client| {
            for (letter, step) in ('a'..).zip(steps) {
                match step {
                    Step::Write { first, count, fua } => {
                        let bytes = vec![letter as u8; crate::index(count * 512)];
                        if fua {
                            client.write_fua(first * 512, &bytes).await.unwrap();
                        } else {
                            client.write(first * 512, &bytes).await.unwrap();
                        }
                        let sectors = crate::index(first)..crate::index(first + count);
                        visible[sectors.clone()].fill(letter);
                        allowed.change(sectors, letter, fua);
                    }
                    Step::Truncate(sectors) => {
                        client.truncate(sectors * 512, Preallocation::Off).await.unwrap();
                        visible[crate::index(sectors)..].fill('.');
                        allowed.change(crate::index(sectors)..16, '.', false);
                    }
                    Step::Flush => {
                        client.flush().await.unwrap();
                        for (allowed, &letter) in allowed.0.iter_mut().zip(&visible) {
                            *allowed = BTreeSet::from([letter]);
                        }
                        assert_eq!(disk.durable_image(), disk.image());
                    }
                }
            }
        });
        let mut found = vec![BTreeSet::new(); 16];
        for survivor in disk.crash_state().survivors(64, 1) {
            let sectors = format!("{:.<16}", show(&survivor.image));
            for ((letter, found), allowed) in sectors.chars().zip(&mut found).zip(&allowed.0) {
                prop_assert!(allowed.contains(&letter), "{sectors} {survivor}: {allowed:?}");
                found.insert(letter);
            }
        }
        prop_assert_eq!(found, allowed.0);
        let kept = disk.crash_state().survivors(2, 1).find(|survivor| survivor.lost.is_empty());
        prop_assert_eq!(kept.unwrap().image, disk.image());
    }
}

#[test]
fn a_discarded_range_may_come_back() {
    let disk = SimDisk::new(
        Image::from_bytes(&[b'a'; 1024]),
        DiskOptions { discard: Some(DiscardAs::Zeroes), timing: Timing::Instant, ..DiskOptions::seeded(1) },
    );
    with(&disk, 1, async |client| client.discard(range("0..1K")).await.unwrap());
    assert_eq!(survivors(&disk, 8), set(&["aa", ".a", "a.", ".."]));
}
