//! Stories 22 to 33: the graph changed under somebody who looked at it.

use drystone_base::Kind;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_testkit::disk::{OpFilter, OpKind, SimDisk};

use crate::fixture::{Device, LEN, node, overlay};
use crate::scripted::{Phase, Script, Scripted};
use crate::world::{
    World, add_device, at, attach, attach_reader, attach_writer, detach, disk_of, fill, insert,
    insert_device, insert_pair, load, remove,
};

/// 22: a commit began with requests in flight on the chain, and replacing a node found them.
#[test]
fn g22_a_layer_leaves_the_chain_under_io() {
    for seed in 0..100 {
        let world = World::new(seed);
        let (backend, nodes) = world.on_control(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let base = opening.add(node("base", Device(disk_of(3, seed)), LEN, vec![])).unwrap();
            let middle = overlay(&mut opening, "middle", SimDisk::zeroed(LEN, seed), Some(base)).unwrap();
            let top = overlay(&mut opening, "top", SimDisk::zeroed(LEN, seed + 1), Some(middle)).unwrap();
            insert(task, opening).await.unwrap();
            (attach_writer(task, top, "client").await.unwrap(), [top, middle, base])
        });
        let user = backend.clone();
        world.spawn_io(1, "client", async move |lane| {
            for round in 0..16_u8 {
                fill(lane, &user, at(u64::from(round) * 8192, 512), round).await.unwrap();
                assert_eq!(
                    load(lane, &user, at(u64::from(round) * 8192 + 4096, 512)).await.unwrap(),
                    [3; 512]
                );
            }
        });
        world.on_control(async move |task: &mut Task<'_>| {
            let [top, middle, base] = nodes;
            let mut plan = Plan::new();
            plan.set_child(top, ChildKey::Backing, base, Role::COW);
            plan.remove(middle);
            task.apply(plan).await.unwrap();
            assert!(task.gs().find("middle").is_err());
        });
        drop(backend);
        world.end();
    }
}

/// 23: a backing image was set without a drain, and a read in flight used the node that it replaced.
#[test]
fn g23_a_new_backing_image_arrives_under_reads() {
    for seed in 0..100 {
        let world = World::new(seed);
        let (backend, [top, other]) = world.on_control(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let base = opening.add(node("base", Device(disk_of(1, seed)), LEN, vec![])).unwrap();
            let other = opening.add(node("other", Device(disk_of(2, seed)), LEN, vec![])).unwrap();
            let top = overlay(&mut opening, "top", SimDisk::zeroed(LEN, seed), Some(base)).unwrap();
            insert(task, opening).await.unwrap();
            (attach_reader(task, top, "client").await.unwrap(), [top, other])
        });
        let user = backend.clone();
        world.spawn_io(2, "reads", async move |lane| {
            let mut last = 1;
            for _ in 0..20 {
                let bytes = load(lane, &user, at(0, 3 * 4096)).await.unwrap();
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a read of two images at once");
                assert!(bytes[0] >= last);
                last = bytes[0];
            }
        });
        world.on_control(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.set_child(top, ChildKey::Backing, other, Role::COW);
            let base = task.gs().find("base").unwrap();
            plan.remove(base);
            task.apply(plan).await.unwrap();
        });
        assert_eq!(world.on_io(async |lane| load(lane, &backend, at(0, 512)).await.unwrap()), [2; 512]);
        drop(backend);
        world.end();
    }
}

/// 27: a pointer to a backend's root node was kept across a drain, while the filter that it pointed to went away.
#[test]
fn g27_a_backend_outlives_the_filter_it_was_attached_to() {
    for seed in 0..100 {
        let world = World::new(seed);
        let script = Script::default();
        let own = script.clone();
        let (backend, [filter, disk]) = world.on_control(async move |task: &mut Task<'_>| {
            let (filter, disk) = insert_pair(task, ("filter", "disk"), &own).await.unwrap();
            (attach_writer(task, filter, "client").await.unwrap(), [filter, disk])
        });
        let user = backend.clone();
        world.spawn_io(1, "client", async move |lane| {
            for round in 0..20 {
                fill(lane, &user, at(0, 512), round).await.unwrap();
                assert_eq!(load(lane, &user, at(0, 512)).await.unwrap(), [round; 512]);
            }
        });
        world.on_control(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.replace(filter, disk);
            plan.remove(filter);
            task.apply(plan).await.unwrap();
        });
        drop(backend);
        world.end();
        assert_eq!((script.count("close filter"), script.count("close disk")), (1, 0));
    }
}

/// 28: flushing all disks found its place again after each wait by asking the backend for its node, which was another one
/// by then. Here whoever goes over all disks keeps their backends, and hears of the ones that went.
#[test]
fn g28_all_disks_are_flushed_while_some_of_them_go() {
    for seed in 0..50 {
        let world = World::new(seed);
        let script = Script::default();
        let backends: Vec<Backend<ReadWrite>> = world.on_control(async move |task: &mut Task<'_>| {
            let mut backends = Vec::new();
            for index in 0..6 {
                let name = format!("disk{index}");
                let disk = insert_device(task, &name, &script).await.unwrap();
                backends.push(attach_writer(task, disk, &name).await.unwrap());
            }
            backends
        });
        let going: Vec<_> = backends.iter().map(|backend| backend.id()).skip(3).collect();
        world.spawn_io(1, "flushes all", async move |lane| {
            for _ in 0..4 {
                for (index, backend) in backends.iter().enumerate() {
                    let result = lane.enter(backend).await.flush().await;
                    assert!(result.is_ok() || (index >= 3 && result.unwrap_err().kind() == Kind::NotFound));
                }
            }
        });
        world.on_control(async move |task: &mut Task<'_>| {
            for (index, root) in going.into_iter().enumerate() {
                let mut plan = Plan::new();
                plan.detach_root(root);
                task.apply(plan).await.unwrap();
                let disk = task.gs().find(&format!("disk{}", index + 3)).unwrap();
                remove(task, disk).await.unwrap();
            }
        });
        world.end();
    }
}

/// 29: a drive was deleted while a flush of it waited; the edge was freed, and the flush came back to it.
#[test]
fn g29_a_user_goes_while_its_flush_is_in_flight() {
    let world = World::new(1);
    let script = Script::default();
    let disk = SimDisk::zeroed(LEN, 1);
    let device = disk.clone();
    let own = script.clone();
    let (id, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let id = opening.add(node("disk", Scripted::device("disk", &own, device), LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        (id, attach_writer(task, id, "client").await.unwrap())
    });
    let hold = disk.hold(OpFilter::of(OpKind::Flush));
    let user = backend.clone();
    world.spawn_io(1, "flushes", async move |lane| lane.enter(&user).await.flush().await.unwrap());
    world.sim.run_until(|| hold.count() == 1).unwrap();
    world.control.spawn(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.detach_root(backend.id());
        plan.remove(id);
        task.apply(plan).await.unwrap();
    });
    world.sim.settle().unwrap();
    assert_eq!(script.count("close disk"), 0, "the flush is still inside");
    drop(hold);
    world.end();
    assert_eq!(script.count("close disk"), 1);
}

/// 30: a node's count reached zero, the drain in its deletion ran a callback that took and dropped a reference, and the
/// node was deleted twice.
#[test]
fn g30_a_node_is_closed_once_whoever_looks_at_it() {
    for seed in 0..50 {
        let world = World::new(seed);
        let script = Script::default();
        let own = script.clone();
        let disk = world
            .on_control(async move |task: &mut Task<'_>| insert_device(task, "disk", &own).await.unwrap());
        for _ in 0..3 {
            world.control.spawn(async move |task: &mut Task<'_>| {
                let node = task.gs().with(|graph| graph.node_handle(disk));
                drop(task.drain(&[disk]).await);
                drop(node);
            });
        }
        for _ in 0..2 {
            world.control.spawn(async move |task: &mut Task<'_>| {
                // The second one finds it gone.
                let _ = remove(task, disk).await;
            });
        }
        world.end();
        assert_eq!(script.count("close disk"), 1);
    }
}

/// 31: a snapshot of a node onto itself, or onto a node above it, made a loop and crashed.
#[test]
fn g31_a_node_cannot_be_its_own_backing_image() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = overlay(&mut opening, "base", SimDisk::zeroed(LEN, 1), None).unwrap();
        let top = overlay(&mut opening, "top", SimDisk::zeroed(LEN, 2), Some(base)).unwrap();
        insert(task, opening).await.unwrap();
        for (node, backing) in [(top, top), (base, top), (base, base)] {
            let mut plan = Plan::new();
            plan.set_child(node, ChildKey::Backing, backing, Role::COW);
            let error = task.apply(plan).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput);
            assert!(error.to_string().contains("would create a cycle"), "{error}");
        }
    });
}

/// 32: an error while a child was attached left a pointer to it behind, and a second error path forgot a reference.
#[test]
fn g32_a_failed_attachment_leaves_nothing_behind() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let first = attach_writer(task, disk, "first").await.unwrap();
        let before = task.gs().with(|graph| (graph.nodes(), graph.roots().len(), graph.parents_of(disk)));
        let after = |task: &Task<'_>| {
            task.gs().with(|graph| (graph.nodes(), graph.roots().len(), graph.parents_of(disk)))
        };
        // Refused by `check`.
        assert!(attach_writer(task, disk, "second").await.is_err());
        assert_eq!(after(task), before);
        // Refused by a driver that prepares, for a user who is allowed.
        script.fail(Phase::Stage, "disk");
        assert!(attach_reader(task, disk, "third").await.is_err());
        let mut plan = Plan::new();
        plan.set_grant(first.id(), Grant::READER);
        assert!(task.apply(plan).await.is_err());
        assert_eq!(after(task), before);
        script.mend();
        detach(task, &first).await.unwrap();
        remove(task, disk).await.unwrap();
    });
}

/// 33: a driver kept an alias of its file, which dangled after the file was replaced. Here a driver has no way to keep a
/// child; the replaced file sees no further request and can go.
#[test]
fn g33_a_replaced_file_is_the_only_one_in_use() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let backend: Backend<ReadWrite> = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let old = add_device(&mut opening, "old", &own).unwrap();
        let new: NodeId = add_device(&mut opening, "new", &own).unwrap();
        let children = vec![(ChildKey::File, Role::IMAGE, old)];
        let top = opening.add(node("top", Scripted::filter("top", &own), LEN, children)).unwrap();
        insert(task, opening).await.unwrap();
        let backend = attach(task, top, "client", Grant::WRITER).await.unwrap();
        let mut plan = Plan::new();
        plan.set_child(top, ChildKey::File, new, Role::IMAGE);
        plan.remove(old);
        task.apply(plan).await.unwrap();
        backend
    });
    let before = script.requests("old");
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    assert_eq!((script.requests("old"), script.requests("new")), (before, 1));
}
