//! States, verbs, groups and events, with jobs that do nothing but wait.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use drystone_base::{Error, Kind, Result};
use drystone_core::control::Task;
use drystone_core::runtime::LocalFuture;
use drystone_job::{
    Asked, Cancel, Created, Ending, Group, IoWork, JobSpec, JobType, Jobs, OnError, Operation, Running,
    Status, Threads, Verb,
};
use drystone_testkit::sim::{Sim, explore};

use crate::world::{Record, World};

const MS: u64 = 1_000_000;

/// What a last step did.
#[derive(Clone, Default)]
struct Steps(Arc<Mutex<Vec<&'static str>>>);

impl Steps {
    fn add(&self, step: &'static str) {
        self.0.lock().unwrap().push(step);
    }

    fn list(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

/// A last step that takes a while, and fails if told to.
struct Last {
    steps: Steps,
    fails: bool,
}

impl Ending for Last {
    fn prepare<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async {
            self.steps.add("prepare");
            task.sleep_until(task.local().now_ns() + MS).await;
            if self.fails { Err(Error::new(Kind::Io, "the last step failed")) } else { Ok(()) }
        })
    }

    fn commit<'a>(&'a mut self, _task: &'a mut Task<'_>) -> LocalFuture<'a, ()> {
        Box::pin(async { self.steps.add("commit") })
    }

    fn abort<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, ()> {
        Box::pin(async {
            task.sleep_until(task.local().now_ns() + MS).await;
            self.steps.add("abort");
        })
    }
}

fn spec(id: &str) -> JobSpec {
    JobSpec::new(id, JobType::Other("test"))
}

fn manual(id: &str) -> JobSpec {
    JobSpec { auto_finalize: false, auto_dismiss: false, ..spec(id) }
}

fn create(world: &World<'_>, spec: JobSpec) -> Result<(Created, Steps)> {
    let steps = Steps::default();
    let created = world.jobs.create(spec, Last { steps: steps.clone(), fails: false })?;
    Ok((created, steps))
}

/// A job that works for `ms` milliseconds.
fn launch(world: &World<'_>, spec: JobSpec, ms: u64) -> Steps {
    let (created, steps) = create(world, spec).unwrap();
    created.launch(async move |job: &mut Running<'_>| work(job, ms).await).unwrap();
    steps
}

async fn work(job: &mut Running<'_>, ms: u64) -> Result<()> {
    job.meter().set_total(ms);
    for _ in 0..ms {
        let at = job.local().now_ns() + MS;
        job.sleep_until(at).await?;
        job.meter().advance(1);
    }
    Ok(())
}

/// A job that becomes ready after a millisecond, and does as it is told.
fn launch_ready(world: &World<'_>, spec: JobSpec) -> Steps {
    let (created, steps) = create(world, spec).unwrap();
    let code = async |job: &mut Running<'_>| {
        work(job, 1).await?;
        job.ready();
        job.asked().await.map(|asked| assert!(matches!(asked, Asked::Complete | Asked::Leave)))
    };
    created.launch(code).unwrap();
    steps
}

fn status(world: &World<'_>, id: &str) -> Option<Status> {
    world.jobs.info(id).ok().map(|info| info.status)
}

fn until(world: &World<'_>, id: &str, wanted: Status) {
    world.sim.run_until(|| status(world, id) == Some(wanted)).unwrap();
}

#[test]
fn a_job_runs_and_is_gone() {
    let sim = Sim::seeded(1);
    let world = World::new(&sim);
    let steps = launch(&world, spec("j"), 3);
    world.wait("j");
    assert_eq!(
        world.record.of("j"),
        ["created", "running", "waiting", "pending", "COMPLETED", "concluded", "null"]
    );
    assert_eq!(steps.list(), ["prepare", "commit"]);
    assert!(world.jobs.list().is_empty());
    world.end();
}

#[test]
fn a_job_waits_to_be_finalized_and_dismissed() {
    let sim = Sim::seeded(2);
    let world = World::new(&sim);
    let steps = launch(&world, manual("j"), 1);
    until(&world, "j", Status::Pending);
    sim.settle().unwrap();
    assert!(steps.list().is_empty());
    world.jobs.finalize("j").unwrap();
    world.jobs.finalize("j").unwrap();
    world.wait("j");
    let info = world.jobs.info("j").unwrap();
    assert_eq!((info.status, info.progress.current, info.error), (Status::Concluded, 1, None));
    world.jobs.dismiss("j").unwrap();
    assert_eq!(
        world.record.of("j"),
        ["created", "running", "waiting", "pending", "PENDING", "COMPLETED", "concluded", "null"]
    );
    assert_eq!(steps.list(), ["prepare", "commit"]);
    world.end();
}

#[test]
fn malformed_and_taken_ids_are_refused_and_an_id_can_be_used_again() {
    let sim = Sim::seeded(3);
    let world = World::new(&sim);
    for id in ["", "1a", "-a", "a b", "a/b", "_x", "ä"] {
        assert_eq!(create(&world, spec(id)).err().unwrap().kind(), Kind::InvalidInput, "{id}");
    }
    let first = create(&world, spec("id0")).unwrap();
    assert_eq!(create(&world, spec("id0")).err().unwrap().kind(), Kind::AlreadyExists);
    let other = create(&world, spec("id1.x-y_Z")).unwrap();
    drop(first);
    let again = create(&world, spec("id0")).unwrap();
    drop((other, again));
    assert_eq!(world.record.of("id0"), ["created", "null", "created", "null"]);
    assert!(world.jobs.list().is_empty());
    world.end();
}

#[test]
fn a_negative_speed_is_refused() {
    let sim = Sim::seeded(4);
    let world = World::new(&sim);
    assert_eq!(create(&world, JobSpec { speed: -1, ..spec("j") }).err().unwrap().kind(), Kind::InvalidInput);
    assert_eq!(world.record.of("j"), ["created", "null"]);
    launch(&world, spec("j"), 3);
    assert_eq!(world.jobs.set_speed("j", -1).unwrap_err().kind(), Kind::InvalidInput);
    world.jobs.set_speed("j", 5).unwrap();
    assert_eq!(world.jobs.info("j").unwrap().progress.speed, 5);
    world.end();
}

/// Brings a job with manual steps into `wanted`.
fn job_in(world: &World<'_>, wanted: Status) -> Option<Created> {
    match wanted {
        Status::Created => return Some(create(world, manual("j")).unwrap().0),
        Status::Ready | Status::Standby => drop(launch_ready(world, manual("j"))),
        Status::Pending | Status::Concluded => drop(launch(world, manual("j"), 1)),
        _ => drop(launch(world, manual("j"), 1000)),
    }
    match wanted {
        Status::Paused => {
            sim_settle(world);
            world.jobs.pause("j").unwrap();
        }
        Status::Standby => {
            until(world, "j", Status::Ready);
            world.jobs.pause("j").unwrap();
        }
        Status::Concluded => {
            until(world, "j", Status::Pending);
            world.jobs.finalize("j").unwrap();
        }
        Status::Aborting => {
            sim_settle(world);
            world.jobs.cancel("j", Cancel::Force).unwrap();
        }
        _ => {}
    }
    until(world, "j", wanted);
    None
}

fn sim_settle(world: &World<'_>) {
    world.sim.settle().unwrap();
}

const REACHABLE: [Status; 8] = [
    Status::Created,
    Status::Running,
    Status::Paused,
    Status::Ready,
    Status::Standby,
    Status::Pending,
    Status::Aborting,
    Status::Concluded,
];

#[test]
fn every_verb_in_every_state_is_accepted_or_changes_nothing() {
    for wanted in REACHABLE {
        for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::Change) {
            let sim = Sim::seeded(5);
            let world = World::new(&sim);
            let created = job_in(&world, wanted);
            let before = world.record.of("j");
            if verb == Verb::Resume
                && wanted.accepts(verb)
                && !matches!(wanted, Status::Paused | Status::Standby)
            {
                world.jobs.pause("j").unwrap();
            }
            let result = match verb {
                Verb::Cancel => world.jobs.cancel("j", Cancel::Force),
                Verb::Pause if matches!(wanted, Status::Paused | Status::Standby) => {
                    assert_eq!(world.jobs.pause("j").unwrap_err().kind(), Kind::InvalidInput);
                    world.jobs.hold("j")
                }
                Verb::Pause => world.jobs.pause("j"),
                Verb::Resume => world.jobs.resume("j"),
                Verb::SetSpeed => world.jobs.set_speed("j", 1),
                Verb::Complete => world.jobs.complete("j"),
                Verb::Finalize => world.jobs.finalize("j"),
                Verb::Dismiss => world.jobs.dismiss("j"),
                Verb::Change => Ok(()),
            };
            assert_eq!(result.is_ok(), wanted.accepts(verb), "{verb} in {wanted}");
            if let Err(error) = result {
                let text = format!("job 'j' in state '{wanted}' cannot accept command verb '{verb}'");
                assert!(error.report().contains(&text), "{}", error.report());
                assert_eq!(world.record.of("j"), before);
            }
            drop(created);
            world.end();
        }
    }
}

#[test]
fn a_job_that_is_cancelled_in_any_state_ends() {
    let states = REACHABLE.into_iter().filter(|status| status.accepts(Verb::Cancel));
    for wanted in states {
        let sim = Sim::seeded(6);
        let world = World::new(&sim);
        let created = job_in(&world, wanted);
        world.jobs.cancel("j", Cancel::Force).unwrap();
        world.wait("j");
        if wanted == Status::Created {
            assert_eq!(
                created.unwrap().launch(async |_: &mut Running<'_>| Ok(())).unwrap_err().kind(),
                Kind::Cancelled
            );
            assert_eq!(world.record.of("j"), ["created", "aborting", "concluded", "null"]);
        } else {
            assert!(world.jobs.info("j").unwrap().error.is_some(), "{wanted}");
            world.jobs.dismiss("j").unwrap();
            let record = world.record.of("j");
            assert_eq!(
                record[record.len() - 4..],
                ["aborting", "CANCELLED", "concluded", "null"],
                "{wanted}"
            );
        }
        world.end();
    }
}

#[test]
fn a_soft_cancel_lets_a_job_that_is_ready_end_well() {
    let sim = Sim::seeded(7);
    let world = World::new(&sim);
    launch_ready(&world, spec("j"));
    until(&world, "j", Status::Ready);
    world.jobs.cancel("j", Cancel::Soft).unwrap();
    world.wait("j");
    let record = world.record.of("j");
    assert_eq!(record[..4], ["created", "running", "ready", "READY"]);
    assert!(record.contains(&"COMPLETED".to_owned()), "{record:?}");
    world.end();
}

#[test]
fn a_soft_cancel_of_a_job_that_a_user_paused_is_refused() {
    let sim = Sim::seeded(8);
    let world = World::new(&sim);
    launch(&world, spec("j"), 10);
    world.jobs.pause("j").unwrap();
    assert_eq!(world.jobs.cancel("j", Cancel::Soft).unwrap_err().kind(), Kind::InvalidInput);
    until(&world, "j", Status::Paused);
    world.jobs.cancel("j", Cancel::Force).unwrap();
    world.wait("j");
    let record = world.record.of("j");
    assert_eq!(record[..6], ["created", "running", "paused", "running", "aborting", "CANCELLED"]);
    world.end();
}

#[test]
fn what_follows_a_verb_at_once_can_be_waited_for() {
    explore(0..40, |sim| {
        let world = World::new(sim);
        let followed = |id: &str| sim.block_on(&sim.control(), world.jobs.followed(id)).unwrap();
        launch(&world, manual("j"), 3);
        world.jobs.pause("j").unwrap();
        until(&world, "j", Status::Paused);
        world.jobs.resume("j").unwrap();
        followed("j");
        assert_eq!(status(&world, "j"), Some(Status::Running));
        followed("j");
        assert_eq!(status(&world, "j"), Some(Status::Running), "nobody waits for its work");
        until(&world, "j", Status::Pending);
        followed("j");
        assert_eq!(status(&world, "j"), Some(Status::Pending), "nor for what nobody asked");
        world.jobs.finalize("j").unwrap();
        followed("j");
        assert_eq!(status(&world, "j"), Some(Status::Concluded));
        world.jobs.dismiss("j").unwrap();
        followed("j");

        launch(&world, JobSpec { auto_finalize: false, ..spec("k") }, 1);
        until(&world, "k", Status::Pending);
        world.jobs.cancel("k", Cancel::Force).unwrap();
        followed("k");
        assert_eq!(status(&world, "k"), None);
        world.end();
    });
}

#[test]
fn users_and_the_program_pause_apart() {
    let sim = Sim::seeded(9);
    let world = World::new(&sim);
    launch(&world, spec("j"), 3);
    world.jobs.hold("j").unwrap();
    world.jobs.pause("j").unwrap();
    sim.settle().unwrap();
    world.jobs.resume("j").unwrap();
    sim.settle().unwrap();
    assert_eq!(status(&world, "j"), Some(Status::Paused));
    assert!(world.jobs.resume("j").is_err(), "the user has not paused it");
    world.jobs.release("j");
    world.jobs.release("j");
    world.wait("j");
    assert_eq!(world.record.of("j")[..4], ["created", "running", "paused", "running"]);
    world.end();
}

#[test]
fn a_pause_in_a_sleep_is_acknowledged_at_once_and_does_not_shorten_it() {
    let sim = Sim::seeded(10);
    let world = World::new(&sim);
    let (created, _) = create(&world, spec("j")).unwrap();
    created
        .launch(async |job: &mut Running<'_>| {
            let start = job.local().now_ns();
            job.sleep_until(start + 1000 * MS).await?;
            assert!(job.local().now_ns() >= start + 1000 * MS);
            Ok(())
        })
        .unwrap();
    sim.settle().unwrap();
    for _ in 0..3 {
        let now = sim.now_ns();
        world.jobs.pause("j").unwrap();
        until(&world, "j", Status::Paused);
        world.jobs.resume("j").unwrap();
        until(&world, "j", Status::Running);
        assert_eq!(sim.now_ns(), now);
    }
    world.wait("j");
    assert!(sim.now_ns() >= 1000 * MS);
    world.end();
}

#[test]
fn another_speed_ends_the_wait_for_the_old_one() {
    let sim = Sim::seeded(11);
    let world = World::new(&sim);
    let (created, _) = create(&world, JobSpec { speed: 1, ..spec("j") }).unwrap();
    created
        .launch(async |job: &mut Running<'_>| {
            assert!(job.meter().spend(1 << 30, job.local().now_ns()));
            job.pace().await
        })
        .unwrap();
    sim.settle().unwrap();
    assert!(!world.jobs.info("j").unwrap().busy);
    world.jobs.set_speed("j", 0).unwrap();
    let now = sim.now_ns();
    until(&world, "j", Status::Pending);
    assert_eq!(sim.now_ns(), now);
    world.wait("j");
    world.end();
}

#[test]
fn an_error_that_stops_waits_for_the_user_and_shows_itself() {
    let sim = Sim::seeded(12);
    let world = World::new(&sim);
    let (created, _) = create(&world, spec("j")).unwrap();
    created
        .launch(async |job: &mut Running<'_>| {
            let error = Error::new(Kind::NoSpace, "the disk is full");
            job.failed(OnError::Enospc, Operation::Write, &error);
            job.pause_point().await
        })
        .unwrap();
    until(&world, "j", Status::Paused);
    assert_eq!(world.jobs.info("j").unwrap().io_status.name(), "nospace");
    world.jobs.resume("j").unwrap();
    assert_eq!(world.jobs.info("j").unwrap().io_status.name(), "ok");
    world.wait("j");
    assert_eq!(world.record.of("j")[..5], ["created", "running", "write:stop", "paused", "running"]);
    world.end();
}

/// Threads that have ended.
struct NoThreads;

impl Threads for NoThreads {
    fn spawn(&self, _work: IoWork) -> Result<()> {
        Err(Error::new(Kind::Cancelled, "the thread has ended"))
    }
}

#[test]
fn a_job_whose_thread_is_gone_fails() {
    let sim = Sim::seeded(13);
    let world = World::new(&sim);
    let record = Record::default();
    let jobs = Jobs::new(world.graph.control().clone(), NoThreads, record.clone());
    let steps = Steps::default();
    let ending = Last { steps: steps.clone(), fails: false };
    jobs.start(spec("j"), ending, async |_: &mut Running<'_>| Ok(())).unwrap();
    sim.block_on(&sim.control(), jobs.ended("j")).unwrap();
    assert_eq!(record.of("j"), ["created", "running", "aborting", "FAILED", "concluded", "null"]);
    assert_eq!(steps.list(), ["abort"]);
    drop(jobs);
    world.end();
}

/// Two jobs of one group: how long each works, and whether its last step fails.
fn pair(world: &World<'_>, works: [(u64, bool); 2]) -> (Group, [Steps; 2]) {
    let group = world.jobs.group();
    let jobs = [("a", works[0]), ("b", works[1])].map(|(id, (ms, fails))| {
        let steps = Steps::default();
        let spec = JobSpec { group: Some(group.clone()), auto_dismiss: false, ..spec(id) };
        let created = world.jobs.create(spec, Last { steps: steps.clone(), fails }).unwrap();
        ((created, ms), steps)
    });
    let steps = jobs.map(|((created, ms), steps)| {
        let code = async move |job: &mut Running<'_>| {
            work(job, ms % 100).await?;
            if ms >= 100 { Err(Error::new(Kind::Io, "the work failed")) } else { Ok(()) }
        };
        created.launch(code).unwrap();
        steps
    });
    (group, steps)
}

fn errors(world: &World<'_>) -> [Option<String>; 2] {
    ["a", "b"].map(|id| {
        world.wait(id);
        world.jobs.info(id).unwrap().error
    })
}

#[test]
fn a_group_completes_when_all_have_done_their_work() {
    let sim = Sim::seeded(14);
    let world = World::new(&sim);
    let (_, steps) = pair(&world, [(1, false), (50, false)]);
    until(&world, "a", Status::Waiting);
    sim.settle().unwrap();
    assert!(steps[0].list().is_empty());
    assert_eq!(errors(&world), [None, None]);
    assert_eq!(steps.map(|steps| steps.list()), [["prepare", "commit"]; 2]);
    world.end();
}

#[test]
fn a_member_that_fails_cancels_the_others() {
    for works in [
        [(1, false), (105, false)],
        [(105, false), (1, false)],
        [(101, false), (50, false)],
        [(50, false), (101, false)],
    ] {
        let sim = Sim::seeded(15);
        let world = World::new(&sim);
        let (_, steps) = pair(&world, works);
        let errors = errors(&world);
        assert!(errors.iter().all(Option::is_some), "{errors:?}");
        assert_eq!(errors.iter().flatten().filter(|error| error.contains("the work failed")).count(), 1);
        assert_eq!(steps.map(|steps| steps.list()), [["abort"]; 2]);
        world.end();
    }
}

#[test]
fn a_last_step_that_fails_undoes_those_that_were_prepared() {
    let sim = Sim::seeded(16);
    let world = World::new(&sim);
    let (_, [first, second]) = pair(&world, [(1, false), (1, true)]);
    let errors = errors(&world);
    assert!(errors[0].as_ref().unwrap().contains("cancelled"), "{errors:?}");
    assert!(errors[1].as_ref().unwrap().contains("the last step failed"));
    assert_eq!((first.list(), second.list()), (vec!["prepare", "abort"], vec!["prepare", "abort"]));
    world.end();
}

#[test]
fn a_cancel_at_any_step_ends_the_whole_group() {
    let mut step = 0;
    loop {
        let sim = Sim::seeded(17);
        let world = World::new(&sim);
        let (_, steps) = pair(&world, [(20, false), (30, false)]);
        let start = sim.steps();
        let is_over = || {
            sim.steps() - start >= step || world.jobs.list().iter().all(|job| job.status == Status::Concluded)
        };
        sim.run_until(is_over).unwrap();
        let was_over = sim.steps() - start < step;
        // Too late is fine, as long as it is too late for both.
        let _ = world.jobs.cancel(if step % 2 == 0 { "a" } else { "b" }, Cancel::Force);
        let [first, second] = errors(&world);
        assert_eq!(first.is_some(), second.is_some(), "step {step}");
        let expected = if first.is_some() { "abort" } else { "commit" };
        assert!(steps.iter().all(|steps| steps.list().last() == Some(&expected)), "step {step}");
        world.end();
        if was_over {
            break;
        }
        step += 1;
    }
    assert!(step > 20);
}

/// 49: a list of jobs was walked while cancelling one of them freed others.
#[test]
fn g49_all_jobs_are_cancelled_while_groups_end() {
    for steps in 0..40 {
        let sim = Sim::seeded(18);
        let world = World::new(&sim);
        pair(&world, [(1, false), (3, false)]);
        let created = create(&world, spec("c")).unwrap();
        launch(&world, spec("d"), 1000);
        launch_ready(&world, manual("e"));
        let target = sim.steps() + steps;
        sim.run_until(|| sim.steps() >= target).unwrap();
        world.jobs.cancel_all();
        sim.block_on(&sim.control(), world.jobs.all_ended()).unwrap();
        drop(created);
        assert!(world.jobs.info("d").is_err());
        world.end();
    }
}

#[test]
fn verbs_at_random_moments_leave_no_job_behind() {
    let seen = Arc::new(AtomicU32::new(0));
    let program = |sim: &Sim| {
        let world = World::new(sim);
        let mut rng = sim.rng();
        for id in ["j", "k"] {
            let spec = JobSpec {
                auto_finalize: rng.one_in(2),
                auto_dismiss: rng.one_in(2),
                speed: 1000,
                ..spec(id)
            };
            if rng.one_in(2) {
                launch(&world, spec, 20)
            } else {
                launch_ready(&world, spec)
            };
        }
        for _ in 0..40 {
            let target = sim.steps() + rng.below(6);
            // All may stand still.
            let _ = sim.run_until(|| sim.steps() >= target || world.jobs.list().is_empty());
            let id = if rng.one_in(2) { "j" } else { "k" };
            let done = match rng.below(9) {
                0 => world.jobs.pause(id),
                1 | 2 => world.jobs.resume(id),
                3 => world.jobs.set_speed(id, 7),
                4 => world.jobs.complete(id),
                5 => world.jobs.finalize(id),
                6 => world.jobs.dismiss(id),
                7 => world.jobs.cancel(id, Cancel::Soft),
                _ if rng.one_in(4) => world.jobs.cancel(id, Cancel::Force),
                _ => Ok(()),
            };
            seen.fetch_add(u32::from(done.is_ok()), Ordering::Relaxed);
        }
        world.end();
    };
    println!("{}", explore(0..500, program));
    assert!(seen.load(Ordering::Relaxed) > 2000);
}
