//! Chains of layers that cannot change: what is remembered of them is true.

use drystone_core::control::{Opening, Task};
use drystone_testkit::disk::SimDisk;

use crate::fixture::{BLOCK, Device, LEN, node, overlay};
use crate::world::{World, at, attach_writer, fill, insert, load};

fn disk(seed: u64) -> SimDisk {
    SimDisk::zeroed(LEN, seed)
}

#[test]
fn a_read_over_own_and_inherited_blocks_sees_both() {
    let world = World::new(1);
    let backend = world.on_control(async |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = opening.add(node("base", Device(disk(1)), LEN, vec![])).unwrap();
        let top = overlay(&mut opening, "top", disk(2), Some(base)).unwrap();
        insert(task, opening).await.unwrap();
        attach_writer(task, top, "client").await.unwrap()
    });
    world.on_io(async |lane| {
        fill(lane, &backend, at(BLOCK, BLOCK), 7).await.unwrap();
        for _ in 0..2 {
            let bytes = load(lane, &backend, at(0, 3 * BLOCK)).await.unwrap();
            let firsts: Vec<u8> = bytes.chunks(4096).map(|block| block[0]).collect();
            assert_eq!(firsts, [0, 7, 0]);
        }
    });
    drop(backend);
    world.end();
}
