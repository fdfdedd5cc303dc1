//! What a job is given: pauses, the end of it, and what its filter sees.

use std::cell::Cell;
use std::rc::Rc;

use drystone_base::Kind;
use drystone_core::control::Task;
use drystone_core::job::{JobCtx, JobHandle};
use drystone_testkit::sim::Sim;

use crate::fixture::start;

/// A job of one lane on I/O thread 1 of a graph, and its handle.
fn job(sim: &Sim) -> (JobCtx, JobHandle) {
    JobCtx::new(sim.io(1), 1, start(sim))
}

#[test]
fn a_job_stands_still_while_it_is_paused_and_pauses_count() {
    let sim = Sim::seeded(1);
    let (job, handle) = job(&sim);
    let rounds = Rc::new(Cell::new(0));
    let counted = Rc::clone(&rounds);
    handle.pause();
    handle.pause();
    sim.spawn(&sim.io(1), "job", async move {
        job.run(async move |job: &mut JobCtx| {
            for _ in 0..3 {
                job.pause_point().await.unwrap();
                counted.set(counted.get() + 1);
            }
        })
        .await;
    });
    sim.settle().unwrap();
    handle.resume();
    sim.settle().unwrap();
    assert_eq!(rounds.get(), 0, "paused twice, resumed once");
    handle.resume();
    handle.resume();
    sim.run_to_end().unwrap();
    assert_eq!(rounds.get(), 3);
}

#[test]
fn a_cancelled_job_ends_at_its_next_pause_point_paused_or_not() {
    for is_paused in [false, true] {
        let sim = Sim::seeded(1);
        let (job, handle) = job(&sim);
        if is_paused {
            handle.pause();
        }
        handle.cancel();
        let ended = sim.block_on(&sim.io(1), job.run(async |job: &mut JobCtx| job.pause_point().await));
        assert_eq!(ended.unwrap().unwrap_err().kind(), Kind::Cancelled);
    }
}

#[test]
fn a_sleeping_job_notices_a_pause_when_it_wakes() {
    let sim = Sim::seeded(1);
    let (job, handle) = job(&sim);
    let is_awake = Rc::new(Cell::new(false));
    let awake = Rc::clone(&is_awake);
    sim.spawn(&sim.io(1), "job", async move {
        job.run(async |job: &mut JobCtx| job.sleep_until(1_000).await.unwrap()).await;
        awake.set(true);
    });
    handle.pause();
    let clock = sim.io(1);
    sim.block_on(&clock.clone(), async move { clock.sleep_until(5_000).await }).unwrap();
    assert!(!is_awake.get());
    handle.resume();
    sim.run_to_end().unwrap();
    assert!(is_awake.get());
}

#[test]
fn a_filter_sees_the_whole_state_of_its_job_until_the_job_ends() {
    let sim = Sim::seeded(1);
    let (job, _handle) = job(&sim);
    let link = job.show("the whole state".to_owned());
    let filter = link.clone();
    assert_eq!(link.state().map(String::as_str), Some("the whole state"));
    let seen = sim.block_on(&sim.io(1), job.run(async move |_: &mut JobCtx| filter.state().is_some()));
    assert!(seen.unwrap());
    assert_eq!(link.state(), None);
}

#[test]
fn a_job_that_is_dropped_before_it_ran_has_ended() {
    let sim = Sim::seeded(1);
    let (job, _handle) = job(&sim);
    let link = job.show(1_u32);
    drop(job);
    assert_eq!(link.state(), None);
    sim.run_to_end().unwrap();
}

#[test]
fn a_job_brings_plain_data_from_the_control_thread() {
    let sim = Sim::seeded(1);
    let (job, _handle) = job(&sim);
    let counted = job.run(async |job: &mut JobCtx| {
        job.on_control(async |task: &mut Task<'_>| task.gs().with(|graph| graph.nodes().len())).await
    });
    assert_eq!(sim.block_on(&sim.io(1), counted).unwrap().unwrap(), 0);
    sim.run_to_end().unwrap();
}
