//! Stories 1 to 9: who holds what while waiting for whom.

use drystone_base::GuestOffset;
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::graph::node::ChildKey;
use drystone_core::job::JobCtx;
use drystone_testkit::disk::{OpFilter, SimDisk};

use crate::fixture::{Device, LEN, node, overlay};
use crate::scripted::{Phase, Script};
use crate::world::{
    World, at, attach_reader, attach_writer, detach, disk_of, fill, insert, insert_device, load, remove,
};

/// 1: a job at a pause point kept its lock on the graph, and the change that had paused it waited for the lock.
/// Here a paused worker holds nothing, and a change does not ask it.
#[test]
fn g01_a_paused_worker_does_not_hold_up_a_change() {
    let world = World::new(1);
    let script = Script::default();
    let (mut job, handle) = JobCtx::new(world.sim.io(1), 1, world.control.clone());
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        attach_writer(task, disk, "job").await.unwrap()
    });
    handle.pause();
    let worker = backend.clone();
    world.sim.spawn(&world.sim.io(1), "job", async move {
        fill(&mut job.lanes()[0], &worker, at(0, 512), 1).await.unwrap();
        job.pause_point().await.unwrap();
        assert!(fill(&mut job.lanes()[0], &worker, at(0, 512), 2).await.is_err());
    });
    world.sim.settle().unwrap();
    world.on_control(async move |task: &mut Task<'_>| {
        drop(task.drain_all().await);
        detach(task, &backend).await.unwrap();
    });
    handle.resume();
    world.end();
}

/// 2: the last reference to a node went while the graph was locked; closing had to wait, and the command answered before
/// the file was free again. Here a command that removes a node answers when the node is closed.
#[test]
fn g02_a_removed_node_is_closed_before_the_command_answers() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        for round in 1..=3 {
            let disk = insert_device(task, "disk", &script).await.unwrap();
            remove(task, disk).await.unwrap();
            assert_eq!(script.count("close disk"), round);
        }
    });
}

/// 3: unlocking the graph ran deferred work while a foreign lock was held, and nested waits locked up. Here a node that
/// takes for ever to close holds up nobody else: no request, no drain, no other change.
#[test]
fn g03_a_slow_close_holds_up_nobody_else() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (slow, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let slow = insert_device(task, "slow", &own).await.unwrap();
        let disk = insert_device(task, "disk", &own).await.unwrap();
        (slow, attach_writer(task, disk, "client").await.unwrap())
    });
    script.hold(Phase::Close, "slow");
    world.control.spawn(async move |task: &mut Task<'_>| remove(task, slow).await.unwrap());
    world.sim.settle().unwrap();
    assert_eq!(script.count("close slow"), 1);
    let user = backend.clone();
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    world.on_control(async move |task: &mut Task<'_>| {
        drop(task.drain_all().await);
        detach(task, &user).await.unwrap();
    });
    script.release(Phase::Close, "slow");
    world.end();
}

/// 5: streaming to no base at all passed a null node to the helper that was to unlock the graph, which did not. Here a
/// chain loses its base by a plan, under reads.
#[test]
fn g05_a_chain_can_lose_its_base_under_reads() {
    for seed in 0..50 {
        let world = World::new(seed);
        let (top, backend) = world.on_control(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let base = opening.add(node("base", Device(disk_of(5, seed)), LEN, vec![])).unwrap();
            let top = overlay(&mut opening, "top", SimDisk::zeroed(LEN, seed), Some(base)).unwrap();
            insert(task, opening).await.unwrap();
            (top, attach_reader(task, top, "reader").await.unwrap())
        });
        let reader = backend.clone();
        world.spawn_io(1, "reads", async move |lane| {
            let mut last = 5;
            for _ in 0..20 {
                let byte = load(lane, &reader, at(4096, 512)).await.unwrap()[0];
                assert!(byte == last || (last, byte) == (5, 0), "{last} became {byte}");
                last = byte;
            }
        });
        world.on_control(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.remove_child(top, ChildKey::Backing);
            task.apply(plan).await.unwrap();
        });
        let after = world.on_io(async |lane| load(lane, &backend, at(4096, 512)).await.unwrap());
        assert_eq!(after, [0; 512]);
        drop(backend);
        world.end();
    }
}

/// 6: opening an image kept the graph locked for reading while it opened a child, which wanted to write to it. Here an
/// opening is no part of the graph: while it stands still, nothing else does.
#[test]
fn g06_opening_an_image_holds_up_no_change() {
    let world = World::new(1);
    let script = Script::default();
    let disk = SimDisk::zeroed(LEN, 1);
    let hold = disk.hold(OpFilter::any());
    world.control.spawn(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let file = opening.add(node("file", Device(disk), LEN, vec![])).unwrap();
        let visit = opening.visit(file).await.unwrap();
        visit.io().read_new(GuestOffset::ZERO, 512).await.unwrap();
        drop(visit);
        insert(task, opening).await.unwrap();
    });
    world.sim.settle().unwrap();
    assert_eq!(hold.count(), 1);
    world.on_control(async move |task: &mut Task<'_>| {
        drop(task.drain_all().await);
        let other = insert_device(task, "other", &script).await.unwrap();
        remove(task, other).await.unwrap();
    });
    drop(hold);
    world.end();
}

/// 9: a worker of a thread pool asked for a length by a call that polls, on the wrong thread. Here lengths are facts that
/// any thread can read, also while the node is quiet.
#[test]
fn g09_the_length_is_known_to_every_thread() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let id = insert_device(task, "disk", &script).await.unwrap();
        let quiet = task.drain(&[id]).await;
        let node = task.gs().with(|graph| graph.node_handle(id)).unwrap();
        assert_eq!(std::thread::spawn(move || node.len()).join().unwrap(), LEN);
        drop(quiet);
    });
}
