//! Permissions: who may share a node, what a node asks of its children, and what is refused with which words.

use drystone_base::{Error, Kind};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role, default_grant};

use crate::fixture::{LEN, node};
use crate::scripted::{Phase, Script, Scripted};
use crate::world::{
    SHARING_READER, SHARING_WRITER, World, add_device, add_filter, at, attach, attach_reader, attach_writer,
    detach, fill, insert, insert_device, insert_pair, load, read_only_device, remove,
};

const WRITE_RESIZE: Perm = Perm::WRITE.with(Perm::RESIZE);
/// Reads and writes, and lets nobody do anything.
const ALONE: Grant = Grant { perm: Perm::CONSISTENT_READ.with(Perm::WRITE), shared: Perm::NONE };

fn passing(parent: ParentState) -> Grant {
    parent.users
}

/// A filter that wants more than its users do, as soon as it has any: it writes, and lets nobody else.
fn greedy(_parent: ParentState) -> Grant {
    Grant { perm: Perm::WRITE, shared: Perm::CONSISTENT_READ }
}

/// Two exclusive writers do not get on one node because a filter is put in between; the graph stays as it was.
#[test]
fn a_filter_that_would_make_a_second_writer_is_refused() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let writes = Grant { perm: Perm::WRITE, shared: Perm::ALL.without(Perm::WRITE) };
        attach::<ReadWrite>(task, disk, "writer", writes).await.unwrap();
        let mut opening = Opening::new(task);
        let filter = Scripted::filter("filter", &script).granting(greedy);
        let children = vec![(ChildKey::File, Role::FILTER_CHILD, disk)];
        let filter = opening.add(node("filter", filter, LEN, children)).unwrap();
        let before = task.gs().with(|graph| (graph.nodes(), graph.roots(), graph.parents_of(disk)));
        let mut plan = Plan::new();
        plan.insert(opening);
        let spec = RootSpec { name: "second".to_owned(), grant: SHARING_READER, stays: false };
        drop(plan.attach_root::<ReadOnly>(task.gs(), filter, spec));
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::InUse);
        assert_eq!(task.gs().with(|graph| (graph.nodes(), graph.roots(), graph.parents_of(disk))), before);
        assert_eq!(script.count("close filter"), 1);
    });
}

/// An edge from below the new node stays, or it would make a loop.
#[test]
fn a_replacement_keeps_the_edges_that_the_new_node_stands_on() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = add_device(&mut opening, "base", &script).unwrap();
        let middle = add_filter(&mut opening, "middle", &script, base).unwrap();
        insert(task, opening).await.unwrap();
        attach_reader(task, base, "user").await.unwrap();
        let mut opening = Opening::new(task);
        let file = add_filter(&mut opening, "file", &script, middle).unwrap();
        let top = add_filter(&mut opening, "top", &script, file).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(base, top);
        task.apply(plan).await.unwrap();
        task.gs().with(|graph| {
            assert_eq!(graph.parents_of(base), ["middle"]);
            assert_eq!(graph.parents_of(top), ["user"]);
            assert_eq!(graph.node(base).unwrap().users, Grant::READER);
        });
    });
}

/// A driver with two children on one base writes exclusively through the one that is chosen; the choice moves. With any
/// order but "all parents first", the base would be checked with both of them writing.
#[test]
fn an_exclusive_writer_moves_between_two_ways_to_one_base() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = add_device(&mut opening, "base", &script).unwrap();
        let left = add_filter(&mut opening, "left", &script, base).unwrap();
        let right = add_filter(&mut opening, "right", &script, base).unwrap();
        let children = vec![(ChildKey::File, Role::DATA, left), (ChildKey::DataFile, Role::METADATA, right)];
        let top = Scripted::filter("top", &script).granting(passing);
        let top = opening.add(node("top", top, LEN, children)).unwrap();
        insert(task, opening).await.unwrap();
        let alone = Grant { perm: Perm::WRITE, shared: Perm::ALL.without(Perm::WRITE) };
        let writer: Backend<ReadWrite> = attach(task, left, "writer", alone).await.unwrap();
        for _ in 0..3 {
            for target in [right, left] {
                let mut plan = Plan::new();
                plan.move_root(writer.id(), target);
                task.apply(plan).await.unwrap();
                let users = task.gs().with(|graph| graph.node(base)).unwrap().users;
                assert_eq!(users, alone);
            }
        }
        assert_eq!(attach::<ReadWrite>(task, top, "other", alone).await.unwrap_err().kind(), Kind::InUse);
    });
}

#[test]
fn a_filter_is_exchanged_under_an_exclusive_writer() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let (old, base) = insert_pair(task, ("old", "base"), &script).await.unwrap();
        let backend: Backend<ReadWrite> = attach(task, old, "guest", ALONE).await.unwrap();
        let mut opening = Opening::new(task);
        let new = add_filter(&mut opening, "new", &script, base).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(old, new);
        plan.remove(old);
        task.apply(plan).await.unwrap();
        assert_eq!(task.gs().with(|graph| graph.node(base)).unwrap().users, ALONE);
        backend
    });
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
}

/// What counts is the graph that results, not the steps on the way there.
#[test]
fn a_greedy_filter_gets_under_its_user_in_one_step() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let reads = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::CONSISTENT_READ };
        attach::<ReadOnly>(task, disk, "user", reads).await.unwrap();
        let mut opening = Opening::new(task);
        let filter = Scripted::filter("filter", &script).granting(greedy);
        let children = vec![(ChildKey::File, Role::FILTER_CHILD, disk)];
        let filter = opening.add(node("filter", filter, LEN, children)).unwrap();
        let mut alone = Plan::new();
        alone.insert(opening);
        alone.replace(disk, filter);
        task.apply(alone).await.unwrap();
        let users = task.gs().with(|graph| graph.node(disk)).unwrap().users;
        assert_eq!(users, greedy(ParentState { users, writable: true, active: true }));
    });
}

#[test]
fn a_conflict_names_the_node_both_users_and_the_permission() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (top, base) = insert_pair(task, ("top", "base"), &script).await.unwrap();
        attach_writer(task, top, "guest").await.unwrap();
        let text = |result: drystone_base::Result<Backend<ReadWrite>>| result.unwrap_err().to_string();
        assert_eq!(
            text(attach(task, base, "backup", SHARING_WRITER).await),
            "node 'base': 'backup' needs permission 'write', but node 'top' (child 'file') does not share it"
        );
        let grows = Grant { perm: Perm::RESIZE, shared: Perm::ALL };
        assert_eq!(
            text(attach(task, top, "grower", grows).await),
            "node 'top': 'grower' needs permission 'resize', but 'guest' does not share it"
        );
        assert_eq!(
            remove(task, base).await.unwrap_err().to_string(),
            "node 'base': the node is in use by node 'top' (child 'file')"
        );
        assert_eq!(
            remove(task, top).await.unwrap_err().to_string(),
            "node 'top': the node is in use by 'guest'"
        );
    });
}

/// The table of roles, row by row, as a graph shows it.
#[test]
fn a_node_asks_of_its_children_what_their_roles_say() {
    let read = Perm::CONSISTENT_READ;
    let state = |users, writable, active| ParentState { users, writable, active };
    let grant = |role, users| default_grant(role, state(users, true, true));
    let writer = Grant::WRITER;
    assert_eq!(grant(Role::FILTERED, writer), writer);
    assert_eq!(grant(Role::COW, writer), Grant { perm: read, shared: read.with(Perm::WRITE_UNCHANGED) });
    assert_eq!(grant(Role::COW, Grant::PASSIVE), Grant { perm: Perm::NONE, shared: Perm::ALL });
    let rest = writer.shared.without(WRITE_RESIZE);
    assert_eq!(grant(Role::METADATA, writer), Grant { perm: read.with(WRITE_RESIZE), shared: rest });
    assert_eq!(
        grant(Role::METADATA, Grant::PASSIVE),
        Grant { perm: read.with(WRITE_RESIZE), shared: Perm::ALL.without(WRITE_RESIZE) }
    );
    assert_eq!(grant(Role::DATA, writer), Grant { perm: writer.perm.with(WRITE_RESIZE), shared: rest });
    let unchanged = Grant { perm: Perm::WRITE_UNCHANGED, shared: Perm::ALL };
    assert_eq!(grant(Role::DATA, unchanged).perm, Perm::WRITE_UNCHANGED.with(WRITE_RESIZE));
    assert_eq!(grant(Role::DATA, unchanged).shared, Perm::ALL.without(Perm::RESIZE));
    let reader = Grant { perm: read, shared: Perm::ALL };
    assert_eq!(
        default_grant(Role::METADATA, state(reader, false, true)).perm,
        read,
        "a read-only format only reads"
    );
    for role in [Role::METADATA, Role::DATA, Role::IMAGE, Role::COW] {
        assert!(
            default_grant(role, state(Grant::WRITER, true, false)).shared.has(WRITE_RESIZE),
            "inactive: {role:?}"
        );
    }
}

#[test]
fn impossible_roles_are_refused() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let base = insert_device(task, "base", &script).await.unwrap();
        let two = |one, other| vec![(ChildKey::File, one, base), (ChildKey::Backing, other, base)];
        let impossible = [
            (vec![(ChildKey::File, Role::PRIMARY, base)], "none of the roles"),
            (vec![(ChildKey::File, Role::FILTERED.with(Role::DATA), base)], "filtered child stores neither"),
            (vec![(ChildKey::File, Role::COW.with(Role::PRIMARY), base)], "backing image has no other role"),
            (two(Role::FILTERED, Role::FILTERED), "two children with role filtered"),
            (two(Role::COW, Role::COW), "two children with role cow"),
            (two(Role::IMAGE, Role::FILTER_CHILD), "two children with role primary"),
        ];
        for (children, words) in impossible {
            let mut opening = Opening::new(task);
            opening.add(node("top", Scripted::filter("top", &script), LEN, children)).unwrap();
            let error = insert(task, opening).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput);
            assert!(error.to_string().contains(words), "{error}");
        }
        let mut opening = Opening::new(task);
        let twice = vec![(ChildKey::File, Role::DATA, base), (ChildKey::File, Role::METADATA, base)];
        let error = opening.add(node("top", Scripted::filter("top", &script), LEN, twice)).unwrap_err();
        assert!(error.to_string().contains("two children 'file'"), "{error}");
    });
}

#[test]
fn a_read_only_node_has_readers_only() {
    let world = World::new(1);
    let script = Script::default();
    let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, disk, "guest").await.unwrap();
        let mut plan = Plan::new();
        plan.set_read_only(disk, true);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::ReadOnly, "it has a writer");
        let mut plan = Plan::new();
        plan.set_grant(backend.id(), SHARING_READER);
        plan.set_read_only(disk, true);
        task.apply(plan).await.unwrap();
        let error = attach_writer(task, disk, "other").await.unwrap_err();
        assert_eq!(error.to_string(), "node 'disk': the node is read-only");
        (disk, backend)
    });
    world.on_io(async |lane| {
        assert_eq!(fill(lane, &backend, at(0, 512), 1).await.unwrap_err().kind(), Kind::ReadOnly);
        load(lane, &backend, at(0, 512)).await.unwrap();
        lane.enter(&backend).await.flush().await.unwrap();
    });
    let root = backend.id();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.set_read_only(disk, false);
        plan.set_grant(root, Grant::WRITER);
        task.apply(plan).await.unwrap();
    });
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
}

#[test]
fn a_node_that_is_shared_by_force_is_read_only_and_shares_everything() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let mut writable = node("disk", Scripted::filter("disk", &script), LEN, vec![]);
        writable.force_share = true;
        let error = opening.add(writable).unwrap_err();
        assert_eq!((error.option(), error.kind()), (Some("force-share"), Kind::InvalidInput));
        let mut forced = read_only_device("disk", &script);
        forced.force_share = true;
        let disk = opening.add(forced).unwrap();
        let top = add_filter(&mut opening, "top", &script, disk).unwrap();
        insert(task, opening).await.unwrap();
        let alone = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::NONE };
        for (node, name) in [(disk, "one"), (disk, "two"), (top, "three")] {
            attach::<ReadOnly>(task, node, name, alone).await.unwrap();
        }
        assert_eq!(script.mode("disk").unwrap().users, SHARING_READER, "image locks keep nobody out");
        assert_eq!(attach::<ReadOnly>(task, top, "four", alone).await.unwrap_err().kind(), Kind::InUse);
        let mut plan = Plan::new();
        plan.set_read_only(disk, false);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::InvalidInput);
    });
}

#[test]
fn an_inactive_node_is_read_and_no_more() {
    let world = World::new(1);
    let script = Script::default();
    let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, disk, "guest").await.unwrap();
        let mut plan = Plan::new();
        plan.set_active(disk, false);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::ReadOnly, "it has a writer");
        let mut plan = Plan::new();
        plan.set_active(disk, false);
        plan.set_grant(backend.id(), SHARING_READER);
        task.apply(plan).await.unwrap();
        assert_eq!(attach_writer(task, disk, "other").await.unwrap_err().kind(), Kind::ReadOnly);
        (disk, backend)
    });
    world.on_io(async |lane| {
        load(lane, &backend, at(0, 512)).await.unwrap();
        assert_eq!(fill(lane, &backend, at(0, 512), 1).await.unwrap_err().kind(), Kind::ReadOnly);
    });
    let root = backend.id();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.set_active(disk, true);
        plan.set_grant(root, Grant::WRITER);
        task.apply(plan).await.unwrap();
    });
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
}

#[test]
fn activity_goes_down_the_chain_and_inactivity_up() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let file = add_device(&mut opening, "file", &script).unwrap();
        let children = vec![(ChildKey::File, Role::IMAGE, file)];
        let image = opening.add(node("image", Scripted::filter("image", &script), LEN, children)).unwrap();
        insert(task, opening).await.unwrap();
        let set = async |task: &mut Task<'_>, nodes: &[_], active: bool| {
            let mut plan = Plan::new();
            nodes.iter().for_each(|node| plan.set_active(*node, active));
            task.apply(plan).await
        };
        let error: Error = set(task, &[file], false).await.unwrap_err();
        assert!(error.kind() == Kind::ReadOnly || error.kind() == Kind::InvalidInput, "{error}");
        set(task, &[image], false).await.unwrap();
        assert_eq!(script.mode("file").unwrap().users.shared, Perm::ALL, "others may write to the file now");
        set(task, &[file], false).await.unwrap();
        assert!(set(task, &[image], true).await.is_err(), "its file is inactive");
        set(task, &[image, file], true).await.unwrap();
        assert_eq!(script.mode("file").unwrap().users.perm, Perm::CONSISTENT_READ.with(WRITE_RESIZE));
        // Neither is news.
        set(task, &[image, file], true).await.unwrap();
        // An active overlay does not get on an inactive base.
        set(task, &[image], false).await.unwrap();
        let mut opening = Opening::new(task);
        add_filter(&mut opening, "top", &script, image).unwrap();
        assert_eq!(insert(task, opening).await.unwrap_err().kind(), Kind::InvalidInput);
    });
}

/// What image locks would follow: a user that comes adds to what is locked, one that is refused changes nothing, a
/// preparation that fails leaves it as it was, and the node that goes gives it up.
#[test]
fn a_driver_hears_of_every_change_of_its_users_and_of_no_other() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let users = || script.mode("disk").unwrap().users;
        let first = attach::<ReadOnly>(task, disk, "first", Grant::READER).await.unwrap();
        assert_eq!(users(), Grant::READER);
        let second = attach::<ReadOnly>(task, disk, "second", SHARING_READER).await.unwrap();
        assert_eq!(users(), Grant::READER, "compatible, and no less strict");
        assert!(attach_writer(task, disk, "third").await.is_err());
        assert_eq!(users(), Grant::READER);
        script.fail(Phase::Stage, "disk");
        assert!(detach(task, &first).await.is_err());
        assert_eq!(users(), Grant::READER);
        script.mend();
        detach(task, &first).await.unwrap();
        assert_eq!(users(), SHARING_READER);
        detach(task, &second).await.unwrap();
        assert_eq!(users(), Grant::PASSIVE);
        remove(task, disk).await.unwrap();
        assert_eq!(script.log().last().map(String::as_str), Some("close disk"));
    });
}

#[test]
fn a_driver_can_refuse_its_users() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let only_reads = |mode: drystone_core::driver::NodeMode| match mode.users.perm.writes() {
            true => Err(Error::new(Kind::Unsupported, "the format cannot be written")),
            false => Ok(()),
        };
        let mut opening = Opening::new(task);
        let driver = Scripted::device("disk", &script, crate::world::instant_disk()).checking(only_reads);
        let disk = opening.add(node("disk", driver, LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        attach::<ReadOnly>(task, disk, "reader", SHARING_READER).await.unwrap();
        let error = attach_writer(task, disk, "writer").await.unwrap_err();
        assert_eq!(error.to_string(), "node 'disk': the format cannot be written");
    });
}
