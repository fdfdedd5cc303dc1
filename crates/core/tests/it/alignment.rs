//! Devices that demand alignment.

use drystone_core::control::{Opening, Task};
use drystone_core::driver::ZeroFlags;
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};

use crate::fixture::{LEN, facts, node};
use crate::scripted::{Script, Scripted};
use crate::world::{World, at, attach, fill, insert, load};

#[test]
fn zeroes_survive_a_misaligned_write_beside_them() {
    for seed in 0..300 {
        let world = World::new(seed);
        let script = Script::default();
        let options = DiskOptions { align_bytes: 512, ..DiskOptions::seeded(seed) };
        let disk = SimDisk::new(Image::from_bytes(&vec![9; usize::try_from(LEN).unwrap()]), options);
        let backend = world.on_control(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let mut new = node("disk", Scripted::device("disk", &script, disk), LEN, vec![]);
            new.facts = drystone_core::driver::NodeFacts { request_alignment: 512, ..facts(LEN, false) };
            let id = opening.add(new).unwrap();
            insert(task, opening).await.unwrap();
            attach(task, id, "client", drystone_core::graph::permission::Grant::WRITER).await.unwrap()
        });
        let (one, two) = (backend.clone(), backend.clone());
        world.spawn_io(1, "writes", async move |lane| fill(lane, &one, at(0, 100), 1).await.unwrap());
        world.spawn_io(2, "zeroes", async move |lane| {
            lane.enter(&two).await.write_zeroes(at(0, 4096), ZeroFlags::default()).await.unwrap();
        });
        world.sim.settle().unwrap();
        world.sim.run_until(|| world.sim.pending().len() <= 1).unwrap();
        let bytes = world.on_io(async |lane| load(lane, &backend, at(0, 4096)).await.unwrap());
        assert!(bytes[100..].iter().all(|byte| *byte == 0), "seed {seed}: zeroes were undone");
        drop(backend);
        world.end();
    }
}
