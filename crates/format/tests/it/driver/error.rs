//! Every operation of a workload fails once: the image stays consistent, the request can be repeated, and what was
//! acknowledged is there.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_core::runtime::LocalFuture;
use drystone_testkit::disk::{DiskOptions, Fault, FaultEffect, OpFilter, SimDisk};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

use super::fixture::{Kind, check_image, client, close, open_chain, run_clients, start};

/// Runs a workload of which operation `index` of the disk fails; `false` if it had fewer.
fn run_with_failure(seed: u64, index: u64, effect: FaultEffect) -> bool {
    let sim = Sim::seeded(seed);
    let mut rng = Rng::new(seed);
    let kind = Kind::drawn(&mut rng);
    let disk = SimDisk::new(kind.image(), DiskOptions::seeded(seed));
    let control = start(&sim);
    let backend = open_chain(&sim, &control, vec![disk.clone()]).unwrap();
    let model = Rc::new(RefCell::new(ByteModel::zeroed(kind.len)));
    disk.inject(Fault::nth(index, OpFilter::any(), effect));
    let mut clients = Vec::new();
    for thread in 1..=2 {
        let mut client = client(&sim, thread, &backend, &model, kind.len, kind.cluster_bytes * 3);
        client.rng = Rng::new(rng.next_u64());
        let work: LocalFuture<'static, ()> = Box::pin(async move {
            for _ in 0..15 {
                // A guest that is stopped on an error tries again, and then it works.
                if client.step().await.is_err() {
                    let range = client.draw_range();
                    client.write(range).await.unwrap();
                }
            }
        });
        clients.push((thread, work));
    }
    run_clients(&sim, clients);
    let was_hit = disk.faults_hit() > 0;
    disk.clear_faults();
    let mut last = client(&sim, 1, &backend, &model, kind.len, kind.cluster_bytes * 4);
    sim.block_on(&sim.io(1), async move { last.read_all().await.unwrap() }).unwrap();
    close(&sim, &control, &backend).unwrap();
    let outcome = check_image(&disk.image());
    assert_eq!((outcome.corruptions, outcome.check_errors), (0, 0), "seed {seed} operation {index} {kind:?}");
    was_hit
}

#[test]
fn any_operation_may_fail_and_the_image_stays_consistent() {
    for seed in 0..16 {
        let mut index = 0;
        while run_with_failure(seed, index, FaultEffect::Io) {
            index += 1 + seed % 3;
        }
    }
}

#[test]
fn space_may_run_out_at_any_operation() {
    for seed in 100..110 {
        let mut index = 0;
        while run_with_failure(seed, index, FaultEffect::NoSpace) {
            index += 1 + seed % 3;
        }
    }
}
