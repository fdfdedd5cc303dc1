//! Changes of the graph, phase by phase: what is asked of whom, and what is left when something fails or is given up.

use drystone_base::{Error, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{GraphView, NodeInfo, Opening, Plan, RootInfo, RootSpec, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_testkit::sim::abandon_after;

use crate::fixture::{LEN, node};
use crate::scripted::{NewOptions, Phase, Script, Scripted};
use crate::world::{
    Event, SHARING_READER, World, add_device, add_filter, at, attach, attach_writer, detach, fill, insert,
    insert_device, insert_pair, instant_disk, load, remove,
};

/// A chain of filters over a device: `n0` on `n1` on `n2` on `n3`.
async fn insert_chain(task: &mut Task<'_>, script: &Script) -> Result<Vec<NodeId>> {
    let mut opening = Opening::new(task);
    let mut nodes = vec![add_device(&mut opening, "n3", script)?];
    for name in ["n2", "n1", "n0"] {
        let below = nodes[0];
        nodes.insert(0, add_filter(&mut opening, name, script, below)?);
    }
    insert(task, opening).await?;
    Ok(nodes)
}

fn picture(graph: &GraphView<'_>) -> (Vec<NodeInfo>, Vec<RootInfo>) {
    (graph.nodes(), graph.roots())
}

/// A plan that writes to and prepares all of a chain, brings in a node and attaches a root.
async fn change_all(task: &mut Task<'_>, script: &Script, nodes: &[NodeId]) -> Result<()> {
    let mut opening = Opening::new(task);
    let new = add_filter(&mut opening, "new", script, nodes[0])?;
    let mut plan = Plan::new();
    plan.insert(opening);
    for node in nodes {
        plan.reopen(*node, Box::new(NewOptions::default()));
    }
    let spec = RootSpec { name: "user".to_owned(), grant: Grant::WRITER, stays: false };
    let _backend: Backend<ReadWrite> = plan.attach_root(task.gs(), new, spec);
    task.apply(plan).await
}

#[test]
fn a_failure_in_any_phase_at_any_node_undoes_everything() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let nodes = insert_chain(task, &script).await.unwrap();
        let before = task.gs().with(picture);
        for phase in [Phase::Stage, Phase::Settle] {
            for failing in ["new", "n0", "n1", "n2", "n3"] {
                script.take_log();
                script.fail(phase, failing);
                let error: Error = change_all(task, &script, &nodes).await.unwrap_err();
                script.mend();
                assert_eq!((error.kind(), error.node()), (Kind::Io, Some(failing)));
                assert_eq!(task.gs().with(picture), before, "{phase:?} of {failing}");
                let log = script.take_log();
                let with = |word: &str| -> Vec<String> {
                    log.iter().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect()
                };
                assert!(with("commit ").is_empty());
                let mut prepared = with("stage ");
                if phase == Phase::Stage {
                    assert_eq!(
                        prepared.pop().as_deref(),
                        Some(failing),
                        "nobody is asked after the first failure"
                    );
                }
                prepared.reverse();
                assert_eq!(with("undo "), prepared, "{phase:?} of {failing}");
                assert_eq!(with("close "), ["new"]);
            }
        }
        change_all(task, &script, &nodes).await.unwrap();
    });
}

#[test]
fn a_failure_to_store_any_node_undoes_everything() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let nodes = insert_chain(task, &script).await.unwrap();
        let backend = attach_writer(task, nodes[0], "user").await.unwrap();
        let before = task.gs().with(picture);
        for failing in ["n0", "n1", "n2", "n3"] {
            script.take_log();
            script.fail(Phase::Store, failing);
            let mut plan = Plan::new();
            plan.detach_root(backend.id());
            plan.set_read_only(nodes[0], true);
            let error = task.apply(plan).await.unwrap_err();
            assert_eq!(error.node(), Some(failing));
            script.mend();
            assert_eq!(task.gs().with(picture), before);
            let log = script.take_log();
            assert_eq!(log.iter().filter(|line| line.starts_with("undo")).count(), 4);
            assert!(log.iter().all(|line| !line.starts_with("commit") && !line.starts_with("settle")));
        }
        detach(task, &backend).await.unwrap();
    });
}

/// Who leaves a disk that fails would stay for ever. What is not stored is in memory, as long as the node is.
#[test]
fn nobody_is_kept_from_leaving_a_node_that_stays() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let nodes = insert_chain(task, &script).await.unwrap();
        let backend = attach_writer(task, nodes[0], "user").await.unwrap();
        script.fail(Phase::Store, "n1");
        detach(task, &backend).await.unwrap();
        assert_eq!(task.gs().with(|graph| (graph.nodes().len(), graph.roots().len())), (4, 0));
    });
}

#[test]
fn phases_go_from_parents_to_children_and_the_commit_back() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let nodes = insert_chain(task, &script).await.unwrap();
        let backend = attach_writer(task, nodes[0], "user").await.unwrap();
        script.take_log();
        detach(task, &backend).await.unwrap();
        let words = |word: &str| -> Vec<String> { (0..4).map(|n| format!("{word} n{n}")).collect() };
        let mut expected = [words("stage"), words("store"), words("settle")].concat();
        expected.extend(words("commit").into_iter().rev());
        assert_eq!(script.take_log(), expected);
    });
}

/// A store needs nobody inside, and below what is written others may be.
#[test]
fn what_is_further_down_is_not_stored() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = add_device(&mut opening, "base", &script).unwrap();
        let top = add_filter(&mut opening, "top", &script, base).unwrap();
        insert(task, opening).await.unwrap();
        attach::<ReadWrite>(task, base, "other", SHARING_READER).await.unwrap();
        script.take_log();
        let mut plan = Plan::new();
        plan.reopen(top, Box::new(NewOptions::default()));
        let checked = plan.check(task.gs()).map_err(|(_, error)| error).unwrap();
        assert_eq!(checked.quiet_nodes(), [top]);
        let staged = task.stage(checked).await.unwrap();
        task.admit(staged).await.unwrap().settle().await.unwrap().commit().finish().await;
        assert_eq!((script.count("store top"), script.count("store base")), (1, 0));
    });
}

#[test]
fn a_phase_that_is_dropped_is_an_abort() {
    for phase in 0..6 {
        let world = World::new(1);
        let script = Script::default();
        let own = script.clone();
        let (before, after) = world.on_control(async move |task: &mut Task<'_>| {
            let (top, _) = insert_pair(task, ("top", "base"), &own).await.unwrap();
            attach_writer(task, top, "user").await.unwrap();
            own.take_log();
            let before = task.gs().with(picture);
            let mut opening = Opening::new(task);
            let new = add_filter(&mut opening, "new", &own, top).unwrap();
            let mut plan = Plan::new();
            plan.insert(opening);
            plan.replace(top, new);
            give_up(task, plan, phase).await;
            (before, task.gs().with(picture))
        });
        assert_eq!(before, after, "phase {phase}");
        world.end();
        assert_eq!(script.count("close new"), 1, "phase {phase}");
        for name in ["new", "top", "base"] {
            let (staged, undone) =
                (script.count(&format!("stage {name}")), script.count(&format!("undo {name}")));
            assert_eq!(staged, undone, "{name}, phase {phase}");
        }
    }
}

/// Lets the plan get as far as `phase`, and drops it there.
async fn give_up(task: &mut Task<'_>, plan: Plan, phase: u32) {
    if phase == 0 {
        return drop(plan);
    }
    let checked = plan.check(task.gs()).map_err(|(_, error)| error).unwrap();
    if phase == 1 {
        return drop(checked);
    }
    let staged = task.stage(checked).await.unwrap();
    match phase {
        2 => return drop(staged),
        3 => return staged.undo().await,
        _ => {}
    }
    let change = task.admit(staged).await.unwrap();
    match phase {
        4 => drop(change),
        _ => drop(change.settle().await.unwrap()),
    }
}

#[test]
fn a_commit_that_nobody_finishes_still_closes_what_was_removed() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &own).await.unwrap();
        let mut plan = Plan::new();
        plan.remove(disk);
        let after = task.commit(plan).await.unwrap();
        assert_eq!(after.removed(), ["disk"]);
        assert_eq!(own.count("close disk"), 0);
    });
    world.end();
    assert_eq!(script.count("close disk"), 1);
}

/// Whoever asked for a change may go at any moment: the change runs to its end.
#[test]
fn a_change_runs_to_its_end_whoever_waits_for_it() {
    for polls in 0..2 {
        let world = World::new(1);
        let script = Script::default();
        let own = script.clone();
        let disk = world
            .on_control(async move |task: &mut Task<'_>| insert_device(task, "disk", &own).await.unwrap());
        script.hold(Phase::Settle, "disk");
        let control = world.control.clone();
        world.spawn_io(1, "asks", async move |_| {
            let change = control.call(async move |task: &mut Task<'_>| {
                drop(attach_writer(task, disk, "user").await.unwrap());
            });
            assert!(abandon_after(polls, change).await.is_none());
        });
        world.sim.settle().unwrap();
        script.release(Phase::Settle, "disk");
        world.sim.settle().unwrap();
        let roots = world.on_control(async |task: &mut Task<'_>| task.gs().with(|graph| graph.roots().len()));
        assert_eq!(roots, usize::from(polls > 0), "a call that was never polled has asked for nothing");
        world.end();
    }
}

#[test]
fn a_change_that_is_given_up_while_it_drains_opens_the_gates() {
    let world = World::new(1);
    let script = Script::default();
    let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        (disk, attach_writer(task, disk, "user").await.unwrap())
    });
    let (inside, leave) = (Event::default(), Event::default());
    let (says, may_leave, user) = (inside.clone(), leave.clone(), backend.clone());
    world.spawn_io(1, "inside", async move |lane| {
        let ticket = lane.enter(&user).await;
        says.set();
        may_leave.wait().await;
        drop(ticket);
    });
    world.sim.run_until(|| inside.is_set()).unwrap();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.reopen(disk, Box::new(NewOptions::default()));
        assert!(abandon_after(1, task.apply(plan)).await.is_none());
        assert!(task.gs().with(|graph| graph.roots()).iter().all(|root| !root.closed));
    });
    world.on_io(async |lane: &mut Lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    leave.set();
    drop(backend);
    world.end();
}

#[test]
fn one_plan_cannot_bring_in_two_nodes_of_one_name() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (mut one, mut two) = (Opening::new(task), Opening::new(task));
        add_device(&mut one, "disk", &script).unwrap();
        add_device(&mut two, "disk", &script).unwrap();
        let mut plan = Plan::new();
        plan.insert(one);
        plan.insert(two);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::AlreadyExists);
        assert_eq!(script.take_log(), ["close disk", "close disk"]);
    });
}

#[test]
fn two_plans_cannot_bring_in_two_nodes_of_one_name() {
    let world = World::new(1);
    let script = Script::default();
    let first = script.clone();
    script.hold(Phase::Settle, "slow");
    world.control.spawn(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        add_device(&mut opening, "disk", &first).unwrap();
        add_device(&mut opening, "slow", &first).unwrap();
        let _ = insert(task, opening).await;
    });
    let second = script.clone();
    world.control.spawn(async move |task: &mut Task<'_>| {
        second.reached("settle slow").await;
        let mut opening = Opening::new(task);
        add_device(&mut opening, "disk", &second).unwrap();
        let error = insert(task, opening).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
    });
    world.sim.settle().unwrap();
    assert_eq!(script.count("stage disk"), 2);
    script.release(Phase::Settle, "slow");
    world.end();
    assert_eq!(
        (script.count("commit disk"), script.count("undo disk"), script.count("close disk")),
        (1, 1, 1)
    );
}

#[test]
fn a_node_goes_with_its_last_user_unless_somebody_owns_it() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let mut unowned = |name: &str, driver, children| {
            let mut new = node(name, driver, LEN, children);
            new.owned = false;
            opening.add(new).unwrap()
        };
        let filter = |name| Scripted::filter(name, &script);
        let bottom = unowned("bottom", Scripted::device("bottom", &script, instant_disk()), vec![]);
        let middle = unowned("middle", filter("middle"), vec![(ChildKey::File, Role::FILTER_CHILD, bottom)]);
        let top = unowned("top", filter("top"), vec![(ChildKey::File, Role::FILTER_CHILD, middle)]);
        let mut plan = Plan::new();
        plan.insert(opening);
        let spec = RootSpec { name: "user".to_owned(), grant: SHARING_READER, stays: false };
        let backend: Backend<ReadWrite> = plan.attach_root(task.gs(), top, spec);
        task.apply(plan).await.unwrap();
        assert_eq!(task.gs().with(|graph| graph.nodes().len()), 3);
        script.take_log();
        detach(task, &backend).await.unwrap();
        assert_eq!(task.gs().with(|graph| graph.nodes().len()), 0);
        assert_eq!(script.log().iter().filter(|line| line.starts_with("close")).count(), 3);
        assert_eq!(task.gs().find("bottom").unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn what_comes_and_goes_in_one_plan_is_closed() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "disk", &script).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.remove(disk);
        task.apply(plan).await.unwrap();
        assert_eq!(script.count("close disk"), 1);
        assert!(task.gs().find("disk").is_err());
    });
}

#[test]
fn a_frozen_edge_stays_until_it_is_thawed_as_often_as_it_was_frozen() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (top, base) = insert_pair(task, ("top", "base"), &script).await.unwrap();
        let other = insert_device(task, "other", &script).await.unwrap();
        let freeze = async |task: &mut Task<'_>, by: i32| {
            let mut plan = Plan::new();
            match by {
                1 => plan.freeze(top, ChildKey::File, "job 'j'"),
                _ => plan.thaw(top, ChildKey::File, "job 'j'"),
            }
            task.apply(plan).await
        };
        freeze(task, 1).await.unwrap();
        freeze(task, 1).await.unwrap();
        freeze(task, -1).await.unwrap();
        let mut move_it = Plan::new();
        move_it.set_child(top, ChildKey::File, other, Role::FILTER_CHILD);
        let mut cut_it = Plan::new();
        cut_it.remove_child(top, ChildKey::File);
        let mut replace_it = Plan::new();
        replace_it.replace(base, other);
        for plan in [move_it, cut_it, replace_it] {
            let error = task.apply(plan).await.unwrap_err();
            assert_eq!((error.kind(), error.node()), (Kind::InUse, Some("top")));
            assert!(error.report().contains("job 'j'"), "{}", error.report());
        }
        assert_eq!(remove(task, top).await.unwrap_err().kind(), Kind::InUse, "its edge would go, too");
        freeze(task, -1).await.unwrap();
        assert_eq!(freeze(task, -1).await.unwrap_err().kind(), Kind::InvalidInput);
        let mut plan = Plan::new();
        plan.set_child(top, ChildKey::File, other, Role::FILTER_CHILD);
        plan.remove(base);
        task.apply(plan).await.unwrap();
    });
}

#[test]
fn roots_that_stay_are_not_moved_by_a_replacement() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let base = insert_device(task, "base", &script).await.unwrap();
        let mut plan = Plan::new();
        for (name, stays) in [("job", true), ("guest", false)] {
            let spec = RootSpec { name: name.to_owned(), grant: SHARING_READER, stays };
            drop(plan.attach_root::<ReadWrite>(task.gs(), base, spec));
        }
        task.apply(plan).await.unwrap();
        let mut opening = Opening::new(task);
        let top = add_filter(&mut opening, "top", &script, base).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(base, top);
        task.apply(plan).await.unwrap();
        let nodes: Vec<_> = task.gs().with(|graph| graph.roots()).iter().map(|root| root.node).collect();
        assert_eq!(nodes, [Some(base), Some(top)]);
    });
}

#[test]
fn a_root_beside_another_shares_its_gate_and_nothing_else() {
    let world = World::new(1);
    let script = Script::default();
    let (one, two, disk) = world.on_control(async move |task: &mut Task<'_>| {
        let first = insert_device(task, "first", &script).await.unwrap();
        let second = insert_device(task, "second", &script).await.unwrap();
        let one = attach_writer(task, first, "job").await.unwrap();
        let mut plan = Plan::new();
        let spec = RootSpec { name: "job's target".to_owned(), grant: Grant::WRITER, stays: true };
        let two: Backend<ReadWrite> = plan.attach_root_beside(task.gs(), second, spec, &one);
        (one, task.apply(plan).await.map(|()| two).unwrap(), second)
    });
    world.on_io(async |lane| {
        fill(lane, &one, at(0, 512), 1).await.unwrap();
        fill(lane, &two, at(0, 512), 2).await.unwrap();
        assert_eq!(load(lane, &one, at(0, 1)).await.unwrap(), [1]);
    });
    let (begun, end) = (Event::default(), Event::default());
    let (says, may_end) = (begun.clone(), end.clone());
    world.control.spawn(async move |task: &mut Task<'_>| {
        let quiet = task.drain(&[disk]).await;
        says.set();
        may_end.wait().await;
        drop(quiet);
    });
    world.sim.run_until(|| begun.is_set()).unwrap();
    world.spawn_io(1, "waits", async move |lane| fill(lane, &one, at(0, 512), 1).await.unwrap());
    world.sim.settle().unwrap();
    assert!(world.sim.pending().iter().any(|task| task.name == "waits"), "one gate for all of the job");
    end.set();
    world.end();
}

/// Its gate is open for the job's other roots, so a root that is not in the graph yet can be entered; it has no node then.
#[test]
fn a_root_beside_another_has_no_node_before_its_plan_is_committed() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (one, second) = world.on_control(async move |task: &mut Task<'_>| {
        let first = insert_device(task, "first", &own).await.unwrap();
        let second = insert_device(task, "second", &own).await.unwrap();
        (attach_writer(task, first, "job").await.unwrap(), second)
    });
    script.hold(Phase::Settle, "second");
    let (sender, receiver) = std::sync::mpsc::channel();
    world.control.spawn(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        let spec = RootSpec { name: "target".to_owned(), grant: Grant::WRITER, stays: true };
        let two: Backend<ReadWrite> = plan.attach_root_beside(task.gs(), second, spec, &one);
        sender.send(two).unwrap();
        task.apply(plan).await.unwrap();
    });
    world.sim.settle().unwrap();
    let two = receiver.recv().unwrap();
    let early = world.on_io(async |lane| fill(lane, &two, at(0, 512), 1).await);
    assert_eq!(early.unwrap_err().kind(), Kind::NotFound);
    script.release(Phase::Settle, "second");
    world.sim.settle().unwrap();
    world.on_io(async |lane| fill(lane, &two, at(0, 512), 1).await.unwrap());
    drop(two);
    world.end();
}

/// Puts a filter on each of several disks, by one plan.
async fn cover_all(task: &mut Task<'_>, script: &Script, disks: &[NodeId]) -> Result<()> {
    let mut opening = Opening::new(task);
    let mut plan = Plan::new();
    let mut filters = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        filters.push((*disk, add_filter(&mut opening, &format!("cover{index}"), script, *disk)?));
    }
    plan.insert(opening);
    filters.into_iter().for_each(|(disk, filter)| plan.replace(disk, filter));
    task.apply(plan).await
}

#[test]
fn a_plan_over_several_disks_under_load_happens_to_all_of_them_or_none() {
    let world = World::new(1);
    let (script, done) = (Script::default(), Event::default());
    let own = script.clone();
    let (disks, backends) = world.on_control(async move |task: &mut Task<'_>| {
        let (mut disks, mut backends) = (Vec::new(), Vec::new());
        for name in ["a", "b", "c"] {
            disks.push(insert_device(task, name, &own).await.unwrap());
            backends.push(attach_writer(task, disks[disks.len() - 1], name).await.unwrap());
        }
        (disks, backends)
    });
    for (thread, backend) in [1, 2, 1].into_iter().zip(backends) {
        let done = done.clone();
        world.spawn_io(thread, "writes", async move |lane| {
            let mut byte = 0_u8;
            while !done.is_set() {
                byte = byte.wrapping_add(1);
                fill(lane, &backend, at(0, 512), byte).await.unwrap();
                assert!(load(lane, &backend, at(0, 512)).await.unwrap().iter().all(|found| *found == byte));
            }
        });
    }
    world.on_control(async move |task: &mut Task<'_>| {
        let picture = |task: &Task<'_>| task.gs().with(picture);
        let before = picture(task);
        for phase in [Phase::Stage, Phase::Settle] {
            for failing in ["a", "b", "c", "cover0", "cover1", "cover2"] {
                script.fail(phase, failing);
                let error = cover_all(task, &script, &disks).await.unwrap_err();
                script.mend();
                assert_eq!(error.node(), Some(failing), "{phase:?}");
                assert_eq!(picture(task), before, "{phase:?} of {failing}");
            }
        }
        cover_all(task, &script, &disks).await.unwrap();
        let heads = picture(task).1.into_iter().map(|root| root.node.unwrap());
        assert!(heads.zip(disks).all(|(head, disk)| head != disk), "all of them");
        done.set();
    });
    world.end();
}
