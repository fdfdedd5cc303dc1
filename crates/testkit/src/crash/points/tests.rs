//! A pointer on one disk and what it points to on another: found whole wherever the power goes off, if and only if the data
//! is flushed first.

use super::*;
use crate::disk::DiskClient;
use crate::disk::Unit;

const SECTOR: u64 = 512;

struct Pointer {
    flushes: bool,
}

impl Pointer {
    /// Lets disk 0 name slot `to`, after its contents were written to disk 1. How far that has come: 2 if it is durable.
    fn set(&self, sim: &Sim, disks: &[SimDisk], to: u8) -> u8 {
        let [pointer, data] = [0, 1].map(|index| DiskClient::new(disks[index].clone(), &sim.io(1)));
        let flushes = self.flushes;
        let work = async move {
            let mut done = 0;
            let _ = async {
                data.write(u64::from(to) * SECTOR, &[to; 1024]).await?;
                if flushes {
                    data.flush().await?;
                }
                done = 1;
                pointer.write(0, &[to; 512]).await?;
                pointer.flush().await?;
                done = 2;
                Ok::<_, drystone_base::Error>(())
            }
            .await;
            done
        };
        sim.block_on(&sim.io(1), work).unwrap()
    }
}

impl Subject for Pointer {
    /// The slots that may be named.
    type Known = Vec<u8>;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Vec<u8> {
        [vec![0], vec![0, 2], vec![2]][usize::from(self.set(sim, disks, 2))].clone()
    }

    fn verify(&self, _: &Sim, disks: &[SimDisk], known: &Vec<u8>) -> Vec<u8> {
        let named = disks[0].image().bytes(0..1)[0];
        assert!(known.contains(&named), "{named} is none of {known:?}");
        let at = u64::from(named) * SECTOR;
        assert_eq!(disks[1].image().bytes(at..at + 1024), [named; 1024], "slot {named}");
        vec![named]
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], known: Vec<u8>) -> Vec<u8> {
        [known.clone(), vec![known[0], 4], vec![4]][usize::from(self.set(sim, disks, 4))].clone()
    }
}

fn points(samples: usize) -> CrashPoints {
    let bounds = Bounds { exhaustive_max: if samples > 0 { 0 } else { 6 }, samples, ..Bounds::USUAL };
    CrashPoints { bounds, ..CrashPoints::of("pointer", vec![Image::new(SECTOR), Image::new(8 * SECTOR)]) }
}

fn panic_of(work: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(work).unwrap_err();
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn the_right_order_stands_every_cut() {
    let found = points(0).look_at(&Pointer { flushes: true });
    // Two writes, two flushes, the end.
    assert_eq!((found.boundaries, found.exhaustive), (5, 5));
    // The data has two sectors, then the pointer has one.
    assert_eq!(found.subsets, 4 + 4 + 2 + 2 + 1);
    assert_eq!(found, points(0).look_at(&Pointer { flushes: true }));
    assert_eq!(points(4).look_at(&Pointer { flushes: true }).exhaustive, 1, "only the end leaves no choice");
}

#[test]
fn the_wrong_order_is_found() {
    let text = panic_of(|| drop(points(0).look_at(&Pointer { flushes: false })));
    assert!(text.contains("slot 2"), "{text}");
    panic_of(|| drop(points(8).look_at(&Pointer { flushes: false })));
}

#[test]
fn a_point_is_found_again_by_its_codes() {
    let (points, subject) = (points(0), Pointer { flushes: false });
    let disks = points.make_disks(&points.images, 7);
    cut_at(&disks, 1, || subject.change(&Sim::seeded(7), &disks));
    let (found, coverage) = every_found(&disks, points.bounds, 7);
    assert_eq!(coverage, Coverage::EverySector);
    assert_eq!(disks[1].crash_state().count_of(Unit::Sector), 2);
    for one in found {
        assert_eq!(recall(&disks, &one.codes()).images(), one.images(), "{}", one.codes());
    }
    let only = Only::parse("7 1 K,F1.").unwrap();
    assert!(only.is_at(7, 1) && !only.is_at(7, 2));
    assert_eq!(only.codes, "K,F1.");
    assert!(Only::parse("7 end L").unwrap().is_at(7, u64::MAX));
    assert!(Only::parse("7 1").is_none());
    assert_eq!(recall(&disks, &only.codes).images()[0].bytes(0..1), [2]);
}

#[test]
fn deeper_bounds_sample_more() {
    let deeper = Bounds::USUAL.deeper(8);
    assert_eq!(deeper.samples, 8 * Bounds::USUAL.samples);
    assert_eq!(deeper.exhaustive_max, Bounds::USUAL.exhaustive_max + 3);
    assert_eq!(Bounds::USUAL.deeper(1), Bounds::USUAL);
}
