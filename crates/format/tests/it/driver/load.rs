//! Random requests from several threads against the byte model; afterwards the image is clean and nothing leaks.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_core::runtime::LocalFuture;
use drystone_testkit::disk::SimDisk;
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::{Sim, explore};

use super::fixture::{Kind, check_image, client, close, open_chain, run_clients, start};

/// Random load on a chain of images, then a clean close.
fn run(sim: &Sim, layers: usize, steps: u64) {
    let mut rng = Rng::new(sim.seed());
    let control = start(sim);
    let mut kinds: Vec<Kind> = (0..layers).map(|_| Kind::drawn(&mut rng)).collect();
    let top = kinds[layers - 1];
    let mut disks = Vec::new();
    for kind in &mut kinds {
        disks.push(SimDisk::new(kind.image(), drystone_testkit::disk::DiskOptions::seeded(rng.next_u64())));
    }
    let backend = open_chain(sim, &control, disks.clone()).unwrap();
    let model = Rc::new(RefCell::new(ByteModel::zeroed(top.len)));
    let mut clients = Vec::new();
    for thread in 1..=3 {
        let mut client = client(sim, 1 + thread % 2, &backend, &model, top.len, top.cluster_bytes * 4);
        client.rng = Rng::new(rng.next_u64());
        let work: LocalFuture<'static, ()> = Box::pin(async move {
            for _ in 0..steps {
                client.step().await.unwrap();
            }
        });
        clients.push((1 + thread % 2, work));
    }
    run_clients(sim, clients);
    let mut last = client(sim, 1, &backend, &model, top.len, top.cluster_bytes * 4);
    sim.block_on(&sim.io(1), async move { last.read_all().await.unwrap() }).unwrap();
    close(sim, &control, &backend).unwrap();
    for disk in &disks {
        let outcome = check_image(&disk.image());
        assert_eq!((outcome.corruptions, outcome.leaks, outcome.check_errors), (0, 0, 0), "{kinds:?}");
    }
    let backend = open_chain(sim, &control, disks).unwrap();
    let mut last = client(sim, 1, &backend, &model, top.len, top.cluster_bytes * 4);
    sim.block_on(&sim.io(1), async move { last.read_all().await.unwrap() }).unwrap();
    drop(control);
}

#[test]
fn random_requests_agree_with_the_model_and_leave_a_clean_image() {
    println!("{}", explore(0..300, |sim| run(sim, 1, 40)));
}

#[test]
fn random_requests_to_an_overlay_agree_with_the_model() {
    println!("{}", explore(0..100, |sim| run(sim, 2, 40)));
}
