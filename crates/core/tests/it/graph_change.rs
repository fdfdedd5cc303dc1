//! Changes of the graph.

use drystone_base::Kind;
use drystone_core::control::{Opening, Plan, Task};

use crate::scripted::{Phase, Script};
use crate::world::{World, add_device, insert};

#[test]
fn one_plan_cannot_bring_in_two_nodes_of_one_name() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (mut one, mut two) = (Opening::new(task), Opening::new(task));
        add_device(&mut one, "disk", &script).unwrap();
        add_device(&mut two, "disk", &script).unwrap();
        let mut plan = Plan::new();
        plan.insert(one);
        plan.insert(two);
        assert_eq!(task.apply(plan).await.unwrap_err().kind(), Kind::AlreadyExists);
    });
}

#[test]
fn two_plans_cannot_bring_in_two_nodes_of_one_name() {
    let world = World::new(1);
    let script = Script::default();
    let first = script.clone();
    script.hold(Phase::Settle, "slow");
    world.control.spawn(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        add_device(&mut opening, "disk", &first).unwrap();
        add_device(&mut opening, "slow", &first).unwrap();
        let _ = insert(task, opening).await;
    });
    let second = script.clone();
    world.control.spawn(async move |task: &mut Task<'_>| {
        second.reached("settle slow").await;
        let mut opening = Opening::new(task);
        add_device(&mut opening, "disk", &second).unwrap();
        let error = insert(task, opening).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
    });
    world.sim.settle().unwrap();
    assert_eq!(script.count("stage disk"), 2);
    script.release(Phase::Settle, "slow");
    world.end();
    assert_eq!(
        (script.count("commit disk"), script.count("undo disk"), script.count("close disk")),
        (1, 1, 1)
    );
}
