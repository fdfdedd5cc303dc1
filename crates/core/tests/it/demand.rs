//! Commands that permissions would let through: jobs and overlays keep a node from being used in another way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use drystone_base::{Kind, Result};
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::{Demand, Opening, Plan, RootSpec, Task};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::Grant;
use drystone_core::runtime::yield_now;

use crate::fixture::overlay;
use crate::scripted::Script;
use crate::world::{Event, World, attach_writer, detach, insert_device, insert_pair, instant_disk};

/// A live snapshot, as a user's command takes it: of a disk that is free.
async fn snapshot(task: &mut Task<'_>, disk: NodeId, name: &str) -> Result<()> {
    let mut opening = Opening::new(task);
    let top = overlay(&mut opening, name, instant_disk(), Some(disk))?;
    let mut plan = Plan::new();
    plan.demand(disk, Demand::NoJob);
    plan.demand(disk, Demand::NoOverlay);
    plan.insert(opening);
    plan.replace(disk, top);
    task.apply(plan).await
}

/// A job edge, as the start of a job makes it: on a disk that is free. The demand stands before what it would forbid.
async fn start_job(task: &mut Task<'_>, disk: NodeId) -> Result<Backend<ReadOnly>> {
    let mut plan = Plan::new();
    plan.demand(disk, Demand::NoJob);
    plan.demand(disk, Demand::NoOverlay);
    let spec = RootSpec { name: "job".to_owned(), grant: Grant::PASSIVE, stays: true };
    let job = plan.attach_root(task.gs(), disk, spec);
    task.apply(plan).await?;
    Ok(job)
}

#[test]
fn a_snapshot_of_a_disk_that_a_job_works_on_is_refused() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
        let job = start_job(task, disk).await.unwrap();
        let refused = snapshot(task, disk, "top").await.unwrap_err();
        assert_eq!((refused.kind(), refused.node()), (Kind::InUse, Some("disk")));
        assert!(refused.report().contains("'job' works on it"), "{}", refused.report());
        assert!(start_job(task, disk).await.is_err(), "one job at a time");
        detach(task, &job).await.unwrap();
        snapshot(task, disk, "top").await.unwrap();
    });
    world.end();
}

#[test]
fn a_snapshot_of_a_backing_image_is_refused_though_nobody_uses_the_overlay() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
        snapshot(task, disk, "top").await.unwrap();
        let refused = snapshot(task, disk, "other").await.unwrap_err();
        assert_eq!(refused.kind(), Kind::InUse);
        assert!(refused.report().contains("backing image of node 'top'"), "{}", refused.report());
        let top = task.gs().find("top").unwrap();
        snapshot(task, top, "other").await.unwrap();
    });
    world.end();
}

#[test]
fn a_node_under_a_filter_is_refused_where_only_users_may_stand_on_it() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let (top, bottom) = insert_pair(task, ("top", "bottom"), &Script::default()).await.unwrap();
        let guest = attach_writer(task, top, "guest").await.unwrap();
        for (node, demand, is_free) in [
            (top, Demand::NoParent, true),
            (bottom, Demand::NoParent, false),
            (bottom, Demand::NoOverlay, true),
            (bottom, Demand::NoJob, true),
        ] {
            let mut plan = Plan::new();
            plan.demand(node, demand);
            let applied = task.apply(plan).await;
            assert_eq!(applied.is_ok(), is_free, "{demand:?}");
            if let Err(refused) = applied {
                assert!(
                    refused.report().contains("node 'top' (child 'file') stands on it"),
                    "{}",
                    refused.report()
                );
            }
        }
        drop(guest);
    });
    world.end();
}

#[test]
fn a_user_that_is_no_job_is_not_in_the_way() {
    let world = World::new(1);
    world.on_control(async |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
        let guest = attach_writer(task, disk, "guest").await.unwrap();
        snapshot(task, disk, "top").await.unwrap();
        drop(guest);
    });
    world.end();
}

#[test]
fn what_was_demanded_stays_so_until_the_commit() {
    for seed in 0..20 {
        let world = World::new(seed);
        let (disk, other) = world.on_control(async |task: &mut Task<'_>| {
            let disk = insert_device(task, "disk", &Script::default()).await.unwrap();
            (disk, insert_device(task, "other", &Script::default()).await.unwrap())
        });
        let (admitted, committed) = (Event::default(), Event::default());
        let (begun, done) = (admitted.clone(), committed.clone());
        world.control.spawn(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.demand(disk, Demand::NoJob);
            plan.set_read_only(other, true);
            let checked = plan.check(task.gs()).map_err(|(_, error)| error).unwrap();
            let staged = task.stage(checked).await.unwrap();
            let change = task.admit(staged).await.unwrap();
            begun.set();
            for _ in 0..50 {
                yield_now().await;
            }
            let after = change.settle().await.unwrap().commit();
            done.set();
            after.finish().await;
        });
        world.control.spawn(async move |task: &mut Task<'_>| {
            admitted.wait().await;
            start_job(task, disk).await.unwrap();
            assert!(committed.is_set(), "the job came to a disk that a change counted on being free");
        });
        world.end();
    }
}

#[test]
fn of_a_job_and_a_snapshot_that_start_at_once_one_is_refused() {
    let jobs = Arc::new(AtomicU32::new(0));
    for seed in 0..60 {
        let world = World::new(seed);
        let disk = world.on_control(async |task: &mut Task<'_>| {
            insert_device(task, "disk", &Script::default()).await.unwrap()
        });
        let done = Arc::new(AtomicU32::new(0));
        let (snapped, started, job_count) = (Arc::clone(&done), Arc::clone(&done), Arc::clone(&jobs));
        let snap = async move |task: &mut Task<'_>| {
            let taken = snapshot(task, disk, "top").await.is_ok();
            snapped.fetch_add(u32::from(taken), Ordering::Relaxed);
        };
        let start = async move |task: &mut Task<'_>| {
            let is_started = start_job(task, disk).await.is_ok();
            started.fetch_add(u32::from(is_started), Ordering::Relaxed);
            job_count.fetch_add(u32::from(is_started), Ordering::Relaxed);
        };
        world.control.spawn(snap);
        world.control.spawn(start);
        world.end();
        assert_eq!(done.load(Ordering::Relaxed), 1, "seed {seed}");
    }
    let jobs = jobs.load(Ordering::Relaxed);
    assert!((5..55).contains(&jobs), "the job was first on {jobs} of 60 schedules");
}
