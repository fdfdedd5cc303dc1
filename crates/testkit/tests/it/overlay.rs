//! The overlay without a format: it shows its backing disk, keeps what is written to itself, and loses nothing under load.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_core::control::{Opening, Task};
use drystone_testkit::client::{BackendClient, Load, Watched};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};
use drystone_testkit::graph::{SimDriver, SimGraph, insert_with_user};
use drystone_testkit::model::ByteModel;
use drystone_testkit::overlay::SimOverlay;
use drystone_testkit::pattern::Stamp;
use drystone_testkit::sim::explore;

const LEN: u64 = 65536;
/// Shorter than the overlay, and not a whole number of blocks.
const LEN_BACKING: u64 = 30_000;

#[test]
fn it_shows_its_backing_disk_until_written_and_leaves_that_disk_alone() {
    explore(0..100, |sim| {
        let (mut below, mut shown) = (Image::new(LEN_BACKING), Image::new(LEN));
        let mut bytes = vec![0; usize::try_from(LEN_BACKING).unwrap()];
        Stamp::new(77).fill(0, &mut bytes);
        below.write(0, &bytes);
        shown.write(0, &bytes);
        let (backing, file) =
            (SimDisk::new(below, DiskOptions::seeded(sim.seed())), SimDisk::zeroed(LEN, sim.seed() + 1));
        let model = Rc::new(RefCell::new(ByteModel::of(&shown)));
        let graph = SimGraph::start(sim);
        let (backing_node, file_node) = (SimDriver::node("below", &backing), SimDriver::node("file", &file));
        let backend = graph.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let backing = opening.add(backing_node).unwrap();
            let file = opening.add(file_node).unwrap();
            let top = opening.add(SimOverlay::node("top", LEN, file, Some(backing))).unwrap();
            insert_with_user(task, opening, top, "user".to_owned()).await.unwrap()
        });
        let mut seeds = sim.rng();
        for (thread, name) in [(1, "a"), (1, "b"), (2, "c")] {
            let mut client = Watched::new(BackendClient::new(&backend, &sim.io(thread)), &model);
            let mut rng = Rng::new(seeds.next_u64());
            let load = Load::new(25, LEN);
            sim.spawn(&sim.io(thread), name, async move { load.run(&mut client, &mut rng, drop).await });
        }
        sim.run_until(|| sim.pending().iter().all(|task| task.shard.index() == 0)).unwrap();
        let io = sim.io(1);
        let mut reader = Watched::new(BackendClient::new(&backend, &io), &model);
        sim.block_on(&io, reader.read(GuestRange::new(GuestOffset::ZERO, LEN))).unwrap().unwrap();
        drop(reader);
        graph.finish();
        assert_eq!(backing.image().to_vec(), bytes);
    });
}
