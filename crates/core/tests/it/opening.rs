//! Openings: subgraphs that are no part of the graph yet.

use drystone_base::{GuestOffset, Kind};
use drystone_core::control::{NewNode, Opening, Plan, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;

use crate::fixture::{Device, LEN, node};
use crate::scripted::{Phase, Script, Scripted};
use crate::world::{
    Event, World, add_device, add_filter, attach_writer, detach, disk_of, insert, insert_device, remove,
};

#[test]
fn an_opening_that_is_dropped_closes_what_it_has() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "disk", &own).unwrap();
        add_filter(&mut opening, "top", &own, disk).unwrap();
        drop(opening);
        let mut opening = Opening::new(task);
        add_device(&mut opening, "other", &own).unwrap();
        opening.close().await;
        assert_eq!(own.count("close other"), 1, "and one that is closed has closed it");
        assert!(task.gs().with(|graph| graph.nodes()).is_empty());
    });
    world.end();
    assert_eq!(script.log().len(), 3);
    assert_eq!((script.count("close disk"), script.count("close top")), (1, 1));
}

#[test]
fn names_are_well_formed_and_unique() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        insert_device(task, "taken", &script).await.unwrap();
        let mut opening = Opening::new(task);
        add_device(&mut opening, "mine", &script).unwrap();
        for name in ["taken", "mine"] {
            let error = add_device(&mut opening, name, &script).unwrap_err();
            assert_eq!((error.kind(), error.node()), (Kind::AlreadyExists, Some(name)));
        }
        let long = "x".repeat(32);
        for name in ["", "1st", "#block1", "a b", "a/b", "ä", &long] {
            let error = add_device(&mut opening, name, &script).unwrap_err();
            assert_eq!((error.kind(), error.option()), (Kind::InvalidInput, Some("node-name")), "{name}");
        }
        for name in ["a", "A-1._", &"x".repeat(31)] {
            add_device(&mut opening, name, &script).unwrap();
        }
        let nameless = || NewNode { name: None, ..node("x", Device(disk_of(0, 1)), LEN, vec![]) };
        let (one, two) = (opening.add(nameless()).unwrap(), opening.add(nameless()).unwrap());
        let name = |id: NodeId| opening.node(id).unwrap().name().to_owned();
        assert!(name(one).starts_with("#block") && name(one) != name(two));
    });
}

#[test]
fn a_name_is_free_again_when_its_node_has_gone() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        for _ in 0..3 {
            let disk = insert_device(task, "disk", &script).await.unwrap();
            assert_eq!(task.gs().find("disk").unwrap(), disk);
            remove(task, disk).await.unwrap();
            assert_eq!(task.gs().find("disk").unwrap_err().kind(), Kind::NotFound);
        }
    });
}

#[test]
fn children_must_be_there() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let gone = insert_device(task, "gone", &script).await.unwrap();
        let mut early = Opening::new(task);
        add_filter(&mut early, "early", &script, gone).unwrap();
        remove(task, gone).await.unwrap();
        let mut late = Opening::new(task);
        assert_eq!(add_filter(&mut late, "late", &script, gone).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(insert(task, early).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(script.count("close early"), 1);
    });
}

#[test]
fn a_claim_prepares_a_node_for_its_users_before_it_is_read() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "disk", &script).unwrap();
        opening.claim(disk, Grant::WRITER).await.unwrap();
        assert_eq!(script.take_log(), ["stage disk", "commit disk"]);
        assert_eq!(script.mode("disk").unwrap().users, Grant::WRITER);
        script.fail(Phase::Stage, "disk");
        let error = opening.claim(disk, Grant::READER).await.unwrap_err();
        assert_eq!(error.node(), Some("disk"));
        script.mend();
        assert_eq!(script.mode("disk").unwrap().users, Grant::WRITER);
        insert(task, opening).await.unwrap();
        assert_eq!(script.mode("disk").unwrap().users, Grant::PASSIVE, "nobody uses it");
    });
}

#[test]
fn a_claim_asks_the_driver_whether_it_can() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let reads = |mode: drystone_core::driver::NodeMode| match mode.users.perm.writes() {
            true => Err(drystone_base::Error::new(Kind::ReadOnly, "the file cannot be written")),
            false => Ok(()),
        };
        let driver = Scripted::device("disk", &script, disk_of(0, 1)).checking(reads);
        let mut opening = Opening::new(task);
        let disk = opening.add(node("disk", driver, LEN, vec![])).unwrap();
        let error = opening.claim(disk, Grant::WRITER).await.unwrap_err();
        assert_eq!(error.to_string(), "node 'disk': the file cannot be written");
        assert!(script.log().is_empty());
        opening.claim(disk, Grant::READER).await.unwrap();
    });
}

#[test]
fn a_visit_reads_from_what_is_being_opened_and_what_it_stands_on() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = opening.add(node("base", Device(disk_of(6, 1)), LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        let mut opening = Opening::new(task);
        let file = opening.add(node("file", Device(disk_of(5, 2)), LEN, vec![])).unwrap();
        let top = add_filter(&mut opening, "top", &script, base).unwrap();
        for (id, byte) in [(file, 5), (top, 6), (base, 6)] {
            let visit = opening.visit(id).await.unwrap();
            let bytes = visit.io().read_new(GuestOffset::ZERO, 512).await.unwrap();
            assert_eq!(bytes.as_slice(), [byte; 512]);
            let refused = visit.io().discard(crate::world::at(0, 512)).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::ReadOnly, "a visit only looks");
        }
        assert!(task.gs().with(|graph| graph.roots()).is_empty(), "visits come and go");
        remove(task, base).await.unwrap();
        assert_eq!(opening.visit(base).await.err().map(|error| error.kind()), Some(Kind::NotFound));
    });
}

/// A visit waits at the gate of a node that is quiet; when it may go on, the node has left.
#[test]
fn a_visit_to_a_node_that_has_left_meanwhile_says_so() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let base =
        world.on_control(async move |task: &mut Task<'_>| insert_device(task, "base", &own).await.unwrap());
    let begun = Event::default();
    let says = begun.clone();
    let end = Event::default();
    let may_end = end.clone();
    world.control.spawn(async move |task: &mut Task<'_>| {
        let quiet = task.drain(&[base]).await;
        says.set();
        may_end.wait().await;
        remove(task, base).await.unwrap();
        drop(quiet);
    });
    world.sim.run_until(|| begun.is_set()).unwrap();
    let own = script.clone();
    world.control.spawn(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let top = add_filter(&mut opening, "top", &own, base).unwrap();
        assert_eq!(opening.visit(top).await.err().map(|error| error.kind()), Some(Kind::NotFound));
        opening.close().await;
    });
    world.sim.settle().unwrap();
    end.set();
    world.end();
    assert_eq!(script.requests("base"), 0, "nobody asked a node that was closed");
}

/// A node that is visited does not leave under the visitor.
#[test]
fn a_node_leaves_when_its_visitors_have() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let base =
        world.on_control(async move |task: &mut Task<'_>| insert_device(task, "base", &own).await.unwrap());
    let (inside, leave) = (Event::default(), Event::default());
    let (says, may_leave) = (inside.clone(), leave.clone());
    world.control.spawn(async move |task: &mut Task<'_>| {
        let opening = Opening::new(task);
        let visit = opening.visit(base).await.unwrap();
        says.set();
        may_leave.wait().await;
        visit.io().read_new(GuestOffset::ZERO, 512).await.unwrap();
    });
    world.sim.run_until(|| inside.is_set()).unwrap();
    world.control.spawn(async move |task: &mut Task<'_>| remove(task, base).await.unwrap());
    world.sim.settle().unwrap();
    assert_eq!(script.count("close base"), 0);
    leave.set();
    world.end();
    assert_eq!(script.count("close base"), 1);
}

#[test]
fn openings_in_one_plan_stand_on_each_other_by_a_step_of_the_plan() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (mut one, mut two) = (Opening::new(task), Opening::new(task));
        let base = add_device(&mut one, "base", &script).unwrap();
        let file = add_device(&mut two, "file", &script).unwrap();
        let children = vec![(ChildKey::File, Role::IMAGE, file)];
        let top = two.add(node("top", Scripted::filter("top", &script), LEN, children)).unwrap();
        let mut plan = Plan::new();
        plan.insert(two);
        plan.insert(one);
        plan.set_child(top, ChildKey::Backing, base, Role::COW);
        task.apply(plan).await.unwrap();
        assert_eq!(task.gs().with(|graph| graph.parents_of(base)), ["top"]);
        let backend = attach_writer(task, top, "client").await.unwrap();
        detach(task, &backend).await.unwrap();
    });
}
