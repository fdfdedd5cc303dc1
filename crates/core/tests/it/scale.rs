//! Large graphs: what a change, a query or a request costs does not depend on how much else there is.
//!
//! | measured | how |
//! |---|---|
//! | drivers that a change asks | counted, and equal |
//! | everything else | processor time of this thread, the shortest of several tries: machines that are busy with something else do not matter |
//!
//! The factor that is allowed between graphs that differ a hundredfold is wide: a cost that grows with the graph is far
//! above it, and cold caches are far below it.

use std::time::Duration;

use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::role::Role;
use drystone_testkit::overlay::SimOverlay;
use rustix::time::{ClockId, clock_gettime};

use crate::fixture::{BLOCK, LEN, node};
use crate::scripted::{Script, Scripted};
use crate::world::{SHARING_READER, SHARING_WRITER, World, add_device, at, attach, insert, load};

/// Between two sizes that differ a hundredfold.
const FACTOR_MAX: u32 = 8;

/// The processor time that this thread has taken so far.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// The shortest of several processor times.
fn cost_of(mut work: impl FnMut()) -> Duration {
    let times = (0..5).map(|_| {
        let begun = spent();
        work();
        spent() - begun
    });
    times.min().unwrap()
}

#[track_caller]
fn assert_flat(what: &str, few: Duration, many: Duration) {
    println!("{what}: {few:?}, {many:?} with a hundred times as much around");
    assert!(many < few * FACTOR_MAX, "{what}: {few:?}, but {many:?} with a hundred times as much around");
}

/// A chain of `layers` overlays, the last one on top.
fn add_chain(opening: &mut Opening, layers: usize) -> NodeId {
    let script = Script::default();
    let mut backing = None;
    for layer in 0..layers {
        let file = add_device(opening, &format!("file{layer}"), &script).unwrap();
        let overlay = SimOverlay::node(&format!("layer{layer}"), LEN, file, backing);
        backing = Some(opening.add(overlay).unwrap());
    }
    backing.unwrap()
}

/// A world with a chain of `layers` overlays and a writer on top of it.
fn world_with_chain(layers: usize) -> (World, NodeId, Backend<ReadWrite>) {
    let world = World::new(1);
    let (top, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let top = add_chain(&mut opening, layers);
        insert(task, opening).await.unwrap();
        (top, attach::<ReadWrite>(task, top, "client", SHARING_WRITER).await.unwrap())
    });
    (world, top, backend)
}

/// A snapshot of a disk and back: an overlay is put on it and taken out again.
async fn snapshot_and_back(task: &mut Task<'_>, disk: NodeId) {
    let script = Script::default();
    let mut opening = Opening::new(task);
    let file = add_device(&mut opening, "snapshot-file", &script).unwrap();
    let top = opening.add(SimOverlay::node("snapshot", LEN, file, Some(disk))).unwrap();
    let mut plan = Plan::new();
    plan.insert(opening);
    plan.replace(disk, top);
    task.apply(plan).await.unwrap();
    let mut plan = Plan::new();
    plan.replace(top, disk);
    plan.remove(top);
    plan.remove_child(top, ChildKey::File);
    plan.remove(file);
    task.apply(plan).await.unwrap();
}

#[test]
fn a_read_through_two_hundred_layers_costs_what_one_through_two_costs() {
    let time_of = |layers: usize| {
        let (world, _, backend) = world_with_chain(layers);
        let read = || {
            world.on_io(async |lane| {
                for _ in 0..200 {
                    load(lane, &backend, at(BLOCK, 512)).await.unwrap();
                }
            });
        };
        read();
        cost_of(read)
    };
    assert_flat("200 reads through a chain", time_of(2), time_of(200));
}

/// A change must look at every layer below it, since permissions go all the way down; but at each a few times only.
#[test]
fn a_snapshot_of_a_long_chain_costs_as_much_as_its_layers() {
    let time_of = |layers: usize| {
        let (world, top, _backend) = world_with_chain(layers);
        cost_of(|| world.on_control(async move |task: &mut Task<'_>| snapshot_and_back(task, top).await))
    };
    let (few, many) = (time_of(20), time_of(200));
    println!("a snapshot of 20 layers: {few:?}, of 200: {many:?}");
    assert!(many < few * 30, "a snapshot of 20 layers: {few:?}, of 200: {many:?}");
}

/// `count` nodes, two for each disk, and for each disk a reader and a writer; the disk in the middle, and what all
/// drivers are asked.
fn world_of_disks(count: usize) -> (World, NodeId, Script) {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let disk = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let mut disks = Vec::new();
        for index in 0..count / 2 {
            let file = add_device(&mut opening, &format!("f{index}"), &own).unwrap();
            let children = vec![(ChildKey::File, Role::IMAGE, file)];
            let disk = Scripted::filter(&format!("d{index}"), &own);
            disks.push(opening.add(node(&format!("d{index}"), disk, LEN, children)).unwrap());
        }
        let mut plan = Plan::new();
        plan.insert(opening);
        for disk in &disks {
            let spec = RootSpec { name: "writer".to_owned(), grant: SHARING_WRITER, stays: false };
            drop(plan.attach_root::<ReadWrite>(task.gs(), *disk, spec));
            let spec = RootSpec { name: "reader".to_owned(), grant: SHARING_READER, stays: false };
            drop(plan.attach_root::<ReadOnly>(task.gs(), *disk, spec));
        }
        task.apply(plan).await.unwrap();
        disks[count / 4]
    });
    (world, disk, script)
}

#[test]
fn work_on_one_disk_does_not_depend_on_how_many_others_there_are() {
    let measure = |count: usize| {
        let (world, disk, script) = world_of_disks(count);
        script.take_log();
        let change = || {
            world.on_control(async move |task: &mut Task<'_>| {
                for _ in 0..4 {
                    snapshot_and_back(task, disk).await;
                }
            });
        };
        change();
        let asked = script.take_log();
        let drain = || {
            world.on_control(async move |task: &mut Task<'_>| {
                for _ in 0..50 {
                    drop(task.drain(&[disk]).await);
                }
            });
        };
        let query = || {
            world.on_control(async move |task: &mut Task<'_>| {
                for _ in 0..50 {
                    let name = task.gs().with(|graph| graph.node(disk)).unwrap().name;
                    assert_eq!(task.gs().find(&name).unwrap(), disk);
                    assert_eq!(task.gs().with(|graph| graph.parents_of(disk)).len(), 2);
                }
            });
        };
        (asked.len(), cost_of(change), cost_of(drain), cost_of(query))
    };
    let (few, many) = (measure(50), measure(5_000));
    assert_eq!(few.0, many.0, "a snapshot asks the drivers of its own disk only");
    assert_flat("4 snapshots and back", few.1, many.1);
    assert_flat("50 drains", few.2, many.2);
    assert_flat("50 queries", few.3, many.3);
}

#[test]
fn a_node_comes_to_a_large_plan_at_the_cost_of_one_that_comes_to_a_small_one() {
    let time_of = |count: usize| cost_of(|| drop(world_of_disks(count))) / u32::try_from(count).unwrap();
    assert_flat("bringing in a node", time_of(40), time_of(4_000));
}

/// The parents of a shared base are looked at one by one, so what another overlay costs grows with their number, but not
/// with its square.
#[test]
fn an_overlay_comes_to_a_base_that_many_share() {
    let time_of = |count: usize| {
        let world = World::new(1);
        let base = world.on_control(async move |task: &mut Task<'_>| {
            let script = Script::default();
            let mut opening = Opening::new(task);
            let base = add_device(&mut opening, "base", &script).unwrap();
            let mut plan = Plan::new();
            let mut overlays = Vec::new();
            for index in 0..count {
                let file = add_device(&mut opening, &format!("f{index}"), &script).unwrap();
                let overlay = SimOverlay::node(&format!("o{index}"), LEN, file, Some(base));
                overlays.push(opening.add(overlay).unwrap());
            }
            plan.insert(opening);
            for overlay in overlays {
                let spec = RootSpec { name: "guest".to_owned(), grant: SHARING_WRITER, stays: false };
                drop(plan.attach_root::<ReadWrite>(task.gs(), overlay, spec));
            }
            task.apply(plan).await.unwrap();
            base
        });
        cost_of(|| {
            world.on_control(async move |task: &mut Task<'_>| {
                let mut opening = Opening::new(task);
                let file = add_device(&mut opening, "file", &Script::default()).unwrap();
                let top = opening.add(SimOverlay::node("top", LEN, file, Some(base))).unwrap();
                insert(task, opening).await.unwrap();
                let mut plan = Plan::new();
                plan.remove(top);
                plan.remove_child(top, ChildKey::File);
                plan.remove(file);
                task.apply(plan).await.unwrap();
            });
        })
    };
    let (few, many) = (time_of(10), time_of(500));
    println!("on a base that 10 share: {few:?}; that 500 share: {many:?}");
    assert!(many < few * 50 * 3, "{few:?} on a base that 10 share, {many:?} on one that 500 share");
}
