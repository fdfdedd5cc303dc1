//! Jobs and quiet sections: a drain needs no co-operation of a job, and a job ends in none.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use drystone_base::rng::Rng;
use drystone_base::{Error, GuestRange, HostOffset, Kind, Result};
use drystone_core::control::{NewNode, Opening, Plan, Task};
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, Place, Tail};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_job::stream::{StreamBase, StreamOptions, start};
use drystone_job::{Cancel, Ending, JobSpec, JobType, Running, Status};
use drystone_testkit::client::SharedModel;
use drystone_testkit::disk::{OpKind, SimDisk};
use drystone_testkit::sim::Sim;

use crate::chain::{Chain, Images, names_below, options};
use crate::world::World;

const LEN: u64 = 256 << 10;
const MS: u64 = 1_000_000;

/// A chain of four images, its disks, and what it shows.
pub(crate) fn open(world: &World<'_>) -> (Chain, Vec<SimDisk>, SharedModel) {
    let images = Images::drawn(&[LEN; 4], &mut Rng::new(5));
    let disks = images.disks(&mut world.sim.rng());
    let chain = Chain::open(world, &disks, Grant::WRITER).unwrap();
    (chain, disks, Rc::new(RefCell::new(images.model)))
}

pub(crate) fn stream(world: &World<'_>, options: StreamOptions) {
    let jobs = world.jobs.clone();
    world.call(async move |task: &mut Task<'_>| start(&jobs, task, options).await).unwrap();
}

/// How many bytes were moved so far, in operations.
fn ops(disks: &[SimDisk]) -> usize {
    let moves = |disk: &SimDisk| disk.trace().iter().filter(|op| op.kind != OpKind::Flush).count();
    disks.iter().map(moves).sum()
}

/// A section that lasts until it is told to end.
#[derive(Clone, Default)]
struct Section {
    begun: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Section {
    /// Begins a section for `nodes`, or for everything.
    fn begin(world: &World<'_>, nodes: Vec<NodeId>) -> Self {
        let section = Self::default();
        let inside = section.clone();
        world.graph.control().spawn(async move |task: &mut Task<'_>| {
            let quiet = if nodes.is_empty() { task.drain_all().await } else { task.drain(&nodes).await };
            inside.begun.store(true, Ordering::Relaxed);
            while !inside.over.load(Ordering::Relaxed) {
                task.sleep_until(task.local().now_ns() + MS).await;
            }
            drop(quiet);
            inside.ended.store(true, Ordering::Relaxed);
        });
        world.sim.run_until(|| section.begun.load(Ordering::Relaxed)).unwrap();
        section
    }

    fn end(&self, world: &World<'_>) {
        self.over.store(true, Ordering::Relaxed);
        world.sim.run_until(|| self.ended.load(Ordering::Relaxed)).unwrap();
    }
}

/// Lets simulated time pass.
fn pass(sim: &Sim, ms: u64) {
    let local = sim.control();
    sim.block_on(&sim.control(), async move { local.sleep_until(local.now_ns() + ms * MS).await }).unwrap();
}

/// 10, F1: a section begins in the middle of a stream; the stream is not asked, and does nothing in it.
#[test]
fn a_stream_does_nothing_in_a_quiet_section_and_goes_on_after_it() {
    for seed in 0..40 {
        let sim = Sim::seeded(seed);
        let world = World::new(&sim);
        let (chain, disks, model) = open(&world);
        stream(&world, options("j", chain.top()));
        let steps = sim.steps() + seed * 7;
        sim.run_until(|| sim.steps() >= steps || world.jobs.info("j").is_err()).unwrap();
        let node =
            [vec![], vec![chain.top()], vec![chain.layers[2]]][usize::try_from(seed % 3).unwrap()].clone();
        let section = Section::begin(&world, node);
        let before = ops(&disks);
        let was_running = world.jobs.info("j").is_ok_and(|job| job.status == Status::Running);
        pass(&sim, 20);
        if was_running && seed % 3 < 2 {
            assert_eq!(ops(&disks), before, "seed {seed}");
        }
        let record = world.record.of("j");
        assert!(!record.contains(&"paused".to_owned()), "nobody asked it: {record:?}");
        section.end(&world);
        world.wait("j");
        assert!(world.record.of("j").contains(&"COMPLETED".to_owned()));
        assert_eq!(names_below(&world, &chain.guest), ["layer3"]);
        chain.read_all(&sim, &model).unwrap();
        world.end();
    }
}

/// A job that waits at a closed gate acknowledges a pause and a cancel.
#[test]
fn a_stream_pauses_and_ends_inside_of_a_quiet_section() {
    let sim = Sim::seeded(1);
    let world = World::new(&sim);
    let (chain, disks, model) = open(&world);
    let section = Section::begin(&world, vec![chain.top()]);
    let jobs = world.jobs.clone();
    let (top, is_begun) = (chain.top(), Arc::new(AtomicBool::new(false)));
    let begun = Arc::clone(&is_begun);
    world.graph.control().spawn(async move |task: &mut Task<'_>| {
        start(&jobs, task, StreamOptions { auto_dismiss: false, ..options("j", top) }).await.unwrap();
        begun.store(true, Ordering::Relaxed);
    });
    sim.run_until(|| is_begun.load(Ordering::Relaxed)).unwrap();
    pass(&sim, 5);
    let before = ops(&disks);
    world.jobs.pause("j").unwrap();
    sim.run_until(|| world.jobs.info("j").unwrap().status == Status::Paused).unwrap();
    world.jobs.resume("j").unwrap();
    sim.run_until(|| world.jobs.info("j").unwrap().status == Status::Running).unwrap();
    world.jobs.cancel("j", Cancel::Force).unwrap();
    world.wait("j");
    assert_eq!(names_below(&world, &chain.guest), ["layer3", "layer2", "layer1", "layer0"]);
    assert_eq!(ops(&disks), before, "nothing was read or written");
    section.end(&world);
    chain.read_all(&sim, &model).unwrap();
    world.end();
}

/// 11: a job called itself idle with its completion still queued, which came inside somebody's section.
#[test]
fn g11_a_job_does_not_complete_inside_of_a_quiet_section() {
    for seed in 0..40 {
        let sim = Sim::seeded(seed);
        let world = World::new(&sim);
        let (chain, disks, model) = open(&world);
        stream(&world, StreamOptions { auto_finalize: false, ..options("j", chain.top()) });
        sim.run_until(|| world.jobs.info("j").unwrap().status == Status::Pending).unwrap();
        let section = Section::begin(&world, if seed % 2 == 0 { vec![chain.layers[2]] } else { vec![] });
        let before = ops(&disks);
        world.jobs.finalize("j").unwrap();
        pass(&sim, 20);
        assert_eq!(world.jobs.info("j").unwrap().status, Status::Pending, "seed {seed}");
        assert_eq!(ops(&disks), before, "seed {seed}");
        section.end(&world);
        world.wait("j");
        assert_eq!(names_below(&world, &chain.guest), ["layer3"]);
        chain.read_all(&sim, &model).unwrap();
        world.end();
    }
}

/// 12: the device went away when the job had just begun; the job said idle without having paused, and the removal waited
/// for ever. F1: a drain whose end lets a job finish that removes nodes above the drained one.
#[test]
fn g12_a_device_goes_when_its_job_has_just_begun() {
    for seed in 0..60 {
        let sim = Sim::seeded(seed);
        let world = World::new(&sim);
        let (chain, _disks, _model) = open(&world);
        stream(&world, options("j", chain.top()));
        let steps = sim.steps() + seed % 20;
        sim.run_until(|| sim.steps() >= steps).unwrap();
        let (top, guest) = (chain.top(), chain.guest.id());
        world.call(async move |task: &mut Task<'_>| {
            let quiet = task.drain(&[top]).await;
            drop(quiet);
            let mut plan = Plan::new();
            plan.detach_root(guest);
            task.apply(plan).await.unwrap();
        });
        if seed % 2 == 0 {
            let _ = world.jobs.cancel("j", Cancel::Force);
        }
        world.wait("j");
        let nodes = world.call(async |task: &mut Task<'_>| task.gs().with(|graph| graph.nodes().len()));
        assert_eq!(nodes, 0, "seed {seed}: the job was the last user");
        world.end();
    }
}

/// F1: drains of two nodes at once, of all, one within the other, while jobs succeed, fail in their work or in their last
/// step.
#[test]
fn jobs_that_fail_anywhere_end_beside_nested_drains() {
    struct Last(bool, Arc<AtomicU32>);
    impl Ending for Last {
        fn prepare<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, Result<()>> {
            Box::pin(async {
                drop(task.drain_all().await);
                if self.0 { Err(Error::new(Kind::Io, "the last step failed")) } else { Ok(()) }
            })
        }

        fn commit<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, ()> {
            Box::pin(async { drop(task.drain_all().await) })
        }

        fn abort<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, ()> {
            Box::pin(async {
                drop(task.drain_all().await);
                self.1.fetch_add(1, Ordering::Relaxed);
            })
        }
    }
    for seed in 0..60_u64 {
        let sim = Sim::seeded(seed);
        let world = World::new(&sim);
        let (chain, _disks, model) = open(&world);
        let (fails_early, fails_late) = (seed % 3 == 1, seed % 3 == 2);
        let aborted = Arc::new(AtomicU32::new(0));
        let spec = JobSpec { auto_dismiss: false, ..JobSpec::new("j", JobType::Other("test")) };
        let reader = chain.guest.reader();
        let code = async move |job: &mut Running<'_>| {
            for _ in 0..10 {
                job.pause_point().await?;
                let (lanes, interrupt, _) = job.workers();
                if let Some(mut ticket) = interrupt.enter(&mut lanes[0], &reader).await {
                    ticket.flush().await?;
                }
            }
            if fails_early { Err(Error::new(Kind::Io, "the work failed")) } else { Ok(()) }
        };
        world.jobs.start(spec, Last(fails_late, Arc::clone(&aborted)), code).unwrap();
        let layers = chain.layers.clone();
        world.graph.control().spawn(async move |task: &mut Task<'_>| {
            for n in 0..5 {
                let outer = task.drain(&[layers[n % 4], layers[3]]).await;
                let inner = task.drain_all().await;
                task.sleep_until(task.local().now_ns() + MS / 3).await;
                if n % 2 == 0 {
                    drop(outer)
                } else {
                    drop((inner, outer))
                }
                task.sleep_until(task.local().now_ns() + MS / 3).await;
            }
        });
        world.wait("j");
        let fails = fails_early || fails_late;
        assert_eq!(world.jobs.info("j").unwrap().error.is_some(), fails, "seed {seed}");
        assert_eq!(aborted.load(Ordering::Relaxed), u32::from(fails));
        chain.read_all(&sim, &model).unwrap();
        world.end();
    }
}

/// 24: between choosing a base and linking it something waited, and the base was gone or another one.
#[test]
fn g24_the_base_that_is_linked_is_the_one_that_is_there() {
    let mut swapped_first = 0;
    for (seed, step) in (0..12).flat_map(|seed| (0..16).map(move |step| (seed, step))) {
        let sim = Sim::seeded(seed);
        let world = World::new(&sim);
        let (chain, _disks, model) = open(&world);
        let base = StreamBase::Base(chain.layers[1]);
        stream(&world, StreamOptions { base, auto_finalize: false, ..options("j", chain.top()) });
        sim.run_until(|| world.jobs.info("j").unwrap().status == Status::Pending).unwrap();
        world.jobs.finalize("j").unwrap();
        let begin = sim.steps();
        sim.run_until(|| sim.steps() - begin >= step || world.jobs.info("j").is_err()).unwrap();
        // Somebody puts a filter between the lowest layer that goes and the base.
        let (base, over) = (chain.layers[1], chain.layers[2]);
        let swapped =
            world.call(async move |task: &mut Task<'_>| insert_above(task, over, base).await.is_ok());
        world.wait("j");
        let names = names_below(&world, &chain.guest);
        swapped_first += u32::from(swapped);
        let expected: &[&str] = if swapped {
            &["layer3", "between", "layer1", "layer0"]
        } else {
            &["layer3", "layer1", "layer0"]
        };
        assert_eq!(names, expected, "seed {seed} step {step}");
        chain.read_all(&sim, &model).unwrap();
        world.end();
    }
    assert!((20..180).contains(&swapped_first), "{swapped_first}");
}

/// A filter that does nothing.
struct Through;

impl Driver for Through {
    fn format_name(&self) -> &'static str {
        "through"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        let at = HostOffset::new(range.start().get());
        let place = Place::Child { child: ChildKey::File, at, tail: Tail::Zeroes, transparent: true };
        Ok(Extent { len: range.len(), place })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }
}

async fn insert_above(task: &mut Task<'_>, over: NodeId, base: NodeId) -> Result<()> {
    let mut opening = Opening::new(task);
    let between = opening.add(NewNode {
        name: Some("between".to_owned()),
        driver: Box::new(Through),
        facts: NodeFacts { len: LEN, request_alignment: 1, read_only: true },
        children: vec![(ChildKey::File, Role::FILTER_CHILD, base)],
        owned: false,
        force_share: false,
    })?;
    let mut plan = Plan::new();
    plan.insert(opening);
    plan.set_child(over, ChildKey::Backing, between, Role::COW);
    task.apply(plan).await
}
