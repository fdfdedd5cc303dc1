//! Lanes and tickets: requests whose callers go, sub-tasks, and requests that wait at a gate.

use drystone_base::{GuestOffset, Kind};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Task};
use drystone_core::driver::{NodeFacts, WriteFlags, ZeroFlags};
use drystone_core::graph::node::NodeId;
use drystone_core::job::JobCtx;
use drystone_core::lane::Lane;
use drystone_core::runtime::yield_now;
use drystone_testkit::disk::{DiskOptions, Image, OpFilter, SimDisk};
use drystone_testkit::sim::abandon_after;

use drystone_testkit::overlay::SimOverlay;

use crate::fixture::{LEN, facts, node};
use crate::scripted::{Script, Scripted};
use crate::world::{Event, World, at, attach_writer, detach, fill, filled, insert, insert_device, load};

/// An overlay whose file demands alignment: a small write reads, copies up, reads again and writes.
fn deep_disk(world: &World, disk: &SimDisk) -> (NodeId, Backend<ReadWrite>) {
    let device = disk.clone();
    world.on_control(async move |task: &mut Task<'_>| {
        let script = Script::default();
        let mut opening = Opening::new(task);
        let mut file = node("file", Scripted::device("file", &script, device), LEN, vec![]);
        file.facts = NodeFacts { request_alignment: 512, ..facts(LEN, false) };
        let file = opening.add(file).unwrap();
        let top = opening.add(SimOverlay::node("top", LEN, file, None)).unwrap();
        insert(task, opening).await.unwrap();
        (top, attach_writer(task, top, "client").await.unwrap())
    })
}

fn aligned_disk(seed: u64) -> SimDisk {
    SimDisk::new(Image::new(LEN), DiskOptions { align_bytes: 512, ..DiskOptions::seeded(seed) })
}

/// A write is dropped at each of its awaits in turn: it runs to its end all the same, a drain waits for it, and the lane's
/// next request is not disturbed.
#[test]
fn a_write_runs_to_its_end_whoever_waits_for_it() {
    for seed in 0..20 {
        for polls in 0.. {
            let world = World::new(seed);
            let disk = aligned_disk(seed);
            let (top, backend) = deep_disk(&world, &disk);
            let control = world.control.clone();
            let ended = world.on_io(async |lane: &mut Lane| {
                fill(lane, &backend, at(0, 2 * 4096), 1).await.unwrap();
                let mut ticket = lane.enter(&backend).await;
                let write = ticket.write(GuestOffset::new(100), filled(5000, 2), WriteFlags::default());
                let ended = abandon_after(polls, write).await.is_some();
                let after = ticket.flush().await;
                assert_eq!(
                    after.is_ok(),
                    ended || polls == 0,
                    "an abandoned operation takes the ticket along"
                );
                drop(ticket);
                control.call(async move |task: &mut Task<'_>| drop(task.drain(&[top]).await)).await.unwrap();
                assert!(disk.trace().iter().all(|op| op.ended.is_some()), "the drain waited for it");
                fill(lane, &backend, at(8192, 512), 3).await.unwrap();
                let bytes = load(lane, &backend, at(0, 3 * 4096)).await.unwrap();
                let middle = if polls == 0 { 1 } else { 2 };
                for (range, byte) in [(0..100, 1), (100..5100, middle), (5100..8192, 1), (8192..8704, 3)] {
                    assert!(
                        bytes[range.clone()].iter().all(|b| *b == byte),
                        "{range:?}, dropped after {polls}"
                    );
                }
                ended
            });
            drop((control, backend));
            world.end();
            if ended {
                break;
            }
        }
    }
}

#[test]
fn any_operation_can_be_abandoned() {
    for operation in 0..6 {
        for polls in 0.. {
            let world = World::new(3);
            let disk = aligned_disk(3);
            let (top, backend) = deep_disk(&world, &disk);
            let control = world.control.clone();
            let ended = world.on_io(async |lane: &mut Lane| {
                fill(lane, &backend, at(0, 4096), 1).await.unwrap();
                let mut ticket = lane.enter(&backend).await;
                let range = at(10, 100);
                let ended = match operation {
                    0 => abandon_after(polls, ticket.read(range.start(), Buf::zeroed(100))).await.is_some(),
                    1 => {
                        abandon_after(polls, ticket.write_zeroes(range, ZeroFlags::default())).await.is_some()
                    }
                    2 => abandon_after(polls, ticket.discard(range)).await.is_some(),
                    3 => abandon_after(polls, ticket.flush()).await.is_some(),
                    4 => abandon_after(polls, ticket.status(range, 9)).await.is_some(),
                    _ => {
                        let fua = WriteFlags { fua: true, ..WriteFlags::default() };
                        abandon_after(polls, ticket.write(range.start(), filled(100, 1), fua)).await.is_some()
                    }
                };
                drop(ticket);
                control.call(async move |task: &mut Task<'_>| drop(task.drain(&[top]).await)).await.unwrap();
                assert!(disk.trace().iter().all(|op| op.ended.is_some()));
                load(lane, &backend, at(0, 4096)).await.unwrap();
                ended
            });
            drop((control, backend));
            world.end();
            if ended {
                break;
            }
        }
    }
}

#[test]
fn whoever_gives_up_at_a_gate_leaves_nothing_behind() {
    for polls in 0..3 {
        let world = World::new(1);
        let script = Script::default();
        let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
            let disk = insert_device(task, "disk", &script).await.unwrap();
            (disk, attach_writer(task, disk, "client").await.unwrap())
        });
        let (begun, end) = (Event::default(), Event::default());
        let (says, may_end) = (begun.clone(), end.clone());
        world.control.spawn(async move |task: &mut Task<'_>| {
            let quiet = task.drain(&[disk]).await;
            says.set();
            may_end.wait().await;
            drop(quiet);
            drop(task.drain(&[disk]).await);
        });
        world.sim.run_until(|| begun.is_set()).unwrap();
        let user = backend.clone();
        let opened = end.clone();
        world.spawn_io(1, "gives up", async move |lane| {
            let gave_up = abandon_after(polls, lane.enter(&user)).await.is_none();
            assert!(gave_up || opened.is_set());
            fill(lane, &user, at(0, 512), 1).await.unwrap();
        });
        world.sim.settle().unwrap();
        end.set();
        drop(backend);
        world.end();
    }
}

#[test]
fn a_drain_waits_for_a_sub_task_as_for_its_request() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let device = disk.clone();
    let (id, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let driver = Scripted::device("disk", &Script::default(), device);
        let id = opening.add(node("disk", driver, LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        (id, attach_writer(task, id, "client").await.unwrap())
    });
    let (forked, drained) = (Event::default(), Event::default());
    let (says, goes_on) = (forked.clone(), Event::default());
    let may_go_on = goes_on.clone();
    let local = world.sim.io(1);
    let here = local.clone();
    world.sim.spawn(&local, "forks", async move {
        let (mut first, mut second) = (Lane::new(here.clone()), Lane::new(here));
        let parent = first.enter(&backend).await;
        let mut child = parent.fork(&mut second);
        drop(parent);
        says.set();
        may_go_on.wait().await;
        // The gate is closed, and the sub-task is inside all the same; so is one of its own.
        child.write(GuestOffset::ZERO, filled(512, 1), WriteFlags::default()).await.0.unwrap();
        let mut grandchild = child.fork(&mut first);
        drop(child);
        grandchild.flush().await.unwrap();
    });
    world.sim.run_until(|| forked.is_set()).unwrap();
    let says = drained.clone();
    world.control.spawn(async move |task: &mut Task<'_>| {
        drop(task.drain(&[id]).await);
        says.set();
    });
    world.sim.settle().unwrap();
    assert!(!drained.is_set());
    goes_on.set();
    world.end();
    assert!(drained.is_set());
    assert_eq!(disk.trace().len(), 2);
}

#[test]
#[should_panic(expected = "forked into a lane of another thread")]
fn a_sub_task_stays_on_its_thread() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        attach_writer(task, disk, "client").await.unwrap()
    });
    let mut elsewhere = Lane::new(world.sim.io(2));
    world.on_io(async |lane: &mut Lane| {
        let ticket = lane.enter(&backend).await;
        drop(ticket.fork(&mut elsewhere));
    });
}

#[test]
fn many_lanes_of_one_thread_are_inside_at_once() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let (_, backend) = {
        let device = disk.clone();
        world.on_control(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let driver = Scripted::device("disk", &Script::default(), device);
            let id = opening.add(node("disk", driver, LEN, vec![])).unwrap();
            insert(task, opening).await.unwrap();
            (id, attach_writer(task, id, "client").await.unwrap())
        })
    };
    let hold = disk.hold(OpFilter::any());
    for index in 0..10 {
        let user = backend.clone();
        let range = at(index * 512, 512);
        world.spawn_io(1, "writes", async move |lane| fill(lane, &user, range, 1).await.unwrap());
    }
    world.sim.run_until(|| hold.count() == 10).unwrap();
    drop((hold, backend));
    world.end();
}

#[test]
fn a_job_pauses_sleeps_and_is_cancelled_between_its_requests() {
    let world = World::new(1);
    let script = Script::default();
    let own = script.clone();
    let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &own).await.unwrap();
        (disk, attach_writer(task, disk, "job").await.unwrap())
    });
    let (mut job, handle) = JobCtx::new(world.sim.io(1), 2, world.control.clone());
    let user = backend.clone();
    let start_ns = world.sim.now_ns();
    world.sim.spawn(&world.sim.io(1), "job", async move {
        for round in 1_u64.. {
            for lane in job.lanes() {
                fill(lane, &user, at(0, 512), 1).await.unwrap();
            }
            let quiet =
                job.on_control(async move |task: &mut Task<'_>| drop(task.drain(&[disk]).await)).await;
            quiet.unwrap();
            if let Err(error) = job.sleep_until(start_ns + round * 1_000_000).await {
                assert_eq!(error.kind(), Kind::Cancelled);
                return;
            }
        }
    });
    world.sim.run_until(|| script.requests("disk") == 4).unwrap();
    handle.pause();
    handle.pause();
    handle.resume();
    world.sim.block_on(&world.sim.io(2), world.sim.io(2).sleep_until(start_ns + 50_000_000)).unwrap();
    assert_eq!(script.requests("disk"), 4, "paused once more than it was resumed");
    handle.resume();
    world.sim.run_until(|| script.requests("disk") == 6).unwrap();
    handle.cancel();
    world.on_control(async move |task: &mut Task<'_>| {
        yield_now().await;
        detach(task, &backend).await.unwrap();
    });
    world.end();
}
