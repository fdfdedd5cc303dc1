//! Stories 34 to 42: permissions, locks and reopening.

use drystone_base::{Error, Kind};
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::driver::NodeFacts;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk};

use crate::fixture::{LEN, node};
use crate::scripted::{NewOptions, Phase, Script, Scripted};
use crate::world::{
    SHARING_READER, World, add_device, add_filter, at, attach, attach_reader, attach_writer, detach, fill,
    insert, insert_device, insert_pair,
};

/// 34: two parents of one child changed at once, and the child was checked against the new state of one and the old state
/// of the other.
#[test]
fn g34_a_diamond_is_checked_with_all_its_new_parents() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = add_device(&mut opening, "base", &script).unwrap();
        let left = add_filter(&mut opening, "left", &script, base).unwrap();
        let right = add_filter(&mut opening, "right", &script, base).unwrap();
        insert(task, opening).await.unwrap();
        let writer = attach_writer(task, left, "writer").await.unwrap();
        let users = task.gs().with(|graph| graph.node(base)).unwrap().users;
        for target in [right, left, right] {
            let mut plan = Plan::new();
            plan.move_root(writer.id(), target);
            task.apply(plan).await.unwrap();
            assert_eq!(task.gs().with(|graph| graph.node(base)).unwrap().users, users);
        }
        // And what must be refused still is: the base has one exclusive writer, whichever way it comes.
        assert_eq!(attach_writer(task, left, "second").await.unwrap_err().kind(), Kind::InUse);
    });
}

/// 35: when a node was replaced, the permissions that its users had on the old one still counted.
#[test]
fn g35_replacing_a_node_forgets_the_permissions_of_the_old_one() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (old, base) = insert_pair(task, ("old", "base"), &script).await.unwrap();
        attach_writer(task, old, "exclusive").await.unwrap();
        let mut opening = Opening::new(task);
        let new = add_filter(&mut opening, "new", &script, base).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(old, new);
        task.apply(plan).await.unwrap();
        let old = task.gs().with(|graph| graph.node(old)).unwrap();
        assert_eq!(old.users, Grant::PASSIVE);
    });
}

/// 36: a filter shared everything with everybody, under a guest that forbade other writers.
#[test]
fn g36_a_filter_forbids_what_its_user_forbids() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (top, base) = insert_pair(task, ("filter", "base"), &script).await.unwrap();
        attach_writer(task, top, "guest").await.unwrap();
        let error = attach_writer(task, base, "other").await.unwrap_err();
        assert_eq!(error.kind(), Kind::InUse);
        assert_eq!(error.node(), Some("base"));
    });
}

/// 37: a user that may write but not resize, on an image whose length is no multiple of its alignment, hit an assertion in
/// the write path. Here it is refused.
#[test]
fn g37_a_writer_of_an_odd_length_needs_to_resize() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let options = DiskOptions { align_bytes: 512, ..DiskOptions::seeded(1) };
        let disk = SimDisk::new(Image::new(1000), options);
        let mut opening = Opening::new(task);
        let mut new = node("disk", Scripted::device("disk", &script, disk), 1000, vec![]);
        new.facts = NodeFacts { len: 1000, request_alignment: 512, read_only: false };
        let disk = opening.add(new).unwrap();
        insert(task, opening).await.unwrap();
        let reader = attach_reader(task, disk, "reader").await.unwrap();
        detach(task, &reader).await.unwrap();
        let error = attach_writer(task, disk, "writer").await.unwrap_err();
        assert!(error.to_string().contains("'resize'"), "{error}");
        let grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), ..Grant::WRITER };
        attach::<drystone_core::backend::ReadWrite>(task, disk, "writer", grant).await.unwrap();
    });
}

/// 38: a stream on a node with a user in conflict ended the process.
#[test]
fn g38_a_user_in_conflict_is_an_error_and_no_more() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, disk, "guest").await.unwrap();
        let error = attach_writer(task, disk, "stream").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "node 'disk': 'stream' needs permission 'write', but 'guest' does not share it"
        );
        backend
    });
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
}

/// 39: the mask of what is shared was passed the wrong way round to the code that locks files. Here a driver gets one value
/// that says both, and what it gets is what the users said.
#[test]
fn g39_a_driver_is_told_what_is_wanted_and_what_is_shared() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        assert_eq!(script.mode("disk").unwrap().users, Grant::PASSIVE);
        let writer = attach_writer(task, disk, "writer").await.unwrap();
        assert_eq!(script.mode("disk").unwrap().users, Grant::WRITER);
        detach(task, &writer).await.unwrap();
        let reader = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL.without(Perm::RESIZE) };
        for grant in [reader, SHARING_READER] {
            attach::<drystone_core::backend::ReadOnly>(task, disk, "reader", grant).await.unwrap();
        }
        assert_eq!(script.mode("disk").unwrap().users, reader, "what all share is what each of them shares");
    });
}

/// 40: reopening a parent and its child checked the child's permissions twice, the first time before it was prepared.
#[test]
fn g40_each_driver_prepares_once_per_change() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (top, base) = insert_pair(task, ("top", "base"), &script).await.unwrap();
        attach_reader(task, top, "reader").await.unwrap();
        script.take_log();
        let mut plan = Plan::new();
        plan.set_read_only(top, true);
        plan.set_read_only(base, true);
        plan.reopen(base, Box::new(NewOptions::default()));
        task.apply(plan).await.unwrap();
        assert_eq!(
            script.take_log(),
            [
                "stage top",
                "stage base",
                "store top",
                "store base",
                "settle top",
                "settle base",
                "commit base",
                "commit top"
            ]
        );
        assert!(script.mode("base").unwrap().read_only);
    });
}

/// 41: a switch to O_DIRECT by reopening kept the old alignment of 1, and requests that were not aligned failed.
#[test]
fn g41_a_new_alignment_holds_from_the_next_request() {
    let world = World::new(1);
    let script = Script::default();
    let disk = SimDisk::zeroed(LEN, 1);
    let device = disk.clone();
    let (id, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let id = opening.add(node("disk", Scripted::device("disk", &script, device), LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        (id, attach_writer(task, id, "client").await.unwrap())
    });
    world.on_io(async |lane| fill(lane, &backend, at(100, 100), 1).await.unwrap());
    assert!(disk.trace().iter().any(|op| !op.range.is_aligned(4096)));
    disk.clear_trace();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.reopen(id, Box::new(NewOptions { request_alignment: Some(4096), len: None }));
        task.apply(plan).await.unwrap();
    });
    world.on_io(async |lane| fill(lane, &backend, at(100, 100), 2).await.unwrap());
    assert!(disk.trace().iter().all(|op| op.range.is_aligned(4096)), "{:?}", disk.trace());
}

/// 42: the last flush was part of the preparation, when the node had moved on already. Here it is a step between the drain
/// and the commit, and if it fails, nothing has happened.
#[test]
fn g42_the_last_flush_is_a_step_of_its_own() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (id, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let id = insert_device(task, "disk", &own).await.unwrap();
        (id, attach_writer(task, id, "client").await.unwrap())
    });
    script.take_log();
    script.fail(Phase::Store, "disk");
    let (own, root) = (script.clone(), backend.id());
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.detach_root(root);
        plan.remove(id);
        let error: Error = task.apply(plan).await.unwrap_err();
        assert_eq!(error.node(), Some("disk"));
        assert_eq!(own.take_log(), ["store disk"]);
    });
    script.mend();
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.detach_root(root);
        plan.remove(id);
        task.apply(plan).await.unwrap();
    });
    assert_eq!(script.take_log(), ["store disk", "close disk"]);
}
