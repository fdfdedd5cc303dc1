//! Waits that could never end: what the types do not exclude fails at once, or is seen.

use drystone_base::Kind;
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::graph::permission::Grant;
use drystone_core::lane::Lane;

use crate::fixture::LEN;
use crate::scripted::Script;
use crate::world::{
    World, add_device, add_filter, at, attach_reader, attach_writer, detach, fill, filled, insert,
    insert_device, insert_pair, load,
};

#[test]
fn a_task_that_enters_what_it_keeps_quiet_is_told_so() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let (top, bottom) = insert_pair(task, ("top", "bottom"), &script).await.unwrap();
        let other = insert_device(task, "other", &script).await.unwrap();
        let backend = attach_writer(task, top, "client").await.unwrap();
        let beside = attach_writer(task, other, "another").await.unwrap();
        let quiet = task.drain(&[bottom]).await;
        let mut ticket = task.enter(&backend).await;
        let (result, buf) = ticket.write(at(0, 512).start(), filled(512, 1), Default::default()).await;
        assert_eq!(result.unwrap_err().kind(), Kind::InvalidInput);
        assert_eq!(buf.len(), 512, "the buffer comes back");
        assert_eq!(ticket.flush().await.unwrap_err().kind(), Kind::InvalidInput);
        assert_eq!(ticket.len(), 0);
        drop(ticket);
        task.enter(&beside).await.flush().await.unwrap();
        let all = task.drain_all().await;
        assert_eq!(task.enter(&beside).await.flush().await.unwrap_err().kind(), Kind::InvalidInput);
        drop(all);
        assert!(task.enter(&backend).await.flush().await.is_err(), "the first section lasts");
        drop(quiet);
        task.enter(&backend).await.flush().await.unwrap();
    });
}

#[test]
fn an_opening_does_not_visit_what_its_task_keeps_quiet() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let base = insert_device(task, "base", &script).await.unwrap();
        let quiet = task.drain(&[base]).await;
        let mut opening = Opening::new(task);
        let top = add_filter(&mut opening, "top", &script, base).unwrap();
        let file = add_device(&mut opening, "file", &script).unwrap();
        assert_eq!(opening.visit(top).await.err().unwrap().kind(), Kind::InvalidInput);
        opening.visit(file).await.unwrap().io().flush().await.unwrap();
        drop(quiet);
        opening.visit(top).await.unwrap().io().flush().await.unwrap();
    });
}

#[test]
fn a_task_waits_for_the_section_of_another() {
    let world = World::new(1);
    let script = Script::default();
    let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        (disk, attach_writer(task, disk, "client").await.unwrap())
    });
    world.control.spawn(async move |task: &mut Task<'_>| {
        let quiet = task.drain(&[disk]).await;
        let until_ns = task.local().now_ns() + 1_000_000;
        task.sleep_until(until_ns).await;
        drop(quiet);
    });
    world.control.spawn(async move |task: &mut Task<'_>| {
        task.enter(&backend).await.flush().await.unwrap();
    });
    world.end();
}

#[test]
fn a_user_that_was_taken_out_fails_and_does_not_wait() {
    let world = World::new(1);
    let script = Script::default();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let backend = attach_writer(task, disk, "client").await.unwrap();
        let quiet = task.drain(&[disk]).await;
        let all = task.drain_all().await;
        detach(task, &backend).await.unwrap();
        // The sections last, and what they keep out has nowhere to go.
        assert_eq!(task.enter(&backend).await.flush().await.unwrap_err().kind(), Kind::NotFound);
        drop((quiet, all));
        backend
    });
    let found = world.on_io(async |lane| {
        (fill(lane, &backend, at(0, 512), 1).await.err(), load(lane, &backend, at(0, 512)).await.err())
    });
    assert_eq!(found.0.map(|error| error.kind()), Some(Kind::NotFound));
    assert_eq!(found.1.map(|error| error.kind()), Some(Kind::NotFound));
}

#[test]
fn requests_that_wait_for_a_user_that_never_comes_fail() {
    let world = World::new(1);
    let script = Script::default();
    let (backend, keeper) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        let keeper = attach_writer(task, disk, "keeper").await.unwrap();
        let mut plan = Plan::new();
        let spec = RootSpec { name: "late".to_owned(), grant: Grant::WRITER, stays: false };
        let late = plan.attach_root::<drystone_core::backend::ReadWrite>(task.gs(), disk, spec);
        let quiet = task.drain_all().await;
        assert!(task.apply(plan).await.is_err(), "two writers");
        assert_eq!(task.enter(&late).await.flush().await.unwrap_err().kind(), Kind::NotFound);
        drop(quiet);
        (late, keeper)
    });
    let late = world.on_io(async |lane| fill(lane, &backend, at(0, 512), 1).await.unwrap_err());
    assert_eq!(late.kind(), Kind::NotFound);
    drop(keeper);
}

/// The types keep jobs and exports from it; a task that holds a `Control` of its own is only seen.
#[test]
fn a_call_of_the_control_thread_by_somebody_inside_is_seen() {
    let world = World::new(1);
    let script = Script::default();
    let (disk, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let disk = insert_device(task, "disk", &script).await.unwrap();
        (disk, attach_reader(task, disk, "client").await.unwrap())
    });
    let (local, control) = (world.sim.io(1), world.control.clone());
    let stuck = world.sim.block_on(&local.clone(), async move {
        let mut lane = Lane::new(local);
        let mut ticket = lane.enter(&backend).await;
        assert_eq!(ticket.len(), LEN);
        control.call(async move |task: &mut Task<'_>| drop(task.drain(&[disk]).await)).await.unwrap();
        ticket.flush().await
    });
    let text = stuck.unwrap_err().to_string();
    for line in [
        "a drain waits for the requests of 'client' to end (Gate), held by 'client'",
        "a caller waits for the answer of a control task (Task), held by the control thread",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn an_insert_under_a_section_of_everything_is_entered_after_it() {
    let world = World::new(1);
    let script = Script::default();
    world.on_control(async move |task: &mut Task<'_>| {
        let quiet = task.drain_all().await;
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "disk", &script).unwrap();
        insert(task, opening).await.unwrap();
        let backend = attach_writer(task, disk, "client").await.unwrap();
        assert_eq!(task.enter(&backend).await.flush().await.unwrap_err().kind(), Kind::InvalidInput);
        drop(quiet);
        task.enter(&backend).await.flush().await.unwrap();
    });
}
