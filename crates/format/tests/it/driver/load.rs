//! Random requests from several threads against the byte model; afterwards the image is clean and nothing leaks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_testkit::client::{Load, SharedModel};
use drystone_testkit::disk::{DiskOptions, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::{ByteModel, DiscardRule};
use drystone_testkit::sim::{Sim, explore};

use super::chain::{Chain, SMALL, demand_clean};
use super::kind::Kind;
use super::script::client;
use super::state::read_all;

/// Runs three clients on two threads to their end. No request may fail.
pub(crate) fn run_clients(sim: &Sim, chain: &Chain, model: &SharedModel, load: &Load, rng: &mut Rng) {
    let running = Rc::new(Cell::new(3));
    for thread in [1, 1, 2] {
        let (mut client, load, running) =
            (client(sim, thread, chain, model), load.clone(), Rc::clone(&running));
        let mut rng = Rng::new(rng.next_u64());
        sim.spawn(&sim.io(thread), "client", async move {
            load.run(&mut client, &mut rng, |error| panic!("{}", error.report())).await;
            running.set(running.get() - 1);
        });
    }
    sim.run_until(|| running.get() == 0).unwrap();
}

/// Random load on a chain of new images, then a clean close.
fn load_chain(sim: &Sim, layers: usize, requests: u64) {
    let mut rng = sim.rng();
    let kinds: Vec<Kind> =
        (0..layers).map(|index| Kind { is_overlay: index > 0, ..Kind::drawn(&mut rng) }).collect();
    let top = kinds[layers - 1];
    let disks: Vec<SimDisk> =
        kinds.iter().map(|kind| SimDisk::new(kind.image(), DiskOptions::seeded(rng.next_u64()))).collect();
    let model = Rc::new(RefCell::new(ByteModel::zeroed(top.len)));
    let graph = SimGraph::start(sim);
    let chain = Chain::open(&graph, &disks, SMALL).unwrap();
    let load = Load {
        len_max: top.cluster_bytes * 4,
        discard: DiscardRule::OldOrZero,
        ..Load::new(requests, top.len)
    };
    run_clients(sim, &chain, &model, &load, &mut rng);
    read_all(sim, &chain, &model).unwrap();
    chain.close(&graph).unwrap();
    for (disk, kind) in disks.iter().zip(&kinds) {
        println!("{kind}");
        demand_clean(&disk.image());
    }
    let chain = Chain::open(&graph, &disks, SMALL).unwrap();
    read_all(sim, &chain, &model).unwrap();
}

#[test]
fn random_requests_agree_with_the_model_and_leave_a_clean_image() {
    println!("{}", explore(0..300, |sim| load_chain(sim, 1, 30)));
}

#[test]
fn random_requests_to_an_overlay_agree_with_the_model() {
    println!("{}", explore(0..100, |sim| load_chain(sim, 2, 30)));
}
