//! The disk and the model were written apart from each other, and agree: whatever a seeded disk does under concurrent
//! requests, faults and power cuts, the model allows; and what the disk could never do, it does not.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_testkit::disk::{DiskClient, Fault, FaultEffect, OpFilter, SimDisk};
use drystone_testkit::model::{ByteModel, Content, DiscardRule, Ending};
use drystone_testkit::sim::Sim;

const LEN: u64 = 16384;

/// A range inside the disk: mostly whole sectors, sometimes not.
fn draw_range(rng: &mut Rng) -> GuestRange {
    let unit = if rng.one_in(5) { 100 } else { 512 };
    let start = rng.below(LEN / unit) * unit;
    let len = (1 + rng.below(12)) * unit;
    GuestRange::new(GuestOffset::new(start), len.min(LEN - start))
}

type Shared = Rc<RefCell<ByteModel>>;

/// One request of a random kind, told to the model at its begin and its end.
async fn request(client: &DiskClient, model: &Shared, rng: &mut Rng) {
    let (range, at) = (draw_range(rng), |range: GuestRange| range.start().get());
    match rng.below(10) {
        0..=3 => {
            let stamp = model.borrow_mut().fresh_stamp();
            let write = model.borrow_mut().begin_write(range, stamp.into());
            let bytes = stamp.bytes(at(range), range.len());
            let ending = match rng.one_in(4) {
                true => {
                    client.write_fua(at(range), &bytes).await.map_or(Ending::Failed, |()| Ending::Durable)
                }
                false => Ending::from(&client.write(at(range), &bytes).await),
            };
            model.borrow_mut().end_write(write, ending);
        }
        4 => {
            let write = model.borrow_mut().begin_write(range, Content::Zero);
            let ending = Ending::from(&client.write_zeroes(range, rng.one_in(2)).await);
            model.borrow_mut().end_write(write, ending);
        }
        5 => {
            let discard = model.borrow_mut().begin_discard(range, DiscardRule::Any);
            let ending = Ending::from(&client.discard(range).await);
            model.borrow_mut().end_write(discard, ending);
        }
        6 => {
            let flush = model.borrow_mut().begin_flush();
            if client.flush().await.is_ok() {
                model.borrow_mut().end_flush(flush);
            }
        }
        _ => {
            let read = model.borrow_mut().begin_read(range);
            match client.read(at(range), range.len()).await {
                Ok(bytes) => model.borrow_mut().end_read(read, &bytes).unwrap(),
                Err(_) => model.borrow_mut().abandon_read(read),
            }
        }
    }
}

/// Three clients on two threads.
fn load(sim: &Sim, disk: &SimDisk, model: &Shared, requests: u64) {
    let mut seeds = sim.rng();
    for (thread, name) in [(1, "a"), (1, "b"), (2, "c")] {
        let (client, model) = (DiskClient::new(disk.clone(), &sim.io(thread)), Rc::clone(model));
        let mut rng = Rng::new(seeds.next_u64());
        sim.spawn(&sim.io(thread), name, async move {
            for _ in 0..requests {
                request(&client, &model, &mut rng).await;
            }
        });
    }
    sim.run_to_end().unwrap();
}

fn whole() -> GuestRange {
    GuestRange::new(GuestOffset::ZERO, LEN)
}

#[test]
fn whatever_happens_on_a_disk_the_model_allows() {
    for seed in 0..400 {
        let (sim, disk) = (Sim::seeded(seed), SimDisk::zeroed(LEN, seed));
        let model = Rc::new(RefCell::new(ByteModel::zeroed(LEN)));
        if seed % 2 == 0 {
            disk.inject(Fault::nth(seed % 37, OpFilter::any(), FaultEffect::Io));
            disk.inject(Fault::nth(seed % 41, OpFilter::any(), FaultEffect::Short));
        }
        load(&sim, &disk, &model, 25);
        model.borrow_mut().check(whole(), &disk.image().to_vec()).unwrap();
    }
}

#[test]
fn whatever_survives_a_power_cut_the_model_allows() {
    let mut survivors = 0;
    for seed in 0..150 {
        let (sim, mut disk) = (Sim::seeded(seed), SimDisk::zeroed(LEN, seed));
        let model = Rc::new(RefCell::new(ByteModel::zeroed(LEN)));
        for generation in 0..3 {
            disk.power().cut_at((seed * 7 + generation * 13) % 60);
            load(&sim, &disk, &model, 20);
            disk.power().cut();
            model.borrow_mut().crash();
            let found: Vec<_> = disk.crash_state().survivors(40, seed).collect();
            survivors += found.len();
            for one in &found {
                let wrong = model.borrow().clone().check(whole(), &one.image.to_vec());
                wrong.unwrap_or_else(|wrong| panic!("seed {seed}, {one}: {wrong}"));
            }
            let drawn = sim.rng().index(found.len());
            disk = disk.reopened(found[drawn].image.clone());
            model.borrow_mut().check(whole(), &disk.image().to_vec()).unwrap();
        }
    }
    assert!(survivors > 10_000, "{survivors}");
}

#[test]
fn a_disk_that_forgets_a_flush_is_found_out() {
    // The same as above, but what is shown to the model after the cut is from before the last flush.
    let caught = (0..50).filter(|&seed| {
        let (sim, disk) = (Sim::seeded(seed), SimDisk::zeroed(LEN, seed));
        let model = Rc::new(RefCell::new(ByteModel::zeroed(LEN)));
        load(&sim, &disk, &model, 10);
        let stale = disk.durable_image();
        load(&sim, &disk, &model, 10);
        let client = DiskClient::new(disk.clone(), &sim.io(1));
        let flush = model.borrow_mut().begin_flush();
        sim.block_on(&sim.io(1), client.flush()).unwrap().unwrap();
        model.borrow_mut().end_flush(flush);
        model.borrow_mut().crash();
        let after_flush = model.borrow().clone().check(whole(), &disk.durable_image().to_vec());
        assert_eq!(after_flush, Ok(()));
        model.borrow_mut().check(whole(), &stale.to_vec()).is_err()
    });
    assert_eq!(caught.count(), 50);
}
