//! Devices that demand alignment: every operation that they get is aligned, and nothing beside a request's own bytes
//! changes.

use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Task};
use drystone_core::driver::{NodeFacts, ZeroFlags};
use drystone_core::graph::permission::Grant;
use drystone_testkit::disk::{DiscardAs, DiskOptions, Fault, FaultEffect, Image, OpFilter, OpKind, SimDisk};

use crate::fixture::{LEN, facts, node};
use crate::scripted::{Script, Scripted};
use crate::world::{World, at, attach, fill, insert, load};

const ALIGN: u32 = 512;

/// A device of nines that demands alignment, and a writer.
fn aligned(world: &World, seed: u64) -> (SimDisk, Backend<ReadWrite>) {
    let options =
        DiskOptions { align_bytes: ALIGN, discard: Some(DiscardAs::Zeroes), ..DiskOptions::seeded(seed) };
    let disk = SimDisk::new(Image::from_bytes(&vec![9; usize::try_from(LEN).unwrap()]), options);
    let device = disk.clone();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let mut new = node("disk", Scripted::device("disk", &Script::default(), device), LEN, vec![]);
        new.facts = NodeFacts { request_alignment: ALIGN, ..facts(LEN, false) };
        let id = opening.add(new).unwrap();
        insert(task, opening).await.unwrap();
        attach(task, id, "client", Grant::WRITER).await.unwrap()
    });
    (disk, backend)
}

#[test]
fn reads_and_writes_of_any_place_and_length_are_exact() {
    let world = World::new(1);
    let (disk, backend) = aligned(&world, 1);
    let mut model = vec![9; usize::try_from(LEN).unwrap()];
    let mut rng = world.sim.rng();
    world.on_io(async |lane| {
        for byte in 0..60 {
            let (start, len) = (rng.below(4096), 1 + rng.below(3000));
            let range = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
            if rng.one_in(3) {
                let flags = ZeroFlags { may_unmap: rng.one_in(2), ..ZeroFlags::default() };
                lane.enter(&backend).await.write_zeroes(at(start, len), flags).await.unwrap();
                model[range].fill(0);
            } else {
                fill(lane, &backend, at(start, len), byte).await.unwrap();
                model[range].fill(byte);
            }
            let (start, len) = (rng.below(4096), 1 + rng.below(4000));
            let range = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
            assert_eq!(load(lane, &backend, at(start, len)).await.unwrap(), model[range]);
        }
    });
    assert_eq!(disk.image().to_vec(), model);
    assert!(disk.trace().iter().all(|op| op.range.is_aligned(u64::from(ALIGN))));
}

/// Many writers of one sector, each with bytes of its own: none loses the other's.
#[test]
fn neighbours_in_one_sector_do_not_undo_each_other() {
    for seed in 0..100 {
        let world = World::new(seed);
        let (disk, backend) = aligned(&world, seed);
        for index in 0..8_u8 {
            let user = backend.clone();
            world.spawn_io(1 + u16::from(index % 2), "writes", async move |lane| {
                for round in 0..3 {
                    let range = at(u64::from(index) * 100, 100);
                    fill(lane, &user, range, 10 * index + round).await.unwrap();
                    assert_eq!(load(lane, &user, range).await.unwrap(), [10 * index + round; 100]);
                }
            });
        }
        drop(backend);
        world.end();
        let bytes = disk.image().bytes(0..1024);
        for index in 0..8_u8 {
            let own = usize::from(index) * 100..usize::from(index) * 100 + 100;
            assert!(bytes[own].iter().all(|byte| *byte == 10 * index + 2), "writer {index}, seed {seed}");
        }
        assert!(bytes[800..].iter().all(|byte| *byte == 9));
    }
}

#[test]
fn zeroes_survive_a_misaligned_write_beside_them() {
    for seed in 0..300 {
        let world = World::new(seed);
        let (disk, backend) = aligned(&world, seed);
        let (one, two) = (backend.clone(), backend);
        world.spawn_io(1, "writes", async move |lane| fill(lane, &one, at(0, 100), 1).await.unwrap());
        world.spawn_io(2, "zeroes", async move |lane| {
            lane.enter(&two).await.write_zeroes(at(0, 4096), ZeroFlags::default()).await.unwrap();
        });
        world.end();
        let bytes = disk.image().bytes(100..4096);
        assert!(bytes.iter().all(|byte| *byte == 0), "seed {seed}: zeroes were undone");
    }
}

#[test]
fn a_discard_keeps_what_lies_beside_it() {
    let world = World::new(1);
    let (disk, backend) = aligned(&world, 1);
    world.on_io(async |lane| {
        lane.enter(&backend).await.discard(at(100, 1000)).await.unwrap();
        lane.enter(&backend).await.discard(at(2000, 10)).await.unwrap();
    });
    let bytes = disk.image().bytes(0..4096);
    let zeroes: Vec<usize> = (0..4096).filter(|index| bytes[*index] == 0).collect();
    assert_eq!(
        (zeroes.first(), zeroes.last(), zeroes.len()),
        (Some(&512), Some(&1023), 512),
        "whole sectors inside"
    );
}

/// A misaligned write fails half way: what lies beside it is as before, and the next one works.
#[test]
fn a_misaligned_write_that_fails_can_be_tried_again() {
    for (index, kind) in [(0, OpKind::Read), (0, OpKind::Write)] {
        let world = World::new(1);
        let (disk, backend) = aligned(&world, 1);
        disk.inject(Fault::nth(index, OpFilter::of(kind), FaultEffect::Io));
        world.on_io(async |lane| {
            assert_eq!(fill(lane, &backend, at(1000, 100), 1).await.unwrap_err().errno(), 5);
            fill(lane, &backend, at(1000, 100), 2).await.unwrap();
        });
        let bytes = disk.image().bytes(0..2048);
        assert!(bytes[..1000].iter().chain(&bytes[1100..]).all(|byte| *byte == 9));
        assert!(bytes[1000..1100].iter().all(|byte| *byte == 2));
    }
}
