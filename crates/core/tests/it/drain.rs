//! Drains: what they wait for, whom they keep out, and whom they leave alone.

use std::cell::Cell;
use std::rc::Rc;

use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Control, Opening, Plan, Quiet, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::runtime::yield_now;
use drystone_testkit::disk::{OpFilter, SimDisk};

use crate::fixture::{LEN, node};
use crate::scripted::{Script, Scripted};
use crate::world::{
    Event, SHARING_READER, World, add_device, add_filter, at, attach, attach_writer, detach, fill, insert,
    insert_device, insert_pair, load, remove,
};

/// Which drain.
#[derive(Debug, Clone, Copy)]
enum Kind {
    One(NodeId),
    All,
}

async fn begin(task: &mut Task<'_>, kind: Kind) -> Quiet {
    match kind {
        Kind::One(node) => task.drain(&[node]).await,
        Kind::All => task.drain_all().await,
    }
}

/// A control task that drains, says so, and keeps the section until it may end.
fn section(world: &World, kind: Kind) -> (Event, Event) {
    let (begun, end) = (Event::default(), Event::default());
    let (says, may_end) = (begun.clone(), end.clone());
    world.control.spawn(async move |task: &mut Task<'_>| {
        let quiet = begin(task, kind).await;
        says.set();
        may_end.wait().await;
        drop(quiet);
    });
    (begun, end)
}

/// A disk whose operations can be held, and its writer.
fn disk_with_writer(world: &World, script: &Script, disk: &SimDisk) -> (NodeId, Backend<ReadWrite>) {
    let (script, disk) = (script.clone(), disk.clone());
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let new = node("disk", Scripted::device("disk", &script, disk), LEN, vec![]);
        let id = opening.add(new).unwrap();
        insert(task, opening).await.unwrap();
        (id, attach_writer(task, id, "client").await.unwrap())
    })
}

#[test]
fn a_task_can_change_what_it_has_drained() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, disk, "client").await.unwrap();
        let quiet = task.drain(&[disk]).await;
        detach(task, &backend).await.unwrap();
        drop(quiet);
    });
}

#[test]
fn a_task_can_open_an_overlay_of_what_it_has_drained() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, disk, "client").await.unwrap();
        let quiet = task.drain_all().await;
        let mut opening = Opening::new(task);
        let file = add_device(&mut opening, "file", &script).unwrap();
        opening.visit(file).await.unwrap().io().flush().await.unwrap();
        let children = vec![(ChildKey::File, Role::IMAGE, file), (ChildKey::Backing, Role::COW, disk)];
        let top = opening.add(node("top", Scripted::filter("top", &script), LEN, children)).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(disk, top);
        task.apply(plan).await.unwrap();
        drop(quiet);
        detach(task, &backend).await.unwrap();
    });
}

#[test]
fn a_drain_ends_when_the_request_in_flight_has() {
    for all in [false, true] {
        let world = World::new(1);
        let disk = SimDisk::zeroed(LEN, 1);
        let (id, backend) = disk_with_writer(&world, &Script::default(), &disk);
        let hold = disk.hold(OpFilter::any());
        world.spawn_io(1, "writes", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
        world.sim.run_until(|| hold.count() == 1).unwrap();
        let (begun, end) = section(&world, if all { Kind::All } else { Kind::One(id) });
        world.sim.settle().unwrap();
        assert!(!begun.is_set(), "the request is still inside");
        hold.release_all();
        world.sim.run_until(|| begun.is_set()).unwrap();
        assert!(disk.trace().iter().all(|op| op.ended.is_some()));
        end.set();
        world.end();
    }
}

#[test]
fn a_drain_says_for_whom_it_waits_now() {
    let world = World::new(1);
    let disks = [SimDisk::zeroed(LEN, 1), SimDisk::zeroed(LEN, 1)];
    let nodes = [("one", &disks[0]), ("two", &disks[1])].map(|(name, disk)| {
        let disk = disk.clone();
        world.on_control(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let new = node(name, Scripted::device(name, &Script::default(), disk), LEN, vec![]);
            let id = opening.add(new).unwrap();
            insert(task, opening).await.unwrap();
            (id, attach_writer(task, id, &format!("user of {name}")).await.unwrap())
        })
    });
    let holds = disks.each_ref().map(|disk| disk.hold(OpFilter::any()));
    let [one, two] = nodes;
    for (_, backend) in [&one, &two] {
        let backend = backend.clone();
        world.spawn_io(1, "writes", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    }
    world.sim.run_until(|| holds.iter().all(|hold| hold.count() == 1)).unwrap();
    let nodes = [one.0, two.0];
    let begun = Event::default();
    let says = begun.clone();
    world.control.spawn(async move |task: &mut Task<'_>| {
        drop(task.drain(&nodes).await);
        says.set();
    });
    world.sim.settle().unwrap();
    for ((hold, disk), name) in holds.iter().zip(&disks).zip(["one", "two"]) {
        let report = world.on_control(async |task: &mut Task<'_>| task.gs().waits().report());
        assert!(report.contains(&format!("the requests of 'user of {name}' to end")), "{report}");
        assert_eq!(report.matches("a drain waits").count(), 1, "{report}");
        hold.release_all();
        world.sim.run_until(|| disk.trace().iter().all(|op| op.ended.is_some())).unwrap();
        world.sim.settle().unwrap();
    }
    assert!(begun.is_set());
    drop((one, two));
    world.end();
}

#[test]
fn a_drain_of_an_idle_node_waits_for_nothing() {
    let world = World::new(1);
    let (id, _backend) = disk_with_writer(&world, &Script::default(), &SimDisk::zeroed(LEN, 1));
    for kind in [Kind::One(id), Kind::All] {
        let (begun, end) = section(&world, kind);
        world.sim.settle().unwrap();
        assert!(begun.is_set());
        end.set();
    }
    world.end();
}

#[test]
fn every_combination_of_nested_drains_ends_with_the_outer_one() {
    let quiet_of = |task: &Task<'_>, id| task.gs().with(|graph| graph.node(id)).unwrap().quiet;
    let is_closed = |task: &Task<'_>| task.gs().with(|graph| graph.roots()).iter().all(|root| root.closed);
    let world = World::new(1);
    let (id, _backend) = disk_with_writer(&world, &Script::default(), &SimDisk::zeroed(LEN, 1));
    world.on_control(async move |task: &mut Task<'_>| {
        for outer in [Kind::One(id), Kind::All] {
            for inner in [Kind::One(id), Kind::All] {
                let outer = begin(task, outer).await;
                assert_eq!(quiet_of(task, id), 1);
                let inner = begin(task, inner).await;
                assert_eq!(quiet_of(task, id), 2);
                assert!(inner.covers(id));
                drop(inner);
                assert!(is_closed(task));
                drop(outer);
                assert_eq!(quiet_of(task, id), 0);
                assert!(!is_closed(task));
            }
        }
    });
}

#[test]
fn sections_that_overlap_end_with_the_last_of_them() {
    let world = World::new(1);
    let (id, backend) = disk_with_writer(&world, &Script::default(), &SimDisk::zeroed(LEN, 1));
    let (first, end_first) = section(&world, Kind::One(id));
    world.sim.run_until(|| first.is_set()).unwrap();
    let (second, end_second) = section(&world, Kind::All);
    world.sim.run_until(|| second.is_set()).unwrap();
    world.spawn_io(1, "writes", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    end_first.set();
    world.sim.settle().unwrap();
    assert!(world.sim.pending().iter().any(|task| task.name == "writes"), "the second section lasts");
    end_second.set();
    world.end();
}

#[test]
fn a_drain_reaches_up_and_neither_down_nor_aside() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (top, [above, aside, below]) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = add_device(&mut opening, "base", &own).unwrap();
        let top = add_filter(&mut opening, "top", &own, base).unwrap();
        let sibling = add_filter(&mut opening, "sibling", &own, base).unwrap();
        insert(task, opening).await.unwrap();
        let mut backends = Vec::new();
        for (node, name) in [(top, "above"), (sibling, "aside"), (base, "below")] {
            backends.push(attach::<ReadOnly>(task, node, name, SHARING_READER).await.unwrap());
        }
        (top, <[Backend<ReadOnly>; 3]>::try_from(backends).unwrap())
    });
    let (begun, end) = section(&world, Kind::One(top));
    world.sim.run_until(|| begun.is_set()).unwrap();
    world.on_io(async |lane| {
        load(lane, &aside, at(0, 512)).await.unwrap();
        load(lane, &below, at(0, 512)).await.unwrap();
    });
    world.spawn_io(1, "above", async move |lane| drop(load(lane, &above, at(0, 512)).await));
    world.sim.settle().unwrap();
    assert!(world.sim.pending().iter().any(|task| task.name == "above"));
    assert_eq!(script.requests("top"), 0);
    end.set();
    world.end();
    assert_eq!(script.requests("top"), 1);
}

#[test]
fn what_comes_during_a_drain_of_everything_is_quiet_and_what_goes_is_gone() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let old =
        world.on_control(async move |task: &mut Task<'_>| insert_device(task, "old", &own).await.unwrap());
    let (begun, end) = section(&world, Kind::All);
    world.sim.run_until(|| begun.is_set()).unwrap();
    let own = script.clone();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        remove(task, old).await.unwrap();
        let new = insert_device(task, "new", &own).await.unwrap();
        attach_writer(task, new, "client").await.unwrap()
    });
    world.spawn_io(1, "writes", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    world.sim.settle().unwrap();
    assert_eq!(script.requests("new"), 0);
    end.set();
    world.end();
    assert_eq!(script.requests("new"), 1);
}

/// A request on one thread whose operation is let go by another one.
#[test]
fn a_drain_hears_of_a_request_that_another_thread_finishes() {
    for from_thread in [false, true] {
        let world = World::new(1);
        let disk = SimDisk::zeroed(LEN, 1);
        let (id, backend) = disk_with_writer(&world, &Script::default(), &disk);
        let hold = disk.hold(OpFilter::any());
        world.spawn_io(1, "writes", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
        world.sim.run_until(|| hold.count() == 1).unwrap();
        world.spawn_io(2, "lets go", async move |_| {
            for _ in 0..10 {
                yield_now().await;
            }
            drop(hold);
        });
        let drain = async move |control: &Control| {
            control.call(async move |task: &mut Task<'_>| drop(task.drain(&[id]).await)).await.unwrap();
        };
        let control = world.control.clone();
        let local = if from_thread { world.sim.io(1) } else { world.sim.control() };
        world.sim.block_on(&local, drain(&control)).unwrap();
        assert!(disk.trace().iter().all(|op| op.ended.is_some()));
        drop(control);
        world.end();
    }
}

#[test]
fn a_request_that_ends_in_a_drain_can_take_its_own_node_out_of_the_graph() {
    for seed in 0..50 {
        let world = World::new(seed);
        let script = Script::default();
        let own = script.clone();
        let (top, base, backend) = world.on_control(async move |task: &mut Task<'_>| {
            let (top, base) = insert_pair(task, ("top", "base"), &own).await.unwrap();
            (top, base, attach_writer(task, top, "client").await.unwrap())
        });
        let control = world.control.clone();
        world.spawn_io(1, "client", async move |lane| {
            fill(lane, &backend, at(0, 512), 1).await.unwrap();
            let gone = control.call(async move |task: &mut Task<'_>| {
                let mut plan = Plan::new();
                plan.detach_root(backend.id());
                plan.remove(top);
                task.apply(plan).await.unwrap();
            });
            gone.await.unwrap();
        });
        world.on_control(async move |task: &mut Task<'_>| {
            for _ in 0..3 {
                drop(task.drain(&[base]).await);
            }
        });
        world.end();
        assert_eq!((script.count("close top"), script.count("close base")), (1, 0));
    }
}

#[test]
fn a_request_that_ends_in_a_drain_can_give_its_node_another_child() {
    for seed in 0..50 {
        let world = World::new(seed);
        let script = Script::default();
        let own = script.clone();
        let (top, [old, new], backend) = world.on_control(async move |task: &mut Task<'_>| {
            let (top, old) = insert_pair(task, ("top", "old"), &own).await.unwrap();
            let new = insert_device(task, "new", &own).await.unwrap();
            (top, [old, new], attach_writer(task, top, "client").await.unwrap())
        });
        let control = world.control.clone();
        world.spawn_io(1, "client", async move |lane| {
            fill(lane, &backend, at(0, 512), 1).await.unwrap();
            let moved = control.call(async move |task: &mut Task<'_>| {
                let mut plan = Plan::new();
                plan.set_child(top, ChildKey::File, new, Role::FILTER_CHILD);
                plan.remove(old);
                task.apply(plan).await.unwrap();
            });
            moved.await.unwrap();
            fill(lane, &backend, at(0, 512), 2).await.unwrap();
        });
        world.on_control(async move |task: &mut Task<'_>| {
            for node in [old, top, new] {
                drop(task.drain(&[node]).await);
            }
        });
        world.sim.settle().unwrap();
        let parents = world.on_control(async move |task: &mut Task<'_>| {
            task.gs().with(|graph| (graph.parents_of(new), graph.node(old), graph.node(top).unwrap().quiet))
        });
        assert_eq!(parents, (vec!["top".to_owned()], None, 0));
        world.end();
    }
}

#[test]
fn an_overlay_that_is_put_on_a_quiet_node_is_quiet_too() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (base, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let base = insert_device(task, "base", &own).await.unwrap();
        (base, attach_writer(task, base, "client").await.unwrap())
    });
    let (begun, end) = section(&world, Kind::One(base));
    world.sim.run_until(|| begun.is_set()).unwrap();
    let own = script.clone();
    let reader = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let top = add_filter(&mut opening, "top", &own, base).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(base, top);
        task.apply(plan).await.unwrap();
        attach::<ReadOnly>(task, top, "reader", SHARING_READER).await.unwrap()
    });
    world.spawn_io(1, "writes", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    world.spawn_io(2, "reads", async move |lane| drop(load(lane, &reader, at(0, 512)).await.unwrap()));
    world.sim.settle().unwrap();
    assert_eq!((script.requests("top"), script.requests("base")), (0, 0));
    end.set();
    world.end();
    assert_eq!((script.requests("top"), script.requests("base")), (2, 2));
}

/// The old child, the new child, both or neither are quiet while a parent is given the new one: its requests go on exactly
/// if the child that they would reach then is not quiet, and to that child.
#[test]
fn replacing_a_child_in_the_middle_of_a_drain_leaves_every_request_where_it_belongs() {
    for (old_quiet, new_quiet) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = World::new(1);
        let script = Script::default();
        let own = script.clone();
        let (top, [old, new], backend) = world.on_control(async move |task: &mut Task<'_>| {
            let (top, old) = insert_pair(task, ("top", "old"), &own).await.unwrap();
            let new = insert_device(task, "new", &own).await.unwrap();
            (top, [old, new], attach_writer(task, top, "client").await.unwrap())
        });
        let mut sections = Vec::new();
        for (node, quiet) in [(old, old_quiet), (new, new_quiet)] {
            if quiet {
                let (begun, end) = section(&world, Kind::One(node));
                world.sim.run_until(|| begun.is_set()).unwrap();
                sections.push(end);
            }
        }
        let user = backend.clone();
        world.spawn_io(1, "before", async move |lane| fill(lane, &user, at(0, 512), 1).await.unwrap());
        world.sim.settle().unwrap();
        assert_eq!(script.requests("old"), u64::from(!old_quiet));
        world.on_control(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.set_child(top, ChildKey::File, new, Role::FILTER_CHILD);
            task.apply(plan).await.unwrap();
        });
        world.spawn_io(1, "after", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
        world.sim.settle().unwrap();
        let expected = if new_quiet { 0 } else { 1 + u64::from(old_quiet) };
        assert_eq!(script.requests("new"), expected, "old quiet: {old_quiet}, new quiet: {new_quiet}");
        sections.iter().for_each(Event::set);
        world.end();
        assert_eq!(script.requests("old") + script.requests("new"), 2);
    }
}

/// The control thread has drained; then a thread asks for a drain of its own: it gets it when it asks, since nothing is
/// inside, and the requests come back with the end of the last section.
#[test]
fn the_control_thread_drains_and_then_an_io_thread() {
    let world = World::new(1);
    let (id, backend) = disk_with_writer(&world, &Script::default(), &SimDisk::zeroed(LEN, 1));
    let (begun, end) = section(&world, Kind::One(id));
    world.sim.run_until(|| begun.is_set()).unwrap();
    let control = world.control.clone();
    let done = Event::default();
    let says = done.clone();
    world.spawn_io(1, "drains", async move |lane| {
        control.call(async move |task: &mut Task<'_>| drop(task.drain(&[id]).await)).await.unwrap();
        says.set();
        fill(lane, &backend, at(0, 512), 1).await.unwrap();
    });
    world.sim.settle().unwrap();
    assert!(done.is_set());
    assert_eq!(world.sim.pending().iter().filter(|task| task.name == "drains").count(), 1);
    end.set();
    world.end();
}

#[test]
fn an_io_thread_drains_and_then_the_control_thread() {
    let world = World::new(1);
    let (id, backend) = disk_with_writer(&world, &Script::default(), &SimDisk::zeroed(LEN, 1));
    let (inside, leave) = (Event::default(), Event::default());
    let (says, may_leave) = (inside.clone(), leave.clone());
    let control = world.control.clone();
    world.spawn_io(1, "drains", async move |lane| {
        let section = control.call(async move |task: &mut Task<'_>| {
            let quiet = task.drain(&[id]).await;
            says.set();
            may_leave.wait().await;
            drop(quiet);
        });
        section.await.unwrap();
        fill(lane, &backend, at(0, 512), 1).await.unwrap();
    });
    world.sim.run_until(|| inside.is_set()).unwrap();
    world.on_control(async move |task: &mut Task<'_>| {
        let quiet = task.drain(&[id]).await;
        leave.set();
        for _ in 0..10 {
            yield_now().await;
        }
        drop(quiet);
    });
    world.end();
}

#[test]
fn both_threads_drain_at_once_while_both_write() {
    for seed in 0..300 {
        let world = World::new(seed);
        let (id, backend) = disk_with_writer(&world, &Script::default(), &SimDisk::zeroed(LEN, seed));
        for thread in [1, 2] {
            let (control, user) = (world.control.clone(), backend.clone());
            world.spawn_io(thread, "drains and writes", async move |lane| {
                for _ in 0..3 {
                    fill(lane, &user, at(0, 512), 1).await.unwrap();
                    control
                        .call(async move |task: &mut Task<'_>| drop(task.drain(&[id]).await))
                        .await
                        .unwrap();
                }
            });
        }
        world.control.spawn(async move |task: &mut Task<'_>| {
            for _ in 0..3 {
                drop(task.drain_all().await);
                yield_now().await;
            }
        });
        drop(backend);
        world.end();
    }
}

#[test]
fn a_client_that_counts_its_requests_sees_none_in_a_drain() {
    for seed in 0..200 {
        let world = World::new(seed);
        let script = Script::default();
        let disk = SimDisk::zeroed(LEN, seed);
        let (id, backend) = disk_with_writer(&world, &script, &disk);
        let done = Rc::new(Cell::new(0));
        for thread in [1, 2] {
            let (user, done) = (backend.clone(), Rc::clone(&done));
            world.spawn_io(thread, "writes", async move |lane: &mut Lane| {
                for _ in 0..30 {
                    fill(lane, &user, at(0, 512), 1).await.unwrap();
                }
                done.set(done.get() + 1);
            });
        }
        world.on_control(async move |task: &mut Task<'_>| {
            for _ in 0..5 {
                let quiet = task.drain(&[id]).await;
                let seen = (script.requests("disk"), disk.trace().len());
                assert!(disk.trace().iter().all(|op| op.ended.is_some()));
                for _ in 0..5 {
                    yield_now().await;
                }
                assert_eq!((script.requests("disk"), disk.trace().len()), seen);
                drop(quiet);
                yield_now().await;
            }
        });
        drop(backend);
        world.end();
        assert_eq!(done.get(), 2);
    }
}

#[test]
fn a_drain_that_nobody_waits_for_any_more_opens_the_gates_again() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let (id, backend) = disk_with_writer(&world, &Script::default(), &disk);
    let hold = disk.hold(OpFilter::any());
    let user = backend.clone();
    world.spawn_io(1, "writes", async move |lane| fill(lane, &user, at(0, 512), 1).await.unwrap());
    world.sim.run_until(|| hold.count() == 1).unwrap();
    world.on_control(async move |task: &mut Task<'_>| {
        let begun = drystone_testkit::sim::abandon_after(1, task.drain(&[id])).await;
        assert!(begun.is_none());
        assert!(task.gs().with(|graph| graph.roots()).iter().all(|root| !root.closed));
    });
    hold.release_all();
    drop(hold);
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 2).await.unwrap());
    drop(backend);
    world.end();
}

#[test]
fn a_drain_of_one_disk_does_not_wait_for_another() {
    let world = World::new(1);
    let (slow, script) = (SimDisk::zeroed(LEN, 1), Script::default());
    let (_, backend) = disk_with_writer(&world, &script, &slow);
    let hold = slow.hold(OpFilter::any());
    world.spawn_io(1, "writes", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    world.sim.run_until(|| hold.count() == 1).unwrap();
    world.on_control(async move |task: &mut Task<'_>| {
        let other = insert_device(task, "other", &script).await.unwrap();
        let backend: Backend<ReadWrite> = attach(task, other, "other", Grant::WRITER).await.unwrap();
        drop(task.drain(&[other]).await);
        detach(task, &backend).await.unwrap();
        remove(task, other).await.unwrap();
    });
    drop(hold);
    world.end();
}
