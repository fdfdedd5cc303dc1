//! Copies that devices make: what is copied is what a read and a write would have copied, or nothing is said to be.

use drystone_base::{GuestOffset, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::bitmap::Granularity;
use drystone_core::bitmap::action::BitmapAction;
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::driver::{NodeFacts, WriteFlags};
use drystone_core::graph::node::NodeId;
use drystone_core::lane::Lane;
use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, OpKind, SimDisk};
use drystone_testkit::sim::abandon_after;

use crate::fixture::{BLOCK, Device, LEN, attach_writer, facts, node, overlay};
use crate::world::{World, at, disk_of, fill, insert, load};

/// An overlay whose file is full of ones, of which some blocks are written, on a device of twos; and a device of threes.
struct Two {
    source: Backend<ReadWrite>,
    target: Backend<ReadWrite>,
    target_node: NodeId,
    target_disk: SimDisk,
}

fn two(world: &World, align: u32) -> Two {
    let target_disk = disk_of(3, 3);
    let disk = target_disk.clone();
    let (source, target, target_node) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = opening.add(node("base", Device(disk_of(2, 2)), LEN, vec![])).unwrap();
        let top = overlay(&mut opening, "top", disk_of(1, 1), Some(base)).unwrap();
        let mut new = node("target", Device(disk), LEN, vec![]);
        new.facts = NodeFacts { request_alignment: align, ..facts(LEN, false) };
        let target = opening.add(new).unwrap();
        insert(task, opening).await.unwrap();
        let source = attach_writer(task, top, "reader").await.unwrap();
        (source, attach_writer(task, target, "writer").await.unwrap(), target)
    });
    world.on_io(async |lane| {
        for block in [1, 2, 5] {
            fill(lane, &source, at(block * BLOCK, BLOCK), 7).await.unwrap();
        }
    });
    Two { source, target, target_node, target_disk }
}

async fn copy(lane: &mut Lane, two: &Two, (from, len): (u64, u64), to: u64) -> Result<u64> {
    let to = (GuestOffset::new(to), WriteFlags::default());
    lane.enter(&two.source).await.copy_to(at(from, len), &two.target, to).await
}

#[test]
fn what_lies_on_devices_is_copied_piece_by_piece() {
    let world = World::new(1);
    let two = two(&world, 1);
    world.on_io(async |lane| {
        let mut done = 0;
        while done < 8 * BLOCK {
            done += copy(lane, &two, (done, 8 * BLOCK - done), 100 + done).await.unwrap();
        }
        let wanted = load(lane, &two.source, at(0, 8 * BLOCK)).await.unwrap();
        assert_eq!(load(lane, &two.target, at(100, 8 * BLOCK)).await.unwrap(), wanted);
        assert_eq!(load(lane, &two.target, at(0, 100)).await.unwrap(), [3; 100]);
        assert_eq!(load(lane, &two.target, at(100 + 8 * BLOCK, 100)).await.unwrap(), [3; 100]);
    });
}

#[test]
fn what_a_driver_must_do_itself_is_not_copied() {
    let world = World::new(2);
    let two = two(&world, 1);
    world.on_io(async |lane| {
        let to = (GuestOffset::new(20 * BLOCK), WriteFlags::default());
        let refused = lane.enter(&two.target).await.copy_to(at(0, BLOCK), &two.source, to).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported, "the overlay has no place for it yet");
        let to = (GuestOffset::new(5 * BLOCK), WriteFlags::default());
        assert_eq!(
            lane.enter(&two.target).await.copy_to(at(0, BLOCK), &two.source, to).await.unwrap(),
            BLOCK
        );
        assert_eq!(load(lane, &two.source, at(5 * BLOCK, 1)).await.unwrap(), [3]);
        let flags = WriteFlags { compressed: true, ..WriteFlags::default() };
        let to = (GuestOffset::ZERO, flags);
        let refused = lane.enter(&two.source).await.copy_to(at(0, BLOCK), &two.target, to).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported);
    });
}

#[test]
fn past_the_end_of_either_disk_is_an_error() {
    let world = World::new(3);
    let two = two(&world, 1);
    world.on_io(async |lane| {
        for (from, to) in [(LEN - 100, 0), (0, LEN - 100), (u64::MAX >> 2, 0)] {
            let refused = copy(lane, &two, (from, 200), to).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::OutOfRange, "{}", refused.report());
        }
    });
}

#[test]
fn a_device_that_demands_alignment_gets_nothing_else() {
    let world = World::new(4);
    let two = two(&world, 512);
    world.on_io(async |lane| {
        for (from, len, to) in [(100, 512, 0), (0, 512, 100), (0, 100, 0)] {
            let refused = copy(lane, &two, (from, len), to).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Unsupported);
        }
        assert_eq!(copy(lane, &two, (512, 1024), 2048).await.unwrap(), 1024);
        assert_eq!(load(lane, &two.target, at(2047, 1026)).await.unwrap()[..2], [3, 2]);
    });
}

#[test]
fn a_failed_copy_is_told_and_noted_in_bitmaps() {
    let world = World::new(5);
    let two = two(&world, 1);
    let target = two.target_node;
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        let name = "dirty".to_owned();
        let granularity = Granularity::FINEST;
        let add = BitmapAction::Add { name, granularity, persistent: false, recording: true };
        plan.change_bitmap(target, add);
        task.apply(plan).await.unwrap();
    });
    two.target_disk.inject(Fault::nth(0, OpFilter::of(OpKind::Write), FaultEffect::Io));
    world.on_io(async |lane| {
        assert_eq!(copy(lane, &two, (0, BLOCK), 0).await.unwrap_err().kind(), Kind::Io);
        assert_eq!(copy(lane, &two, (0, BLOCK), 16 * BLOCK).await.unwrap(), BLOCK);
    });
    let dirty = world.on_control(async move |task: &mut Task<'_>| {
        task.gs().with(|graph| graph.node_handle(target).unwrap().bitmaps().list()[0].dirty_bytes)
    });
    assert!(dirty >= 2 * BLOCK, "{dirty} bytes are dirty");
}

/// A copy is left at each of its awaits in turn: it runs to its end all the same, and a drain of either disk waits for it.
#[test]
fn a_copy_runs_to_its_end_whoever_waits_for_it() {
    for polls in 0.. {
        let world = World::new(6);
        let two = two(&world, 1);
        let control = world.control.clone();
        let ended = world.on_io(async |lane| {
            let ended = abandon_after(polls, copy(lane, &two, (0, BLOCK), 0)).await.is_some();
            let target = two.target_node;
            control.call(async move |task: &mut Task<'_>| drop(task.drain(&[target]).await)).await.unwrap();
            assert!(two.target_disk.trace().iter().all(|op| op.ended.is_some()), "the drain waited for it");
            assert_eq!(load(lane, &two.target, at(0, 1)).await.unwrap().len(), 1);
            ended
        });
        if ended {
            return;
        }
    }
}
