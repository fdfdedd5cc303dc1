//! A plan that does not come to its end closes what it would have brought in, wherever it was dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use drystone_base::{GuestRange, Kind, Result};
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::driver::{Access, Driver, Extent, Place};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef};
use drystone_testkit::sim::explore;

use crate::fixture::{LEN, node, start};

/// Counts how often it was closed.
struct Counted(Arc<AtomicU32>);

impl Driver for Counted {
    fn format_name(&self) -> &'static str {
        "counted"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Zero { explicit: true } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn close<'a>(&'a self, _local: &'a LocalRef) -> LocalFuture<'a, ()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {})
    }
}

/// A plan that brings in a node called `name` and attaches a user with `grant` to it, or to `node`.
fn plan(task: &Task<'_>, name: &str, closed: &Arc<AtomicU32>, user: Option<(NodeId, Grant)>) -> Plan {
    let mut opening = Opening::new(task);
    let id = opening.add(node(name, Counted(Arc::clone(closed)), LEN, vec![])).unwrap();
    let mut plan = Plan::new();
    plan.insert(opening);
    let (node, grant) = user.unwrap_or((id, Grant::PASSIVE));
    let spec = RootSpec { name: format!("user of {name}"), grant, stays: false };
    let _: Backend<ReadOnly> = plan.attach_root(task.gs(), node, spec);
    plan
}

/// Runs `scenario` on many schedules; afterwards, the node of its plan is closed, once.
fn check(scenario: impl AsyncFnOnce(&mut Task<'_>, &Arc<AtomicU32>) + Send + Clone + 'static) {
    explore(0..10, |sim| {
        let control = start(sim);
        let closed = Arc::new(AtomicU32::new(0));
        let (scenario, count) = (scenario.clone(), Arc::clone(&closed));
        control.spawn(async move |task: &mut Task<'_>| scenario(task, &count).await);
        drop(control);
        sim.run_to_end().unwrap();
        assert_eq!(closed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_plan_that_is_never_checked() {
    check(async |task: &mut Task<'_>, closed: &Arc<AtomicU32>| drop(plan(task, "a", closed, None)));
}

#[test]
fn a_plan_that_was_checked() {
    check(async |task: &mut Task<'_>, closed: &Arc<AtomicU32>| {
        drop(plan(task, "a", closed, None).check(task.gs()).map_err(|(_, error)| error).unwrap());
    });
}

#[test]
fn a_plan_that_was_staged() {
    check(async |task: &mut Task<'_>, closed: &Arc<AtomicU32>| {
        let checked = plan(task, "a", closed, None).check(task.gs()).map_err(|(_, error)| error).unwrap();
        drop(task.stage(checked).await.unwrap());
    });
}

/// Lets nobody else do more than read.
const ALONE: Grant = Grant { perm: Perm::NONE, shared: Perm::CONSISTENT_READ };

/// A graph of one node called `disk`.
async fn disk(task: &mut Task<'_>, kept: &Arc<AtomicU32>) -> NodeId {
    task.apply(plan(task, "disk", kept, None)).await.unwrap();
    task.gs().find("disk").unwrap()
}

#[test]
fn a_plan_that_is_refused() {
    check(async |task: &mut Task<'_>, closed: &Arc<AtomicU32>| {
        let kept = Arc::new(AtomicU32::new(0));
        let disk = disk(task, &kept).await;
        task.apply(plan(task, "b", &kept, Some((disk, ALONE)))).await.unwrap();
        let refused = task.apply(plan(task, "a", closed, Some((disk, Grant::WRITER)))).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::InUse);
        assert_eq!(closed.load(Ordering::Relaxed), 1, "when the command answers, not later");
        assert_eq!(kept.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_plan_that_another_change_has_made_impossible() {
    check(async |task: &mut Task<'_>, closed: &Arc<AtomicU32>| {
        let kept = Arc::new(AtomicU32::new(0));
        let disk = disk(task, &kept).await;
        let late = plan(task, "a", closed, Some((disk, Grant::WRITER)));
        let staged = task.stage(late.check(task.gs()).map_err(|(_, error)| error).unwrap()).await.unwrap();
        task.apply(plan(task, "b", &kept, Some((disk, ALONE)))).await.unwrap();
        let refused = task.admit(staged).await.err().unwrap();
        assert_eq!(refused.kind(), Kind::InUse);
        assert_eq!(closed.load(Ordering::Relaxed), 1, "when the command answers, not later");
        assert!(task.gs().find("a").is_err());
        assert_eq!(kept.load(Ordering::Relaxed), 0);
    });
}
