//! Backends: what their requests may do, what they count, and what a user can rely on after its root has moved or gone.

use drystone_base::{GuestOffset, Kind};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::lane::Lane;
use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, OpKind, SimDisk};

use crate::fixture::{Device, LEN, node, overlay};
use crate::scripted::Script;
use crate::world::{
    World, add_filter, at, attach, attach_reader, attach_writer, detach, fill, filled, insert, insert_device,
    insert_pair, load, read_only_device, remove,
};

/// A disk, and a writer of it that may resize it.
fn disk_with_owner(world: &World, disk: &SimDisk) -> Backend<ReadWrite> {
    let device = disk.clone();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let id = opening.add(node("disk", Device(device), LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        let grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), ..Grant::WRITER };
        attach(task, id, "owner", grant).await.unwrap()
    })
}

/// Every operation, inside of the disk, at its end and past it.
#[test]
fn requests_stay_inside_the_disk() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let (top, _) = insert_pair(task, ("top", "disk"), &script).await.unwrap();
        attach_writer(task, top, "client").await.unwrap()
    });
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        for (start, len, is_inside) in [
            (0, 512, true),
            (LEN - 512, 512, true),
            (LEN, 0, true),
            (LEN - 511, 512, false),
            (LEN, 1, false),
            (1 << 60, 1, false),
        ] {
            let range = at(start, len);
            let expected = if is_inside { None } else { Some(Kind::OutOfRange) };
            let kind = |result: drystone_base::Result<()>| result.err().map(|error| error.kind());
            let (read, buf) = ticket.read(range.start(), filled(len, 1)).await;
            assert_eq!((kind(read), buf.len() as u64), (expected, len), "read {range}");
            let (written, buf) = ticket.write(range.start(), filled(len, 1), WriteFlags::default()).await;
            assert_eq!((kind(written), buf.len() as u64), (expected, len), "write {range}");
            assert_eq!(
                kind(ticket.write_zeroes(range, ZeroFlags::default()).await),
                expected,
                "zero {range}"
            );
            assert_eq!(kind(ticket.discard(range).await), expected, "discard {range}");
            assert_eq!(kind(ticket.status(range, u32::MAX).await.map(drop)), expected, "status {range}");
        }
        assert_eq!(ticket.resize(LEN * 2, Preallocation::Off).await.unwrap_err().kind(), Kind::ReadOnly);
        ticket.flush().await.unwrap();
    });
}

#[test]
fn a_write_past_the_end_grows_the_disk_of_a_user_that_may_resize() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let backend = disk_with_owner(&world, &disk);
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &backend, at(LEN + 512, 512), 3).await.unwrap();
        let mut ticket = lane.enter(&backend).await;
        assert_eq!(ticket.len(), LEN + 1024);
        ticket.write_zeroes(at(LEN + 1024, 512), ZeroFlags::default()).await.unwrap();
        assert_eq!(ticket.len(), LEN + 1536);
        ticket.resize(4096, Preallocation::Off).await.unwrap();
        assert_eq!((ticket.len(), disk.len()), (4096, 4096));
        ticket.resize(8192, Preallocation::Off).await.unwrap();
        drop(ticket);
        assert_eq!(load(lane, &backend, at(4096, 4096)).await.unwrap(), [0; 4096]);
        let mut ticket = lane.enter(&backend).await;
        let too_long = ticket.resize(u64::MAX, Preallocation::Off).await;
        assert_eq!(too_long.unwrap_err().kind(), Kind::OutOfRange);
    });
}

/// The device may have stored some of it, which nobody may take for zeroes later; what the layers above show stays as it was.
#[test]
fn a_write_past_the_end_that_fails_grows_the_device_only() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let device = disk.clone();
    let (backend, [top, file]) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let file = opening.add(node("file", Device(device), LEN, vec![])).unwrap();
        let top = add_filter(&mut opening, "top", &Script::default(), file).unwrap();
        insert(task, opening).await.unwrap();
        let grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), ..Grant::WRITER };
        (attach::<ReadWrite>(task, top, "owner", grant).await.unwrap(), [top, file])
    });
    disk.inject(Fault::every(OpFilter::of(OpKind::Write), FaultEffect::Io).times(1));
    world.on_io(async |lane: &mut Lane| {
        assert_eq!(fill(lane, &backend, at(LEN, 512), 3).await.unwrap_err().errno(), 5);
    });
    let lens = world.on_control(async move |task: &mut Task<'_>| {
        [top, file].map(|id| task.gs().with(|graph| graph.node(id)).unwrap().len)
    });
    assert_eq!(lens, [LEN, LEN + 512]);
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &backend, at(LEN, 512), 3).await.unwrap();
        assert_eq!(load(lane, &backend, at(LEN, 512)).await.unwrap(), [3; 512]);
    });
}

#[test]
fn a_reader_flushes_and_asks_for_status() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = opening.add(read_only_device("disk", &script)).unwrap();
        insert(task, opening).await.unwrap();
        attach_reader(task, disk, "reader").await.unwrap()
    });
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        ticket.flush().await.unwrap();
        let status = ticket.status(at(0, LEN), 0).await.unwrap();
        assert!(status.data && status.allocated);
        assert_eq!((status.len, status.offset, status.depth), (LEN, Some(0), 0));
        assert_eq!(ticket.status(at(LEN, 0), 0).await.unwrap().len, 0);
    });
}

#[test]
fn status_says_in_which_layer_the_bytes_are() {
    let world = World::new(1);
    let backend = world.on_control(async |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = opening.add(node("base", Device(SimDisk::zeroed(LEN / 2, 1)), LEN / 2, vec![])).unwrap();
        let middle = overlay(&mut opening, "middle", SimDisk::zeroed(LEN, 2), Some(base)).unwrap();
        let top = overlay(&mut opening, "top", SimDisk::zeroed(LEN, 3), Some(middle)).unwrap();
        insert(task, opening).await.unwrap();
        attach_writer(task, top, "client").await.unwrap()
    });
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &backend, at(4096, 4096), 1).await.unwrap();
        let mut ticket = lane.enter(&backend).await;
        let of = async |ticket: &mut drystone_core::lane::Ticket<'_, ReadWrite>, start, layers| {
            let status = ticket.status(at(start, 4096), layers).await.unwrap();
            (status.allocated, status.zero, status.depth)
        };
        assert_eq!(of(&mut ticket, 4096, 0).await, (true, false, 0), "the layer's own");
        assert_eq!(of(&mut ticket, 0, u32::MAX).await, (true, false, 2), "the base's");
        assert_eq!(of(&mut ticket, 0, 1).await, (false, false, 1), "not asked far enough");
        assert_eq!(of(&mut ticket, 0, 0).await, (false, false, 0));
        assert!(of(&mut ticket, LEN / 2, u32::MAX).await.1, "past the end of a shorter base");
    });
}

#[test]
fn what_a_user_does_is_counted() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let backend = disk_with_owner(&world, &disk);
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        ticket
            .write(GuestOffset::ZERO, filled(1000, 1), WriteFlags { fua: true, ..WriteFlags::default() })
            .await
            .0
            .unwrap();
        ticket.read(GuestOffset::ZERO, Buf::zeroed(24)).await.0.unwrap();
        ticket.write_zeroes(at(0, 512), ZeroFlags::default()).await.unwrap();
        ticket.discard(at(0, 256)).await.unwrap();
        ticket.flush().await.unwrap();
        ticket.resize(LEN, Preallocation::Off).await.unwrap();
        assert!(ticket.discard(at(1 << 40, 256)).await.is_err());
    });
    let statistics = backend.statistics();
    assert_eq!((statistics.writes, statistics.reads), ((1, 1000), (1, 24)));
    assert_eq!((statistics.zeroes, statistics.discards), ((1, 512), (1, 256)));
    assert_eq!((statistics.flushes, statistics.failed), (1, 1));
}

#[test]
fn requests_of_a_detached_user_fail() {
    let world = World::new(1);
    let script = Script::default();
    let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        (disk, attach_writer(task, disk, "client").await.unwrap())
    });
    let user = backend.clone();
    world.on_control(async move |task: &mut Task<'_>| {
        detach(task, &user).await.unwrap();
        remove(task, disk).await.unwrap();
    });
    world.on_io(async |lane: &mut Lane| {
        assert_eq!(load(lane, &backend, at(0, 512)).await.unwrap_err().kind(), Kind::NotFound);
        let mut ticket = lane.enter(&backend).await;
        assert_eq!(ticket.len(), 0);
        let (result, buf) = ticket.write(GuestOffset::ZERO, filled(512, 1), WriteFlags::default()).await;
        assert_eq!((result.unwrap_err().kind(), buf.len()), (Kind::NotFound, 512));
        assert_eq!(ticket.flush().await.unwrap_err().kind(), Kind::NotFound);
    });
}

/// A drain of everything does not wait for users without a node, and does not keep them waiting.
#[test]
fn a_user_without_a_node_is_no_concern_of_a_drain() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, disk, "client").await.unwrap();
        detach(task, &backend).await.unwrap();
        backend
    });
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        assert_eq!(ticket.flush().await.unwrap_err().kind(), Kind::NotFound);
        let drained = world.control.call(async |task: &mut Task<'_>| {
            let quiet = task.drain_all().await;
            drop(quiet);
        });
        drained.await.unwrap();
        assert_eq!(ticket.flush().await.unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn requests_that_wait_at_a_gate_hear_that_their_user_was_taken_out() {
    for seed in 0..50 {
        let world = World::new(seed);
        let script = Script::default();
        let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
            let disk = insert_device(task, "disk", &script).await.unwrap();
            (disk, attach_writer(task, disk, "client").await.unwrap())
        });
        for thread in [1, 2] {
            let user = backend.clone();
            world.spawn_io(
                thread,
                "writes",
                async move |lane| {
                    while let Ok(()) = fill(lane, &user, at(0, 512), 1).await {}
                },
            );
        }
        world.on_control(async move |task: &mut Task<'_>| {
            let quiet = task.drain(&[disk]).await;
            for _ in 0..5 {
                drystone_core::runtime::yield_now().await;
            }
            detach(task, &backend).await.unwrap();
            drop(quiet);
        });
        world.end();
    }
}

#[test]
fn requests_of_a_user_whose_plan_was_refused_fail() {
    let world = World::new(1);
    let script = Script::default();
    let (refused, dropped) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        attach_writer(task, disk, "client").await.unwrap();
        let spec = || RootSpec { name: "other".into(), grant: Grant::WRITER, stays: false };
        let mut plan = Plan::new();
        let refused: Backend<ReadOnly> = plan.attach_root(task.gs(), disk, spec());
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::InUse);
        let mut plan = Plan::new();
        let dropped: Backend<ReadOnly> = plan.attach_root(task.gs(), disk, spec());
        drop(plan);
        let mut plan = Plan::new();
        let taken_out: Backend<ReadOnly> = plan.attach_root(task.gs(), disk, spec());
        plan.detach_root(taken_out.id());
        task.apply(plan).await.unwrap();
        (refused, [dropped, taken_out])
    });
    for backend in [&refused, &dropped[0], &dropped[1]] {
        let result = world.on_io(async |lane| load(lane, backend, at(0, 512)).await);
        assert_eq!(result.unwrap_err().kind(), Kind::NotFound);
    }
}
