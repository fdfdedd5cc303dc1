//! Which changes run at the same time, which wait for each other, and what becomes of one that waited.
//!
//! In every scenario the first change stands still between its admission and its commit, which is where a second one could
//! pull the ground from under it: an admitted change cannot fail any more.

use drystone_base::{Kind, Result};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;

use crate::fixture::{LEN, node};
use crate::scripted::{Phase, Script, Scripted};
use crate::world::{
    Event, SHARING_READER, SHARING_WRITER, World, add_device, add_filter, at, attach, attach_reader,
    attach_writer, detach, fill, insert, insert_device, remove,
};

/// Starts a change on the control thread; the event is set when it has answered.
fn start<F>(world: &World, change: F) -> Event
where
    F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) + Send + 'static,
{
    let done = Event::default();
    let says = done.clone();
    world.control.spawn(async move |task: &mut Task<'_>| {
        change(task).await;
        says.set();
    });
    world.sim.settle().unwrap();
    done
}

/// A node called `name` over `base`, which it reads.
fn add_overlay(opening: &mut Opening, name: &str, script: &Script, base: NodeId) -> Result<NodeId> {
    let file = add_device(opening, &format!("{name}-file"), script)?;
    let children = vec![(ChildKey::File, Role::IMAGE, file), (ChildKey::Backing, Role::COW, base)];
    opening.add(node(name, Scripted::filter(name, script), LEN, children))
}

/// Puts an overlay with a reader on `base`, by one plan.
async fn put_overlay(
    task: &mut Task<'_>,
    name: &str,
    script: &Script,
    base: NodeId,
) -> Result<Backend<ReadOnly>> {
    let mut opening = Opening::new(task);
    let top = add_overlay(&mut opening, name, script, base)?;
    let mut plan = Plan::new();
    plan.insert(opening);
    let spec = RootSpec { name: format!("user of {name}"), grant: SHARING_READER, stays: false };
    let backend = plan.attach_root(task.gs(), top, spec);
    task.apply(plan).await?;
    Ok(backend)
}

#[test]
fn changes_of_one_node_come_one_after_the_other() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let disk =
        world.on_control(async move |task: &mut Task<'_>| insert_device(task, "disk", &own).await.unwrap());
    script.hold(Phase::Settle, "disk");
    let first =
        start(&world, async move |task: &mut Task<'_>| drop(attach_writer(task, disk, "a").await.unwrap()));
    let second = start(&world, async move |task: &mut Task<'_>| {
        let error = attach_writer(task, disk, "b").await.unwrap_err();
        assert_eq!(error.kind(), Kind::InUse, "the first one was there first");
    });
    let third = start(&world, async move |task: &mut Task<'_>| {
        assert_eq!(remove(task, disk).await.unwrap_err().kind(), Kind::InUse);
    });
    assert!(!first.is_set() && !second.is_set() && !third.is_set());
    script.release(Phase::Settle, "disk");
    world.end();
    assert_eq!((script.count("commit disk"), script.count("undo disk")), (2, 1));
}

#[test]
fn a_change_of_one_disk_never_waits_for_a_change_of_another() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let [one, two] = world.on_control(async move |task: &mut Task<'_>| {
        [insert_device(task, "one", &own).await.unwrap(), insert_device(task, "two", &own).await.unwrap()]
    });
    script.hold(Phase::Settle, "one");
    let first =
        start(&world, async move |task: &mut Task<'_>| drop(attach_writer(task, one, "a").await.unwrap()));
    let second = start(&world, async move |task: &mut Task<'_>| {
        let backend = attach_writer(task, two, "b").await.unwrap();
        detach(task, &backend).await.unwrap();
        remove(task, two).await.unwrap();
    });
    assert!(!first.is_set() && second.is_set());
    script.release(Phase::Settle, "one");
    world.end();
}

#[test]
fn overlays_that_share_a_base_come_and_are_drained_without_each_other() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (base, first) = world.on_control(async move |task: &mut Task<'_>| {
        let base = insert_device(task, "base", &own).await.unwrap();
        (base, put_overlay(task, "first", &own, base).await.unwrap())
    });
    script.hold(Phase::Settle, "second");
    let own = script.clone();
    let slow = start(&world, async move |task: &mut Task<'_>| {
        drop(put_overlay(task, "second", &own, base).await.unwrap())
    });
    assert_eq!(script.count("settle second"), 1);
    let own = script.clone();
    let other = start(&world, async move |task: &mut Task<'_>| {
        drop(put_overlay(task, "third", &own, base).await.unwrap())
    });
    assert!(!slow.is_set() && other.is_set());
    let quiet = world.on_control(async |task: &mut Task<'_>| {
        task.gs().with(|graph| graph.roots().iter().filter(|root| root.closed).count())
    });
    assert_eq!(quiet, 0, "nobody is drained because a node gains a parent");
    script.release(Phase::Settle, "second");
    drop(first);
    world.end();
}

#[test]
fn a_base_does_not_go_while_an_overlay_is_put_on_it() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (base, first) = world.on_control(async move |task: &mut Task<'_>| {
        let base = insert_device(task, "base", &own).await.unwrap();
        (base, put_overlay(task, "first", &own, base).await.unwrap())
    });
    script.hold(Phase::Settle, "second");
    let own = script.clone();
    start(&world, async move |task: &mut Task<'_>| {
        drop(put_overlay(task, "second", &own, base).await.unwrap())
    });
    let removal = start(&world, async move |task: &mut Task<'_>| {
        let top = task.gs().find("first").unwrap();
        let mut plan = Plan::new();
        plan.detach_root(first.id());
        plan.remove(top);
        plan.remove_child(top, ChildKey::Backing);
        plan.remove(base);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::InUse);
    });
    assert!(!removal.is_set());
    script.release(Phase::Settle, "second");
    world.end();
    assert_eq!(script.count("close base"), 0);
}

#[test]
fn a_user_that_shares_nothing_is_not_surprised_by_another() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let disk = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &own).await.unwrap();
        attach::<ReadOnly>(task, disk, "there before", Grant { perm: Perm::NONE, shared: Perm::ALL })
            .await
            .unwrap();
        disk
    });
    script.hold(Phase::Settle, "disk");
    let alone = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::NONE };
    start(&world, async move |task: &mut Task<'_>| {
        drop(attach::<ReadOnly>(task, disk, "alone", alone).await.unwrap())
    });
    let second = start(&world, async move |task: &mut Task<'_>| {
        let error = attach::<ReadOnly>(task, disk, "reader", SHARING_READER).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InUse);
    });
    assert!(!second.is_set());
    script.release(Phase::Settle, "disk");
    world.end();
}

/// Each of two writers leaves, relying on the other to stay: whoever is second has to store the node.
#[test]
fn the_last_of_two_writers_that_leave_at_once_stores_the_node() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (top, one, two) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "disk", &own).unwrap();
        let top = add_filter(&mut opening, "top", &own, disk).unwrap();
        insert(task, opening).await.unwrap();
        let one: Backend<ReadWrite> = attach(task, top, "one", SHARING_WRITER).await.unwrap();
        (top, one, attach::<ReadWrite>(task, top, "two", SHARING_WRITER).await.unwrap())
    });
    script.take_log();
    script.hold(Phase::Settle, "top");
    let first = start(&world, async move |task: &mut Task<'_>| detach(task, &one).await.unwrap());
    let second = start(&world, async move |task: &mut Task<'_>| detach(task, &two).await.unwrap());
    assert!(!first.is_set() && !second.is_set());
    assert_eq!(script.count("store top"), 0);
    script.release(Phase::Settle, "top");
    world.sim.settle().unwrap();
    assert!(first.is_set() && second.is_set());
    assert_eq!((script.count("store top"), script.count("commit top")), (1, 2));
    assert_eq!(script.mode("disk").unwrap().users, Grant::PASSIVE);
    let users = world
        .on_control(async move |task: &mut Task<'_>| task.gs().with(|graph| graph.node(top)).unwrap().users);
    assert_eq!(users, Grant::PASSIVE);
}

#[test]
fn two_plans_cannot_make_a_cycle_that_neither_sees() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let [a, b] = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let mut pair = Vec::new();
        for name in ["a", "b"] {
            let middle = add_device(&mut opening, &format!("{name}-file"), &own).unwrap();
            pair.push(add_filter(&mut opening, name, &own, middle).unwrap());
        }
        insert(task, opening).await.unwrap();
        <[NodeId; 2]>::try_from(pair).unwrap()
    });
    script.hold(Phase::Settle, "a");
    let over = async move |task: &mut Task<'_>, top: NodeId, base: NodeId| {
        let mut plan = Plan::new();
        plan.set_child(top, ChildKey::Backing, base, Role::COW);
        task.apply(plan).await
    };
    start(&world, async move |task: &mut Task<'_>| over(task, a, b).await.unwrap());
    let second = start(&world, async move |task: &mut Task<'_>| {
        assert_eq!(over(task, b, a).await.unwrap_err().kind(), Kind::InvalidInput);
    });
    assert!(!second.is_set());
    script.release(Phase::Settle, "a");
    world.end();
}

/// A replacement moves the users that there are at its commit: nobody may come in between whose requests are not drained.
#[test]
fn nobody_joins_a_node_that_is_being_replaced() {
    for (had_user, seed) in [(false, 1), (true, 2)] {
        let world = World::new(seed);
        let script = Script::default();
        let own = script.clone();
        let base = world.on_control(async move |task: &mut Task<'_>| {
            let base = insert_device(task, "base", &own).await.unwrap();
            if had_user {
                attach::<ReadOnly>(task, base, "there before", SHARING_READER).await.unwrap();
                let spec = RootSpec { name: "stays".to_owned(), grant: SHARING_READER, stays: true };
                let mut plan = Plan::new();
                drop(plan.attach_root::<ReadOnly>(task.gs(), base, spec));
                task.apply(plan).await.unwrap();
            }
            base
        });
        script.hold(Phase::Settle, "top");
        let own = script.clone();
        start(&world, async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let top = add_filter(&mut opening, "top", &own, base).unwrap();
            let mut plan = Plan::new();
            plan.insert(opening);
            plan.replace(base, top);
            task.apply(plan).await.unwrap();
        });
        let second = start(&world, async move |task: &mut Task<'_>| {
            attach::<ReadOnly>(task, base, "late", SHARING_READER).await.unwrap();
            let late =
                task.gs().with(|graph| graph.roots()).into_iter().find(|root| root.name == "late").unwrap();
            assert_eq!(late.node, Some(base), "it came after the replacement");
        });
        assert!(!second.is_set(), "had_user: {had_user}");
        script.release(Phase::Settle, "top");
        world.end();
    }
}

/// The second plan has prepared for a graph that the first one changes: it prepares again, for what there is then.
#[test]
fn a_plan_that_waited_prepares_anew_if_the_graph_has_changed() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let disk =
        world.on_control(async move |task: &mut Task<'_>| insert_device(task, "disk", &own).await.unwrap());
    script.take_log();
    script.hold(Phase::Settle, "disk");
    start(&world, async move |task: &mut Task<'_>| {
        drop(attach::<ReadWrite>(task, disk, "a", SHARING_WRITER).await.unwrap())
    });
    start(&world, async move |task: &mut Task<'_>| {
        drop(attach::<ReadOnly>(task, disk, "b", SHARING_READER).await.unwrap())
    });
    assert_eq!(script.take_log(), ["stage disk", "settle disk", "stage disk"]);
    script.release(Phase::Settle, "disk");
    world.end();
    assert_eq!(script.take_log(), ["commit disk", "undo disk", "stage disk", "settle disk", "commit disk"]);
    let both = Perm::CONSISTENT_READ.with(Perm::WRITE);
    assert_eq!(script.mode("disk").unwrap().users.perm, both);
}

/// What a plan has opened lives through being prepared again, and is closed if the plan is refused then.
#[test]
fn a_plan_that_is_refused_on_second_sight_closes_what_it_had_opened() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let disk =
        world.on_control(async move |task: &mut Task<'_>| insert_device(task, "disk", &own).await.unwrap());
    script.hold(Phase::Settle, "disk");
    start(&world, async move |task: &mut Task<'_>| drop(attach_writer(task, disk, "a").await.unwrap()));
    let own = script.clone();
    start(&world, async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let top = add_filter(&mut opening, "top", &own, disk).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        let spec = RootSpec { name: "b".to_owned(), grant: Grant::WRITER, stays: false };
        let _backend: Backend<ReadWrite> = plan.attach_root(task.gs(), top, spec);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::InUse);
        assert_eq!((own.count("undo top"), own.count("close top")), (1, 1));
        assert!(task.gs().find("top").is_err());
    });
    script.release(Phase::Settle, "disk");
    world.end();
}

#[test]
fn whoever_gives_up_waiting_for_the_right_to_change_holds_up_nobody() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let disk =
        world.on_control(async move |task: &mut Task<'_>| insert_device(task, "disk", &own).await.unwrap());
    script.hold(Phase::Settle, "disk");
    start(&world, async move |task: &mut Task<'_>| {
        drop(attach::<ReadWrite>(task, disk, "a", SHARING_WRITER).await.unwrap())
    });
    start(&world, async move |task: &mut Task<'_>| {
        let gone = attach::<ReadWrite>(task, disk, "b", SHARING_WRITER);
        assert!(drystone_testkit::sim::abandon_after(1, gone).await.is_none());
    });
    let third = start(&world, async move |task: &mut Task<'_>| {
        drop(attach::<ReadWrite>(task, disk, "c", SHARING_WRITER).await.unwrap())
    });
    script.release(Phase::Settle, "disk");
    world.sim.settle().unwrap();
    assert!(third.is_set());
    let names = world.on_control(async |task: &mut Task<'_>| {
        task.gs().with(|graph| graph.roots()).into_iter().map(|root| root.name).collect::<Vec<_>>()
    });
    assert_eq!(names, ["a", "c"]);
    world.end();
}

/// A user's write permission goes only when its writes are done, also if the node has other writers.
#[test]
fn a_user_is_drained_before_it_loses_a_permission() {
    let world = World::new(1);
    let script = Script::default();
    let disk = drystone_testkit::disk::SimDisk::zeroed(LEN, 1);
    let device = disk.clone();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let id = opening.add(node("disk", Scripted::device("disk", &script, device), LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        attach::<ReadWrite>(task, id, "stays", SHARING_WRITER).await.unwrap();
        attach::<ReadWrite>(task, id, "turns", SHARING_WRITER).await.unwrap()
    });
    let hold = disk.hold(drystone_testkit::disk::OpFilter::any());
    let (user, root) = (backend.clone(), backend.id());
    world.spawn_io(1, "writes", async move |lane| fill(lane, &user, at(0, 512), 1).await.unwrap());
    world.sim.run_until(|| hold.count() == 1).unwrap();
    let turned = start(&world, async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.set_grant(root, SHARING_READER);
        task.apply(plan).await.unwrap();
    });
    assert!(!turned.is_set());
    drop(hold);
    world.sim.run_until(|| turned.is_set()).unwrap();
    let result = world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await);
    assert_eq!(result.unwrap_err().kind(), Kind::ReadOnly);
    drop(backend);
    world.end();
}

#[test]
fn many_random_changes_of_few_nodes_all_end() {
    for seed in 0..60 {
        let world = World::new(seed);
        let script = Script::default();
        let own = script.clone();
        let disks = world.on_control(async move |task: &mut Task<'_>| {
            let mut disks = Vec::new();
            for name in ["a", "b", "c"] {
                disks.push(insert_device(task, name, &own).await.unwrap());
            }
            disks
        });
        let mut rng = world.sim.rng();
        for number in 0..12 {
            let disk = disks[rng.index(disks.len())];
            let next = disks[rng.index(disks.len())];
            world.control.spawn(async move |task: &mut Task<'_>| {
                let Ok(backend) = attach_reader(task, disk, &format!("user {number}")).await else { return };
                let mut plan = Plan::new();
                plan.move_root(backend.id(), next);
                task.apply(plan).await.unwrap();
                detach(task, &backend).await.unwrap();
            });
        }
        world.end();
    }
}
