//! The disk and the model were written apart from each other, and agree: whatever a seeded disk does under concurrent
//! requests, faults and power cuts, the model allows; and what the disk could never do, it does not.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_testkit::client::{Load, SharedModel, Watched};
use drystone_testkit::disk::{DiskClient, Fault, FaultEffect, OpFilter, SimDisk};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

const LEN: u64 = 16384;

/// Three clients on two threads.
fn load(sim: &Sim, disk: &SimDisk, model: &SharedModel, requests: u64) {
    let mut seeds = sim.rng();
    for (thread, name) in [(1, "a"), (1, "b"), (2, "c")] {
        let mut client = Watched::new(DiskClient::new(disk.clone(), &sim.io(thread)), model);
        let mut rng = Rng::new(seeds.next_u64());
        sim.spawn(&sim.io(thread), name, async move {
            Load::new(requests, LEN).run(&mut client, &mut rng, drop).await;
        });
    }
    sim.run_to_end().unwrap();
}

fn shared(model: ByteModel) -> SharedModel {
    Rc::new(RefCell::new(model))
}

fn whole() -> GuestRange {
    GuestRange::new(GuestOffset::ZERO, LEN)
}

#[test]
fn whatever_happens_on_a_disk_the_model_allows() {
    for seed in 0..400 {
        let (sim, disk, model) =
            (Sim::seeded(seed), SimDisk::zeroed(LEN, seed), shared(ByteModel::zeroed(LEN)));
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
        let (sim, mut disk, model) =
            (Sim::seeded(seed), SimDisk::zeroed(LEN, seed), shared(ByteModel::zeroed(LEN)));
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
    let caught = (0..50).filter(|&seed| {
        let (sim, disk, model) =
            (Sim::seeded(seed), SimDisk::zeroed(LEN, seed), shared(ByteModel::zeroed(LEN)));
        load(&sim, &disk, &model, 10);
        let stale = disk.durable_image();
        load(&sim, &disk, &model, 10);
        let mut client = Watched::new(DiskClient::new(disk.clone(), &sim.io(1)), &model);
        sim.block_on(&sim.io(1), client.flush()).unwrap().unwrap();
        model.borrow_mut().crash();
        let honest = model.borrow().clone().check(whole(), &disk.durable_image().to_vec());
        assert_eq!(honest, Ok(()));
        model.borrow_mut().check(whole(), &stale.to_vec()).is_err()
    });
    assert_eq!(caught.count(), 50);
}
