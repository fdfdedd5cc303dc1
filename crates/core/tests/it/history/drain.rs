//! Stories 13 to 21: drains that ended too early, too late or never.

use std::cell::Cell;
use std::rc::Rc;

use drystone_core::backend::ReadWrite;
use drystone_core::control::{Plan, Task};
use drystone_core::disk::Preallocation;
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;

use crate::scripted::Script;
use crate::world::{Event, World, at, attach, attach_writer, fill, insert_device, insert_pair};

/// 13: ending a drained section waited midway, and the graph changed under the walk over the parents. Here the end of a
/// section is one step: afterwards every gate is open.
#[test]
fn g13_ending_a_drain_opens_every_gate_at_once() {
    let world = World::new(1);
    let script = Script::default();
    let backends = world.on_control(async move |task: &mut Task<'_>| {
        let mut backends = Vec::new();
        for name in ["a", "b", "c"] {
            let disk = insert_device(task, name, &script).await.unwrap();
            backends.push(attach_writer(task, disk, name).await.unwrap());
        }
        backends
    });
    let (begun, end) = (Event::default(), Event::default());
    let (closed, open) = (begun.clone(), end.clone());
    world.control.spawn(async move |task: &mut Task<'_>| {
        let count =
            |task: &Task<'_>| task.gs().with(|graph| graph.roots().iter().filter(|root| root.closed).count());
        let quiet = task.drain_all().await;
        assert_eq!(count(task), 3);
        closed.set();
        open.wait().await;
        drop(quiet);
        assert_eq!(count(task), 0);
    });
    world.sim.run_until(|| begun.is_set()).unwrap();
    let inside = Rc::new(Cell::new(0));
    for backend in backends {
        let inside = Rc::clone(&inside);
        world.spawn_io(1, "waits", async move |lane| {
            fill(lane, &backend, at(0, 512), 1).await.unwrap();
            inside.set(inside.get() + 1);
        });
    }
    world.sim.settle().unwrap();
    assert_eq!(inside.get(), 0);
    end.set();
    world.end();
    assert_eq!(inside.get(), 3);
}

/// 14: the count of requests went down after the wake-up it was to cause; about one drain in two hundred hung.
#[test]
fn g14_the_last_request_to_leave_ends_the_drain() {
    for seed in 0..200 {
        let world = World::new(seed);
        let script = Script::default();
        let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
            let disk = insert_device(task, "disk", &script).await.unwrap();
            (disk, attach_writer(task, disk, "client").await.unwrap())
        });
        for thread in [1, 2] {
            let user = backend.clone();
            world.spawn_io(thread, "writes", async move |lane| {
                for _ in 0..5 {
                    fill(lane, &user, at(0, 512), 1).await.unwrap();
                    drystone_core::runtime::yield_now().await;
                }
            });
        }
        world.control.spawn(async move |task: &mut Task<'_>| {
            for _ in 0..5 {
                drop(task.drain(&[disk]).await);
            }
        });
        drop(backend);
        world.end();
    }
}

/// 15: replacing a child ended the parent's drain for a moment, and requests slipped through to a node that was to be
/// quiet.
#[test]
fn g15_no_request_slips_to_a_quiet_node_while_a_child_is_replaced() {
    for seed in 0..100 {
        let world = World::new(seed);
        let script = Script::default();
        let own = script.clone();
        let (top, target, backend) = world.on_control(async move |task: &mut Task<'_>| {
            let (top, _) = insert_pair(task, ("top", "old"), &own).await.unwrap();
            let target = insert_device(task, "new", &own).await.unwrap();
            (top, target, attach_writer(task, top, "client").await.unwrap())
        });
        world.spawn_io(1, "writes", async move |lane| {
            for _ in 0..20 {
                fill(lane, &backend, at(0, 512), 1).await.unwrap();
            }
        });
        world.on_control(async move |task: &mut Task<'_>| {
            let quiet = task.drain(&[target]).await;
            let mut plan = Plan::new();
            plan.set_child(top, ChildKey::File, target, Role::FILTER_CHILD);
            task.apply(plan).await.unwrap();
            for _ in 0..10 {
                drystone_core::runtime::yield_now().await;
            }
            assert_eq!(script.requests("new"), 0);
            drop(quiet);
        });
        world.end();
    }
}

/// 16: devices kept submitting during a drain; then their requests were queued, but the queued ones still counted as in
/// flight, and the drain waited for them.
#[test]
fn g16_requests_that_wait_at_the_gate_do_not_hold_up_the_drain() {
    let world = World::new(1);
    let script = Script::default();
    let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        (disk, attach_writer(task, disk, "client").await.unwrap())
    });
    let (begun, end) = (Event::default(), Event::default());
    let (closed, open) = (begun.clone(), end.clone());
    world.control.spawn(async move |task: &mut Task<'_>| {
        let quiet = task.drain(&[disk]).await;
        closed.set();
        open.wait().await;
        drop(quiet);
    });
    world.sim.run_until(|| begun.is_set()).unwrap();
    world.spawn_io(1, "writes", async move |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap());
    world.sim.settle().unwrap();
    assert!(world.sim.pending().iter().any(|task| task.name == "writes"));
    world.on_control(async move |task: &mut Task<'_>| drop(task.drain(&[disk]).await));
    end.set();
    world.end();
}

/// 17: a resize drained the node of another thread while holding that thread's lock. Here a resize is a request like any
/// other: drains on both sides of it come and go.
#[test]
fn g17_a_resize_between_two_drains_ends() {
    for seed in 0..100 {
        let world = World::new(seed);
        let script = Script::default();
        let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
            let disk = insert_device(task, "disk", &script).await.unwrap();
            let grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), ..Grant::WRITER };
            (disk, attach::<ReadWrite>(task, disk, "client", grant).await.unwrap())
        });
        for _ in 0..2 {
            world.control.spawn(async move |task: &mut Task<'_>| {
                let quiet = task.drain(&[disk]).await;
                drystone_core::runtime::yield_now().await;
                drop(quiet);
            });
        }
        for (thread, len) in [(1, 1 << 20), (2, 2 << 20)] {
            let user = backend.clone();
            world.spawn_io(thread, "resizes", async move |lane| {
                lane.enter(&user).await.resize(len, Preallocation::Off).await.unwrap();
            });
        }
        drop(backend);
        world.end();
    }
}

/// 21: a wrapper that waits for an asynchronous operation stored its result without waking the thread that waited.
#[test]
fn g21_an_answer_wakes_whoever_waits_on_another_thread() {
    for seed in 0..100 {
        let world = World::new(seed);
        for thread in [1, 2] {
            let control = world.control.clone();
            world.spawn_io(thread, "asks", async move |_| {
                for round in 0..5 {
                    let answer = control.call(async move |task: &mut Task<'_>| {
                        drop(task.drain_all().await);
                        round
                    });
                    assert_eq!(answer.await.unwrap(), round);
                }
            });
        }
        world.end();
    }
}
