//! Chains of layers that cannot change: what is remembered of them is true, and saves looking again.

use drystone_base::{GuestOffset, Result};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::disk::Preallocation;
use drystone_core::driver::WriteFlags;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_testkit::disk::SimDisk;

use crate::fixture::{BLOCK, Device, LEN, facts, node, overlay};
use crate::scripted::{NewOptions, Script, Scripted};
use crate::world::{
    SHARING_READER, SHARING_WRITER, World, at, attach, attach_writer, detach, disk_of, fill, filled, insert,
    load,
};

fn disk(seed: u64) -> SimDisk {
    SimDisk::zeroed(LEN, seed)
}

/// Base, middle and top, all overlays without data, and a reader of the top that shares everything.
async fn three_layers(task: &mut Task<'_>, seed: u64) -> ([NodeId; 3], Backend<ReadOnly>) {
    let mut opening = Opening::new(task);
    let base = overlay(&mut opening, "base", disk(seed), None).unwrap();
    let middle = overlay(&mut opening, "middle", disk(seed + 1), Some(base)).unwrap();
    let top = overlay(&mut opening, "top", disk(seed + 2), Some(middle)).unwrap();
    insert(task, opening).await.unwrap();
    let reader = attach(task, top, "reader", SHARING_READER).await.unwrap();
    ([base, middle, top], reader)
}

async fn first_bytes(lane: &mut Lane, from: &Backend<ReadOnly>, blocks: u64) -> Vec<u8> {
    let bytes = load(lane, from, at(0, blocks * BLOCK)).await.unwrap();
    bytes.chunks(4096).map(|block| block[0]).collect()
}

#[test]
fn a_read_over_own_and_inherited_blocks_sees_both() {
    let world = World::new(1);
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = opening.add(node("base", Device(disk(1)), LEN, vec![])).unwrap();
        let top = overlay(&mut opening, "top", disk(2), Some(base)).unwrap();
        insert(task, opening).await.unwrap();
        attach_writer(task, top, "client").await.unwrap()
    });
    world.on_io(async |lane| {
        fill(lane, &backend, at(BLOCK, BLOCK), 7).await.unwrap();
        for _ in 0..2 {
            let bytes = load(lane, &backend, at(0, 3 * BLOCK)).await.unwrap();
            let firsts: Vec<u8> = bytes.chunks(4096).map(|block| block[0]).collect();
            assert_eq!(firsts, [0, 7, 0]);
        }
    });
}

#[test]
fn a_layer_is_settled_while_nobody_can_change_it_or_what_is_below() {
    let world = World::new(1);
    world.on_control(async move |task: &mut Task<'_>| {
        let ([base, middle, top], _reader) = three_layers(task, 1).await;
        let settled = |task: &Task<'_>| -> Vec<bool> {
            let of = |id| task.gs().with(|graph| graph.node(id)).unwrap().settled;
            [base, middle, top].map(of).to_vec()
        };
        assert_eq!(settled(task), [true, true, true]);
        let writer: Backend<ReadWrite> = attach(task, middle, "job", SHARING_WRITER).await.unwrap();
        assert_eq!(settled(task), [true, false, false]);
        detach(task, &writer).await.unwrap();
        assert_eq!(settled(task), [true, true, true]);
        let file = task.gs().find("base-file").unwrap();
        let writer: Backend<ReadWrite> =
            attach(task, file, "raw", Grant { perm: Perm::WRITE_UNCHANGED, shared: Perm::ALL })
                .await
                .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settled(task), [false, false, false]);
        detach(task, &writer).await.unwrap();
        assert_eq!(settled(task), [true, true, true]);
    });
}

/// What was read before is remembered; then somebody writes below, where there was nothing.
#[test]
fn a_writer_below_is_seen_by_those_who_had_read_before_it() {
    for seed in 0..30 {
        let world = World::new(seed);
        let ([base, ..], reader) =
            world.on_control(async move |task: &mut Task<'_>| three_layers(task, seed).await);
        world.on_io(async |lane| assert_eq!(first_bytes(lane, &reader, 3).await, [0, 0, 0]));
        for round in 1..4 {
            let writer = world.on_control(async move |task: &mut Task<'_>| {
                attach::<ReadWrite>(task, base, "writer", SHARING_WRITER).await.unwrap()
            });
            world.on_io(async |lane| {
                fill(lane, &writer, at(BLOCK, BLOCK), round).await.unwrap();
                assert_eq!(first_bytes(lane, &reader, 3).await, [0, round, 0]);
            });
            world.on_control(async move |task: &mut Task<'_>| detach(task, &writer).await.unwrap());
            world.on_io(async |lane| {
                for _ in 0..2 {
                    assert_eq!(first_bytes(lane, &reader, 3).await, [0, round, 0]);
                }
            });
        }
    }
}

/// Readers on two threads read all the time, while writers of every layer come, write a block that the layer did not have,
/// and go: nobody reads an older byte than one that was acknowledged before the read began.
#[test]
fn reads_that_race_with_changes_of_the_chain_learn_nothing_old() {
    for seed in 0..100 {
        let world = World::new(seed);
        let (layers, reader) =
            world.on_control(async move |task: &mut Task<'_>| three_layers(task, seed).await);
        let latest = std::rc::Rc::new(std::cell::Cell::new(0_u8));
        for thread in [1, 2] {
            let (reader, latest) = (reader.clone(), std::rc::Rc::clone(&latest));
            world.spawn_io(thread, "reads", async move |lane| {
                for _ in 0..15 {
                    let before = latest.get();
                    assert!(first_bytes(lane, &reader, 1).await[0] >= before);
                }
            });
        }
        for (value, layer) in (1..).zip(layers) {
            let writer = world.on_control(async move |task: &mut Task<'_>| {
                attach::<ReadWrite>(task, layer, "writer", SHARING_WRITER).await.unwrap()
            });
            world.on_io(async |lane| fill(lane, &writer, at(0, BLOCK), value).await.unwrap());
            latest.set(value);
            world.on_control(async move |task: &mut Task<'_>| detach(task, &writer).await.unwrap());
        }
        drop(reader);
        world.end();
    }
}

#[test]
fn a_base_that_grows_shows_through_where_there_were_zeroes() {
    let world = World::new(1);
    let short = LEN / 2;
    let (base, reader) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let mut new = node("base", Device(disk_of(4, 1)), short, vec![]);
        new.facts = facts(short, false);
        let base = opening.add(new).unwrap();
        let middle = overlay(&mut opening, "middle", disk(2), Some(base)).unwrap();
        let top = overlay(&mut opening, "top", disk(3), Some(middle)).unwrap();
        insert(task, opening).await.unwrap();
        (base, attach::<ReadOnly>(task, top, "reader", SHARING_READER).await.unwrap())
    });
    let across = at(short - BLOCK, 2 * BLOCK);
    let halves = |bytes: Vec<u8>| (bytes[0], bytes[4095], bytes[4096], bytes[8191]);
    world.on_io(async |lane| {
        for _ in 0..2 {
            assert_eq!(halves(load(lane, &reader, across).await.unwrap()), (4, 4, 0, 0));
        }
    });
    let owner = world.on_control(async move |task: &mut Task<'_>| {
        let grant = Grant { perm: Perm::ALL, shared: Perm::ALL };
        attach::<ReadWrite>(task, base, "owner", grant).await.unwrap()
    });
    world.on_io(async |lane| {
        let mut ticket = lane.enter(&owner).await;
        ticket.resize(LEN, Preallocation::Off).await.unwrap();
        drop(ticket);
        fill(lane, &owner, at(short, BLOCK), 6).await.unwrap();
        assert_eq!(halves(load(lane, &reader, across).await.unwrap()), (4, 4, 6, 6));
    });
    world.on_control(async move |task: &mut Task<'_>| detach(task, &owner).await.unwrap());
    world.on_io(async |lane| {
        for _ in 0..2 {
            assert_eq!(halves(load(lane, &reader, across).await.unwrap()), (4, 4, 6, 6));
        }
    });
}

/// A commit gives a node in the middle of the chain other data, in each of the ways in which it can.
#[test]
fn a_commit_below_is_seen_by_those_who_had_read_before_it() {
    let world = World::new(1);
    let script = Script::default();
    let (nodes, reader) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let one = opening.add(node("one", Device(disk_of(1, 1)), LEN, vec![])).unwrap();
        let two = opening.add(node("two", Device(disk_of(2, 2)), LEN, vec![])).unwrap();
        let children = vec![(ChildKey::File, Role::FILTER_CHILD, one)];
        let base = opening.add(node("base", Scripted::filter("base", &script), LEN, children)).unwrap();
        let middle = overlay(&mut opening, "middle", disk(3), Some(base)).unwrap();
        let top = overlay(&mut opening, "top", disk(4), Some(middle)).unwrap();
        insert(task, opening).await.unwrap();
        ([one, two, base, middle], attach::<ReadOnly>(task, top, "reader", SHARING_READER).await.unwrap())
    });
    let [one, two, base, middle] = nodes;
    let check = |expected: [u8; 2]| {
        world.on_io(async |lane| {
            for _ in 0..2 {
                assert_eq!(first_bytes(lane, &reader, 2).await, expected);
            }
        });
    };
    check([1, 1]);
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.set_child(base, ChildKey::File, two, Role::FILTER_CHILD);
        task.apply(plan).await.unwrap();
    });
    check([2, 2]);
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.set_child(middle, ChildKey::Backing, one, Role::COW);
        task.apply(plan).await.unwrap();
    });
    check([1, 1]);
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.set_child(middle, ChildKey::Backing, base, Role::COW);
        plan.reopen(base, Box::new(NewOptions { len: Some(BLOCK), request_alignment: None }));
        task.apply(plan).await.unwrap();
    });
    check([2, 0]);
    world.on_control(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        plan.remove_child(middle, ChildKey::Backing);
        task.apply(plan).await.unwrap();
    });
    check([0, 0]);
}

/// A change writes by private I/O to a layer that nobody else can change, and is then given up, or committed.
#[test]
fn private_writes_of_a_change_are_seen_by_those_who_had_read_before() {
    for commits in [false, true] {
        let world = World::new(1);
        let ([base, middle, _], reader) =
            world.on_control(async move |task: &mut Task<'_>| three_layers(task, 1).await);
        world.on_io(async |lane| assert_eq!(first_bytes(lane, &reader, 2).await, [0, 0]));
        world
            .on_control(async move |task: &mut Task<'_>| -> Result<()> {
                let mut plan = Plan::new();
                plan.freeze(middle, ChildKey::Backing, "a job");
                plan.reopen(task.gs().find("base-file")?, Box::new(NewOptions::default()));
                let mut plan = Plan::new();
                plan.set_child(middle, ChildKey::Backing, base, Role::COW);
                plan.set_read_only(middle, true);
                let checked = plan.check(task.gs()).map_err(|(_, error)| error)?;
                let staged = task.stage(checked).await?;
                let change = task.admit(staged).await?;
                let io = change.private(base)?;
                io.io().write(GuestOffset::ZERO, filled(512, 5), WriteFlags::default()).await.0?;
                drop(io);
                if commits {
                    change.settle().await?.commit().finish().await;
                } else {
                    change.abort().await;
                }
                Ok(())
            })
            .unwrap();
        world.on_io(async |lane| {
            assert_eq!(first_bytes(lane, &reader, 2).await, [5, 0], "committed: {commits}")
        });
    }
}

/// Reading again does not ask the layers below the first settled one again, and neither does it when the base gets
/// another overlay.
#[test]
fn what_is_remembered_is_not_asked_for_again() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (base, reader) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = opening.add(node("base", Scripted::device("base", &own, disk(1)), LEN, vec![])).unwrap();
        let top = overlay(&mut opening, "top", disk(2), Some(base)).unwrap();
        insert(task, opening).await.unwrap();
        (base, attach::<ReadOnly>(task, top, "reader", SHARING_READER).await.unwrap())
    });
    let read = || world.on_io(async |lane| drop(load(lane, &reader, at(0, 8 * BLOCK)).await.unwrap()));
    read();
    let asked = script.requests("base");
    assert_eq!(asked, 1, "the whole of a window is learnt at once");
    read();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let other = overlay(&mut opening, "other", disk(3), Some(base)).unwrap();
        insert(task, opening).await.unwrap();
        attach_writer(task, other, "another").await.unwrap();
    });
    read();
    assert_eq!(script.requests("base"), asked);
}
