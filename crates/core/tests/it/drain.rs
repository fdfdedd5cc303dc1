//! Drains.

use drystone_core::control::{Plan, Task};

use crate::scripted::Script;
use crate::world::{World, attach_writer, insert_device};

#[test]
fn a_task_can_change_what_it_has_drained() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let node = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, node, "client").await.unwrap();
        let quiet = task.drain(&[node]).await;
        let mut plan = Plan::new();
        plan.detach_root(backend.id());
        task.apply(plan).await.unwrap();
        drop(quiet);
    });
}
