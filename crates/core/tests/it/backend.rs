//! Backends: what a user can rely on after its root has moved or gone.

use drystone_base::Kind;
use drystone_core::backend::{Backend, ReadOnly};
use drystone_core::control::{Plan, RootSpec, Task};
use drystone_core::graph::permission::Grant;

use crate::scripted::Script;
use crate::world::{World, at, attach_writer, detach, insert_device, load};

#[test]
fn requests_of_a_detached_user_fail() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let node = insert_device(task, "disk", &script).await.unwrap();
        attach_writer(task, node, "client").await.unwrap()
    });
    let user = backend.clone();
    world.on_control(async move |task: &mut Task<'_>| detach(task, &user).await.unwrap());
    let result = world.on_io(async |lane| load(lane, &backend, at(0, 512)).await);
    assert_eq!(result.unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn requests_of_a_user_whose_plan_was_refused_fail() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let node = insert_device(task, "disk", &script).await.unwrap();
        attach_writer(task, node, "client").await.unwrap();
        let mut plan = Plan::new();
        let spec = RootSpec { name: "other".into(), grant: Grant::WRITER, stays: false };
        let backend: Backend<ReadOnly> = plan.attach_root(task.gs(), node, spec);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::InUse);
        backend
    });
    let result = world.on_io(async |lane| load(lane, &backend, at(0, 512)).await);
    assert_eq!(result.unwrap_err().kind(), Kind::NotFound);
}
