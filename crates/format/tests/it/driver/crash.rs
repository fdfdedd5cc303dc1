//! The power goes off at every operation of a workload: each image that may be found then opens, has no corruption, and
//! holds what was flushed.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_core::runtime::LocalFuture;
use drystone_testkit::disk::{DiskOptions, SimDisk};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

use super::fixture::{Kind, check_image, client, open_chain, run_clients, start};

/// Runs a workload until the power goes off at operation `cut`; `false` if it ended before.
fn run_until(seed: u64, cut: u64) -> bool {
    let sim = Sim::seeded(seed);
    let mut rng = Rng::new(seed);
    let kind = Kind::drawn(&mut rng);
    let disk = SimDisk::new(kind.image(), DiskOptions::seeded(seed));
    let control = start(&sim);
    let backend = open_chain(&sim, &control, vec![disk.clone()]).unwrap();
    let model = Rc::new(RefCell::new(ByteModel::zeroed(kind.len)));
    let begun = disk.power().ops_begun();
    disk.power().cut_at(begun + cut);
    let mut clients = Vec::new();
    for thread in 1..=2 {
        let mut client = client(&sim, thread, &backend, &model, kind.len, kind.cluster_bytes * 3);
        client.rng = Rng::new(rng.next_u64());
        let work: LocalFuture<'static, ()> = Box::pin(async move {
            for step in 0..12 {
                let result = if step % 4 == 3 { client.flush().await } else { client.step().await };
                if result.is_err() {
                    return;
                }
            }
        });
        clients.push((thread, work));
    }
    run_clients(&sim, clients);
    if !disk.power().is_off() {
        return false;
    }
    model.borrow_mut().crash();
    for survivor in disk.crash_state().survivors(12, seed) {
        let outcome = check_image(&survivor.image);
        assert_eq!(
            (outcome.corruptions, outcome.check_errors),
            (0, 0),
            "seed {seed} cut {cut} {kind:?}: {survivor}"
        );
        let after = Sim::seeded(seed);
        let control = start(&after);
        let found = open_chain(
            &after,
            &control,
            vec![SimDisk::new(survivor.image.clone(), DiskOptions::seeded(seed))],
        );
        let mut model = model.borrow().clone();
        model.found_len(kind.len);
        let model = Rc::new(RefCell::new(model));
        let mut client = client(&after, 1, &found.unwrap(), &model, kind.len, kind.cluster_bytes * 4);
        after.block_on(&after.io(1), async move { client.read_all().await.unwrap() }).unwrap();
    }
    true
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_consistent_image_with_what_was_flushed() {
    let mut cuts = 0;
    for seed in 0..24 {
        let mut cut = 0;
        while run_until(seed, cut) {
            cuts += 1;
            cut += 1 + seed % 3;
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 100, "the workload is long enough to be cut");
}
