//! Stories 10, 18, 19, 43, 44 and 52, whose subjects (jobs, network drivers, migration, bitmaps) come later, as far as
//! the core alone can tell them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use drystone_base::{Error, GuestRange, HostOffset, Kind, Result};
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{Access, Driver, Extent, Place, Tail};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_core::job::JobCtx;
use drystone_core::request::io::Io;
use drystone_core::request::observe::WriteObserver;
use drystone_core::runtime::LocalFuture;

use crate::fixture::{LEN, node, overlay};
use crate::scripted::{Phase, Script};
use crate::world::{
    Event, SHARING_READER, World, add_device, at, attach, attach_reader, attach_writer, detach, fill, insert,
    insert_device, insert_pair, instant_disk, load,
};

const MS: u64 = 1_000_000;

/// 10: a drain came back when jobs had been asked to pause, not when they had paused, and a job wrote inside it. Here nobody
/// asks a job: its requests wait at the gate.
#[test]
fn g10_a_job_writes_nothing_inside_a_quiet_section() {
    for seed in 0..30 {
        let world = World::new(seed);
        let script = Script::default();
        let seen = script.clone();
        let (disk, target) = world.on_control(async move |task: &mut Task<'_>| {
            let disk = insert_device(task, "disk", &script).await.unwrap();
            (disk, attach_writer(task, disk, "job").await.unwrap())
        });
        let control = world.control.clone();
        world.spawn_io(1, "job", async move |lane| {
            let (job, _handle) = JobCtx::new(lane.local_ref().clone(), 2, control);
            job.run(async move |job: &mut JobCtx| {
                for round in 0..100 {
                    let lane = &mut job.lanes()[round % 2];
                    fill(lane, &target, at(0, 512), 7).await.unwrap();
                    let now_ns = lane.local().now_ns();
                    job.sleep_until(now_ns + MS / 10).await.unwrap();
                }
            })
            .await;
        });
        world.control.spawn(async move |task: &mut Task<'_>| {
            for _ in 0..3 {
                let running = seen.requests("disk");
                task.sleep_until(task.local().now_ns() + MS).await;
                assert!(seen.requests("disk") > running + 5, "seed {seed}: the job has stood still");
                let quiet = task.drain(&[disk]).await;
                let before = seen.requests("disk");
                task.sleep_until(task.local().now_ns() + MS).await;
                assert_eq!(seen.requests("disk"), before, "seed {seed}: a job wrote to a quiet node");
                drop(quiet);
            }
        });
        world.end();
    }
}

/// A driver whose peer is away, or there.
struct Remote {
    is_connected: Arc<AtomicBool>,
    attempts: Arc<AtomicU32>,
}

impl Driver for Remote {
    fn format_name(&self) -> &'static str {
        "remote"
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if !self.is_connected.load(Ordering::Relaxed) {
            return Err(io.step_back(io.now_ns() + MS));
        }
        let at = HostOffset::new(range.start().get());
        let place = Place::Child { child: ChildKey::File, at, tail: Tail::Zeroes, transparent: true };
        Ok(Extent { len: range.len(), place })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }
}

/// 18: requests waited for a reconnect timer that the drain had paused, so the drain never ended. Here such a request
/// steps back: it waits outside, with its data, and comes again when the gate is open.
#[test]
fn g18_a_request_that_waits_for_its_peer_holds_up_no_drain() {
    for seed in 0..30 {
        let world = World::new(seed);
        let (is_connected, attempts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let driver = Remote { is_connected: Arc::clone(&is_connected), attempts: Arc::clone(&attempts) };
        let (remote, backend) = world.on_control(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let file = add_device(&mut opening, "file", &Script::default()).unwrap();
            let children = vec![(ChildKey::File, Role::FILTER_CHILD, file)];
            let remote = opening.add(node("remote", driver, LEN, children)).unwrap();
            insert(task, opening).await.unwrap();
            (remote, attach_writer(task, remote, "client").await.unwrap())
        });
        let done = Event::default();
        let written = done.clone();
        world.spawn_io(1, "client", async move |lane| {
            fill(lane, &backend, at(0, 512), 5).await.unwrap();
            assert_eq!(load(lane, &backend, at(0, 512)).await.unwrap(), [5; 512]);
            written.set();
        });
        let tried = Arc::clone(&attempts);
        world.sim.run_until(|| tried.load(Ordering::Relaxed) > 2).unwrap();
        world.control.spawn(async move |task: &mut Task<'_>| {
            let quiet = task.drain(&[remote]).await;
            let before = attempts.load(Ordering::Relaxed);
            task.sleep_until(task.local().now_ns() + 10 * MS).await;
            assert_eq!(attempts.load(Ordering::Relaxed), before, "it waits at the gate");
            is_connected.store(true, Ordering::Relaxed);
            drop(quiet);
        });
        world.end();
        assert!(done.is_set());
    }
}

/// 19: an error path forgot which node it had drained. Here a section ends with its value, however the function ends.
#[test]
fn g19_a_change_that_fails_ends_its_drain() {
    let world = World::new(1);
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let script = Script::default();
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, disk, "guest").await.unwrap();
        let broken = insert_device(task, "broken", &script).await.unwrap();
        script.fail(Phase::Settle, "broken");
        let mut plan = Plan::new();
        plan.set_grant(backend.id(), Grant::READER);
        plan.set_read_only(disk, true);
        plan.set_read_only(broken, true);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::Io);
        let nodes = task.gs().with(|graph| graph.nodes());
        assert!(nodes.iter().all(|node| node.quiet == 0 && !node.read_only));
        let failing = async |task: &mut Task<'_>| -> Result<()> {
            let _quiet = task.drain(&[disk]).await;
            Err(Error::new(Kind::Io, "half way"))
        };
        failing(task).await.unwrap_err();
        assert_eq!(task.gs().with(|graph| graph.node(disk)).unwrap().quiet, 0);
        backend
    });
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await).unwrap();
    world.end();
}

/// 43: a node was made inactive under its writer, which then failed an assertion.
#[test]
fn g43_a_node_that_somebody_writes_cannot_be_made_inactive() {
    let world = World::new(1);
    let backend = world.on_control(async |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
        let backend = attach_writer(task, disk, "backup").await.unwrap();
        let mut plan = Plan::new();
        plan.set_active(disk, false);
        let refused = task.apply(plan).await.unwrap_err();
        assert_eq!((refused.kind(), refused.node()), (Kind::ReadOnly, Some("disk")));
        assert!(task.gs().with(|graph| graph.node(disk)).unwrap().active);
        backend
    });
    world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await).unwrap();
    world.end();
}

/// 44: inactive nodes were resized and written, and an active overlay stood on an inactive base.
#[test]
fn g44_an_inactive_node_is_read_and_nothing_else() {
    let world = World::new(1);
    let reader = world.on_control(async |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
        let (filter, below) = insert_pair(task, ("filter", "below"), &Script::default()).await.unwrap();
        let mut plan = Plan::new();
        plan.set_active(below, false);
        let refused = task.apply(plan).await.unwrap_err();
        assert!(refused.report().contains("active node 'filter'"), "{}", refused.report());
        let mut plan = Plan::new();
        plan.set_active(below, false);
        plan.set_active(filter, false);
        plan.set_active(disk, false);
        task.apply(plan).await.unwrap();

        for perm in [Perm::WRITE, Perm::WRITE_UNCHANGED, Perm::RESIZE] {
            let grant = Grant { perm, ..SHARING_READER };
            let refused = attach::<drystone_core::backend::ReadWrite>(task, disk, "user", grant).await;
            assert_eq!(refused.unwrap_err().kind(), Kind::ReadOnly, "{perm}");
        }
        let mut opening = Opening::new(task);
        let top = overlay(&mut opening, "top", instant_disk(), Some(disk)).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(disk, top);
        let refused = task.apply(plan).await.unwrap_err();
        assert_eq!((refused.kind(), refused.node()), (Kind::InvalidInput, Some("disk")));
        attach_reader(task, disk, "reader").await.unwrap()
    });
    assert_eq!(world.on_io(async |lane| load(lane, &reader, at(0, 512)).await).unwrap(), [0; 512]);
    world.on_control(async move |task: &mut Task<'_>| {
        let disk = task.gs().find("disk").unwrap();
        detach(task, &reader).await.unwrap();
        let mut plan = Plan::new();
        plan.set_active(disk, true);
        task.apply(plan).await.unwrap();
        attach_writer(task, disk, "writer").await.unwrap();
    });
    world.end();
}

/// Remembers what was written.
#[derive(Default)]
struct Bitmap(Mutex<Vec<GuestRange>>);

impl WriteObserver for Bitmap {
    fn written(&self, range: GuestRange) {
        self.0.lock().unwrap().push(range);
    }
}

/// 52, its first half: a write past the end told neither the nodes above nor their bitmaps. Here every node that a write
/// crosses grows with it, and is told in its own coordinates.
#[test]
fn g52_a_write_past_the_end_is_known_on_every_node() {
    let world = World::new(1);
    let bitmaps = [Arc::new(Bitmap::default()), Arc::new(Bitmap::default())];
    let (above, below) = (Arc::clone(&bitmaps[0]), Arc::clone(&bitmaps[1]));
    let (top, bottom, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let (top, bottom) = insert_pair(task, ("top", "bottom"), &Script::default()).await.unwrap();
        let mut plan = Plan::new();
        plan.observe(top, above);
        plan.observe(bottom, below);
        task.apply(plan).await.unwrap();
        let grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), ..Grant::WRITER };
        (top, bottom, attach(task, top, "guest", grant).await.unwrap())
    });
    let past = at(LEN - 512, 4096);
    world.on_io(async |lane| fill(lane, &backend, past, 9).await).unwrap();
    let bytes = world.on_io(async |lane| load(lane, &backend, past).await).unwrap();
    assert_eq!(bytes, [9; 4096]);
    for bitmap in &bitmaps {
        assert_eq!(*bitmap.0.lock().unwrap(), [past]);
    }
    let lens = async move |task: &mut Task<'_>| {
        [top, bottom].map(|id| task.gs().with(|graph| graph.node(id)).unwrap().len)
    };
    assert_eq!(world.on_control(lens), [LEN + 3584; 2]);
    let shrunk = world.on_io(async |lane| lane.enter(&backend).await.resize(LEN, Preallocation::Off).await);
    shrunk.unwrap();
    assert_eq!(world.on_control(lens), [LEN; 2]);
    world.end();
}
