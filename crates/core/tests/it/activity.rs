//! What is counted of a node.

use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Task};
use drystone_core::driver::ZeroFlags;
use drystone_core::graph::activity::Activity;
use drystone_core::graph::node::NodeId;
use drystone_core::lane::Lane;
use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, OpKind, SimDisk};

use crate::fixture::{LEN, node};
use crate::scripted::{Script, Scripted};
use crate::world::{World, add_filter, at, attach_writer, fill, insert, load};

/// A filter on a device, and the user of one of the two.
fn used(name: &'static str) -> (World, SimDisk, Backend<ReadWrite>, [NodeId; 2]) {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let device = disk.clone();
    let (user, nodes) = world.on_control(async move |task: &mut Task<'_>| {
        let script = Script::default();
        let mut opening = Opening::new(task);
        let base = opening.add(node("base", Scripted::device("base", &script, device), LEN, vec![])).unwrap();
        let top = add_filter(&mut opening, "top", &script, base).unwrap();
        insert(task, opening).await.unwrap();
        let node = if name == "base" { base } else { top };
        (attach_writer(task, node, "client").await.unwrap(), [top, base])
    });
    (world, disk, user, nodes)
}

fn activity(world: &World, nodes: [NodeId; 2]) -> [Activity; 2] {
    world.on_control(async move |task: &mut Task<'_>| {
        nodes.map(|node| task.gs().with(|graph| graph.node_handle(node)).unwrap().activity())
    })
}

#[test]
fn every_node_on_the_way_knows_how_far_it_was_written() {
    let (world, _, user, nodes) = used("top");
    let ends = || activity(&world, nodes).map(|activity| activity.written_end);
    assert_eq!(ends(), [0; 2]);
    world.on_io(async |lane: &mut Lane| {
        load(lane, &user, at(0, 8192)).await.unwrap();
        lane.enter(&user).await.discard(at(16384, 512)).await.unwrap();
        lane.enter(&user).await.flush().await.unwrap();
    });
    assert_eq!(ends(), [0; 2], "nothing was written");
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &user, at(4096, 100), 1).await.unwrap();
        fill(lane, &user, at(0, 512), 1).await.unwrap();
        fill(lane, &user, at(512, 512), 1).await.unwrap();
    });
    assert_eq!(ends(), [4196; 2]);
    world.on_io(async |lane: &mut Lane| {
        lane.enter(&user).await.write_zeroes(at(8192, 512), ZeroFlags::default()).await.unwrap();
        assert!(fill(lane, &user, at(LEN, 512), 1).await.is_err(), "outside of the disk");
    });
    assert_eq!(ends(), [8704; 2]);
}

#[test]
fn a_device_knows_what_it_was_asked_to_discard() {
    let (world, disk, user, nodes) = used("base");
    world.on_io(async |lane: &mut Lane| {
        lane.enter(&user).await.discard(at(0, 4096)).await.unwrap();
        lane.enter(&user).await.discard(at(8192, 512)).await.unwrap();
    });
    disk.inject(Fault::every(OpFilter::of(OpKind::Discard), FaultEffect::Io));
    world.on_io(async |lane: &mut Lane| {
        assert!(lane.enter(&user).await.discard(at(0, 4096)).await.is_err());
    });
    let expected = Activity { written_end: 0, discards: (2, 4608), discards_failed: 1 };
    assert_eq!(activity(&world, nodes), [Activity::default(), expected]);
}
