//! `block-stream` on chains of qcow2 images.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drystone_base::rng::Rng;
use drystone_base::{Kind, Result};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::{Demand, Opening, Plan, RootSpec, Task};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_job::stream::{StreamBase, StreamOptions, start};
use drystone_job::{Cancel, OnError, Status};
use drystone_testkit::client::{Load, Mix, SharedModel};
use drystone_testkit::crash::PowerSweep;
use drystone_testkit::disk::{DiskOptions, Fault, FaultEffect, Image, OpFilter, OpKind, SimDisk};
use drystone_testkit::graph::SimDriver;
use drystone_testkit::model::DiscardRule;
use drystone_testkit::overlay::SimOverlay;
use drystone_testkit::sim::{Sim, explore};

use crate::chain::{Chain, Images, backing_of, demand_consistent, names_below, options};
use crate::world::World;

const LEN: u64 = 512 << 10;

/// Four layers on disks, with a guest.
struct Set<'w, 's> {
    world: &'w World<'s>,
    disks: Vec<SimDisk>,
    chain: Chain,
    model: SharedModel,
}

fn images(seed: u64) -> Images {
    Images::drawn(&[LEN; 4], &mut Rng::new(seed))
}

impl<'w, 's> Set<'w, 's> {
    fn open(world: &'w World<'s>, images: &Images) -> Self {
        Self::open_as(world, images, Grant::WRITER)
    }

    /// With a guest that wants and shares this.
    fn shared(world: &'w World<'s>, grant: Grant) -> Self {
        Self::open_as(world, &images(7), grant)
    }

    fn open_as(world: &'w World<'s>, images: &Images, grant: Grant) -> Self {
        let disks = images.disks(&mut world.sim.rng());
        let chain = Chain::open(world, &disks, grant).unwrap();
        Self { world, disks, chain, model: Rc::new(RefCell::new(images.model.clone())) }
    }

    fn new(world: &'w World<'s>) -> Self {
        Self::open(world, &images(7))
    }

    fn options(&self) -> StreamOptions {
        options("j", self.chain.top())
    }

    fn start(&self, options: StreamOptions) -> Result<()> {
        let jobs = self.world.jobs.clone();
        self.world.call(async move |task: &mut Task<'_>| start(&jobs, task, options).await)
    }

    fn names(&self) -> Vec<String> {
        names_below(self.world, &self.chain.guest)
    }

    fn read_all(&self) {
        self.chain.read_all(self.world.sim, &self.model).unwrap();
    }

    /// Clients that make random requests; how many are still at it.
    fn load(&self, requests: u64) -> Rc<Cell<u32>> {
        let sim = self.world.sim;
        let running = Rc::new(Cell::new(2));
        let mut seeds = Rng::new(sim.seed() ^ 0x10ad);
        for thread in [1, 2] {
            let (mut client, running) = (self.chain.client(sim, thread, &self.model), Rc::clone(&running));
            let mut rng = Rng::new(seeds.next_u64());
            let mix = Mix { reads: 4, writes: 6, zeroes: 1, discards: 1, flushes: 1 };
            let load = Load { mix, discard: DiscardRule::OldOrZero, ..Load::new(requests, LEN) };
            sim.spawn(&sim.io(thread), "guest", async move {
                load.run(&mut client, &mut rng, |error| panic!("{}", error.report())).await;
                running.set(running.get() - 1);
            });
        }
        running
    }

    /// Closes the chain and looks at the images.
    fn close(self) -> Vec<Image> {
        self.read_all();
        let Self { world, disks, chain, .. } = self;
        chain.close(world).unwrap();
        let images: Vec<Image> = disks.iter().map(SimDisk::image).collect();
        images.iter().for_each(demand_consistent);
        images
    }
}

fn base(set: &Set<'_, '_>, layer: usize) -> StreamOptions {
    StreamOptions { base: StreamBase::Base(set.chain.layers[layer]), ..set.options() }
}

/// What the images on `disks` show: those that `kept` numbers.
fn reopen(sim: &Sim, images: &[Image], model: &SharedModel) {
    let world = World::new(sim);
    let mut rng = sim.rng();
    let disks: Vec<SimDisk> =
        images.iter().map(|image| SimDisk::new(image.clone(), DiskOptions::seeded(rng.next_u64()))).collect();
    let chain = Chain::open(&world, &disks, Grant::WRITER).unwrap();
    chain.read_all(sim, model).unwrap();
    chain.close(&world).unwrap();
    world.end();
}

#[test]
fn everything_goes_into_the_top_and_the_layers_leave() {
    let sim = Sim::seeded(1);
    let world = World::new(&sim);
    let set = Set::new(&world);
    assert_eq!(set.names(), ["layer3", "layer2", "layer1", "layer0"]);
    set.start(set.options()).unwrap();
    let names = set.names();
    assert!(names[0].starts_with("#block"), "{names:?}");
    assert_eq!(names[1..], ["layer3", "layer2", "layer1", "layer0"]);
    world.wait("j");
    assert_eq!(set.names(), ["layer3"]);
    assert_eq!(
        world.record.of("j"),
        ["created", "running", "waiting", "pending", "COMPLETED", "concluded", "null"]
    );
    let left = world.call(async |task: &mut Task<'_>| task.gs().with(|graph| graph.nodes().len()));
    assert_eq!(left, 2, "the top and its file");
    let model = Rc::clone(&set.model);
    let images = set.close();
    assert_eq!(backing_of(&images[3]), None);
    reopen(&Sim::seeded(2), &images[3..], &model);
    world.end();
}

#[test]
fn layers_down_to_a_base_leave() {
    for (bottom, speed) in [(false, 0), (true, 0), (false, 1 << 20)] {
        let sim = Sim::seeded(3);
        let world = World::new(&sim);
        let set = Set::new(&world);
        let base = if bottom {
            StreamBase::Bottom(set.chain.layers[2])
        } else {
            StreamBase::Base(set.chain.layers[1])
        };
        set.start(StreamOptions { base, speed, filter_node_name: Some("cor".to_owned()), ..set.options() })
            .unwrap();
        assert_eq!(set.names()[0], "cor");
        world.wait("j");
        assert_eq!(set.names(), ["layer3", "layer1", "layer0"]);
        let model = Rc::clone(&set.model);
        let images = set.close();
        assert_eq!(backing_of(&images[3]), Some(("layer1.img".to_owned(), "qcow2".to_owned())));
        reopen(&Sim::seeded(2), &[images[0].clone(), images[1].clone(), images[3].clone()], &model);
        world.end();
    }
}

#[test]
fn the_image_names_the_base_as_it_is_told() {
    let sim = Sim::seeded(4);
    let world = World::new(&sim);
    let set = Set::new(&world);
    let backing_file = Some("../other.qcow2".to_owned());
    let refused =
        set.start(StreamOptions { backing_file: backing_file.clone(), ..set.options() }).unwrap_err();
    assert_eq!((refused.kind(), refused.option()), (Kind::InvalidInput, Some("backing-file")));
    set.start(StreamOptions { backing_file, ..base(&set, 0) }).unwrap();
    world.wait("j");
    assert_eq!(backing_of(&set.close()[3]), Some(("../other.qcow2".to_owned(), "qcow2".to_owned())));
    world.end();
}

#[test]
fn a_bare_file_below_is_named_by_its_driver_or_as_raw() {
    for (mask_protocol, format) in [(false, "sim"), (true, "raw")] {
        let sim = Sim::seeded(5);
        let world = World::new(&sim);
        let set = Set::new(&world);
        let (bare, bottom) = (SimDisk::zeroed(LEN, 1), set.chain.layers[0]);
        let bare = world.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let bare = opening.add(SimDriver::node("bare", &bare)).unwrap();
            let mut plan = Plan::new();
            plan.insert(opening);
            plan.set_child(bottom, ChildKey::Backing, bare, Role::COW);
            task.apply(plan).await.unwrap();
            bare
        });
        let base = StreamBase::Base(bare);
        set.start(StreamOptions { base, mask_protocol, ..set.options() }).unwrap();
        world.wait("j");
        assert_eq!(set.names(), ["layer3", "bare"]);
        assert_eq!(backing_of(&set.close()[3]), Some(("bare.img".to_owned(), format.to_owned())));
        world.end();
    }
}

#[test]
fn a_stream_with_nothing_to_do_succeeds_at_once() {
    for layer in [0, 3] {
        let sim = Sim::seeded(6);
        let world = World::new(&sim);
        let set = Set::new(&world);
        let options = if layer == 0 { options("j", set.chain.layers[0]) } else { base(&set, 2) };
        set.start(StreamOptions { auto_dismiss: false, ..options }).unwrap();
        world.wait("j");
        let info = world.jobs.info("j").unwrap();
        assert_eq!((info.error, info.progress.total, info.progress.current), (None, 0, 0));
        assert_eq!(set.names(), ["layer3", "layer2", "layer1", "layer0"]);
        set.close();
        world.end();
    }
}

#[test]
fn arguments_that_make_no_sense_change_nothing() {
    let sim = Sim::seeded(7);
    let world = World::new(&sim);
    let set = Set::new(&world);
    let layers = set.chain.layers.clone();
    let not_below = StreamOptions { base: StreamBase::Base(set.chain.top()), ..set.options() };
    let above = StreamOptions { base: StreamBase::Base(layers[3]), ..options("j", layers[1]) };
    let bad_speed = StreamOptions { speed: -1, ..set.options() };
    let bad_id = StreamOptions { id: "1".to_owned(), ..set.options() };
    let taken = StreamOptions { filter_node_name: Some("layer0".to_owned()), ..set.options() };
    for (options, kind) in [
        (not_below, Kind::InvalidInput),
        (above, Kind::InvalidInput),
        (bad_speed, Kind::InvalidInput),
        (bad_id, Kind::InvalidInput),
        (taken, Kind::AlreadyExists),
    ] {
        assert_eq!(set.start(options).unwrap_err().kind(), kind);
        assert_eq!(set.names(), ["layer3", "layer2", "layer1", "layer0"]);
        assert!(world.jobs.list().is_empty());
    }
    set.close();
    world.end();
}

/// 38: a conflicting user of a node made a stream abort the process.
#[test]
fn a_user_that_does_not_share_refuses_the_stream() {
    let sim = Sim::seeded(8);
    let world = World::new(&sim);
    let set = Set::new(&world);
    let top = set.chain.top();
    let _jealous: Backend<ReadOnly> = world.call(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        let grant = Grant { perm: Perm::NONE, shared: Perm::ALL.without(Perm::WRITE_UNCHANGED) };
        let spec = RootSpec { name: "jealous".to_owned(), grant, stays: false };
        let root = plan.attach_root(task.gs(), top, spec);
        task.apply(plan).await.unwrap();
        root
    });
    let refused = set.start(set.options()).unwrap_err();
    assert_eq!(refused.kind(), Kind::InUse);
    assert!(refused.report().contains("'jealous'"), "{}", refused.report());
    assert!(world.record.of("j").is_empty());
    set.close();
    world.end();
}

#[test]
fn a_layer_that_is_shorter_than_its_neighbours_stays_as_short_as_it_was() {
    let program = |sim: &Sim| {
        let mut rng = sim.rng();
        let lens: Vec<u64> = (0..4).map(|_| (8 + rng.below(24)) * 4096 + 512 * rng.below(8)).collect();
        let images = Images::drawn(&lens, &mut rng);
        let world = World::new(sim);
        let set = Set::open(&world, &images);
        let base = match rng.below(4) {
            0 => StreamBase::None,
            n => StreamBase::Base(set.chain.layers[usize::try_from(n).unwrap() - 1]),
        };
        set.start(StreamOptions { base, ..set.options() }).unwrap();
        world.wait("j");
        set.close();
        world.end();
    };
    println!("{}", explore(0..150, program));
}

/// Somebody makes nodes of the chain, or everything, quiet from time to time. Whether that is over.
fn drain_at_random(world: &World<'_>, set: &Set<'_, '_>, rng: &mut Rng) -> Arc<AtomicBool> {
    let (layers, mut rng) = (set.chain.layers.clone(), Rng::new(rng.next_u64()));
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    world.graph.control().spawn(async move |task: &mut Task<'_>| {
        for _ in 0..4 {
            task.sleep_until(task.local().now_ns() + rng.below(3_000_000)).await;
            let node = layers[rng.index(layers.len())];
            let is_there = task.gs().with(|graph| graph.node(node).is_some());
            let quiet = match (is_there, rng.one_in(3)) {
                (true, false) => task.drain(&[node]).await,
                _ => task.drain_all().await,
            };
            task.sleep_until(task.local().now_ns() + rng.below(3_000_000)).await;
            drop(quiet);
        }
        over.store(true, Ordering::Relaxed);
    });
    is_over
}

/// Everything at random: a guest, drains, pauses, speeds, and in the end a cancel or not.
fn shaken(sim: &Sim, images: &Images) -> bool {
    let world = World::new(sim);
    let set = Set::open(&world, images);
    let mut rng = sim.rng();
    let base = match rng.below(3) {
        0 => StreamBase::None,
        n => StreamBase::Base(set.chain.layers[usize::try_from(n).unwrap() - 1]),
    };
    let running = set.load(20);
    let speed = i64::try_from(rng.below(2) << 20).unwrap();
    set.start(StreamOptions {
        base,
        speed,
        auto_finalize: rng.one_in(3),
        auto_dismiss: false,
        ..set.options()
    })
    .unwrap();
    let drainer = drain_at_random(&world, &set, &mut rng);
    let is_over = || world.jobs.info("j").is_ok_and(|job| job.status == Status::Concluded);
    for _ in 0..12 {
        let target = sim.steps() + rng.below(120);
        // All may stand still.
        let _ = sim.run_until(|| sim.steps() >= target || is_over());
        let jobs = &world.jobs;
        let _ = match rng.below(8) {
            0 => jobs.pause("j"),
            1 | 2 => jobs.resume("j"),
            3 => jobs.set_speed("j", i64::try_from(rng.below(4) << 19).unwrap()),
            4 => jobs.hold("j").map(|()| jobs.release("j")),
            5 => jobs.finalize("j"),
            6 if rng.one_in(4) => jobs.cancel("j", if rng.one_in(2) { Cancel::Force } else { Cancel::Soft }),
            _ => Ok(()),
        };
    }
    let _ = world.jobs.resume("j");
    sim.run_until(|| is_over() || world.jobs.info("j").is_ok_and(|job| job.status == Status::Pending))
        .unwrap();
    let _ = world.jobs.finalize("j");
    world.wait("j");
    let done = world.jobs.info("j").unwrap().error.is_none();
    world.jobs.dismiss("j").unwrap();
    sim.run_until(|| running.get() == 0 && drainer.load(Ordering::Relaxed)).unwrap();
    let names = set.names();
    assert!(names[0] == "layer3" && (names.len() < 4) == done, "{names:?}");
    let nodes = world.call(async |task: &mut Task<'_>| task.gs().with(|graph| graph.nodes()));
    assert!(nodes.iter().all(|node| node.quiet == 0 && node.edges.iter().all(|edge| !edge.frozen)));
    assert!(nodes.iter().all(|node| node.read_only == (node.name != "layer3" && node.name != "layer3-file")));
    set.close();
    world.end();
    done
}

#[test]
fn under_load_and_verbs_at_random_no_byte_changes() {
    let chains: Vec<Images> = (0..8).map(images).collect();
    let done = Cell::new(0);
    let program = |sim: &Sim| {
        let images = &chains[usize::try_from(sim.seed()).unwrap() % chains.len()];
        done.set(done.get() + u32::from(shaken(sim, images)));
    };
    println!("{}", explore(0..600, program));
    assert!((100..550).contains(&done.get()), "{} of 600 completed", done.get());
}

#[test]
fn a_cancel_at_any_step_leaves_the_chain_and_what_was_copied() {
    let images = images(3);
    let mut step = 0;
    let mut kept = 0;
    loop {
        let sim = Sim::seeded(9);
        let world = World::new(&sim);
        let set = Set::open(&world, &images);
        let before = set.chain.allocated_in_top(&sim, LEN);
        set.start(StreamOptions { auto_dismiss: false, ..base(&set, 0) }).unwrap();
        let begin = sim.steps();
        let is_over = || world.jobs.info("j").unwrap().status == Status::Concluded;
        sim.run_until(|| sim.steps() - begin >= step || is_over()).unwrap();
        let was_over = is_over();
        let _ = world.jobs.cancel("j", if step % 2 == 0 { Cancel::Force } else { Cancel::Soft });
        world.wait("j");
        let done = world.jobs.info("j").unwrap().error.is_none();
        let expected: &[&str] =
            if done { &["layer3", "layer0"] } else { &["layer3", "layer2", "layer1", "layer0"] };
        assert_eq!(set.names(), expected, "step {step}");
        let after = set.chain.allocated_in_top(&sim, LEN);
        assert!(after >= before);
        kept += u32::from(!done && after > before);
        let images = set.close();
        assert_eq!(backing_of(&images[3]).unwrap().0, if done { "layer0.img" } else { "below.img" });
        world.end();
        if was_over {
            break;
        }
        step += 3;
    }
    assert!(kept > 10, "{kept}");
}

fn fault_at(set: &Set<'_, '_>, policy: OnError, effect: FaultEffect, nth: u64) -> StreamOptions {
    let kind = if effect == FaultEffect::NoSpace { OpKind::Write } else { OpKind::Read };
    let disk = &set.disks[if effect == FaultEffect::NoSpace { 3 } else { 0 }];
    disk.inject(Fault::nth(nth, OpFilter::of(kind), effect));
    StreamOptions { on_error: policy, auto_dismiss: false, ..set.options() }
}

/// Runs a stream in which one operation fails: how it ended, its record, and whether the fault was met.
fn disturbed(policy: OnError, effect: FaultEffect, nth: u64) -> Option<(Option<String>, Vec<String>)> {
    let sim = Sim::seeded(10);
    let world = World::new(&sim);
    let set = Set::new(&world);
    let options = fault_at(&set, policy, effect, nth);
    set.start(options).unwrap();
    let at_rest = || matches!(world.jobs.info("j").unwrap().status, Status::Concluded | Status::Paused);
    sim.run_until(at_rest).unwrap();
    if world.jobs.info("j").unwrap().status == Status::Paused {
        let wanted = if effect == FaultEffect::NoSpace { "nospace" } else { "failed" };
        assert_eq!(world.jobs.info("j").unwrap().io_status.name(), wanted);
        world.jobs.resume("j").unwrap();
    }
    world.wait("j");
    set.disks.iter().for_each(SimDisk::clear_faults);
    let was_hit = set.disks.iter().any(|disk| disk.faults_hit() > 0);
    let error = world.jobs.info("j").unwrap().error;
    assert_eq!(set.names().len(), if error.is_some() { 4 } else { 1 });
    let record = world.record.of("j");
    set.close();
    world.end();
    was_hit.then_some((error, record))
}

#[test]
fn an_error_at_any_operation_is_met_as_the_policy_says() {
    for effect in [FaultEffect::Io, FaultEffect::NoSpace] {
        for policy in [OnError::Report, OnError::Ignore, OnError::Enospc, OnError::Auto, OnError::Stop] {
            let mut met = 0;
            while let Some((error, record)) = disturbed(policy, effect, met) {
                met += 1;
                let words: Vec<&str> =
                    record.iter().map(String::as_str).filter(|word| word.contains("read:")).collect();
                let stops = policy == OnError::Stop
                    || (effect == FaultEffect::NoSpace && matches!(policy, OnError::Enospc | OnError::Auto));
                if words.is_empty() {
                    continue; // The last step failed, or what failed was not needed.
                }
                let expected = match policy {
                    _ if stops => "read:stop",
                    OnError::Ignore => "read:ignore",
                    _ => "read:report",
                };
                assert_eq!(words, [expected], "{policy:?} {effect:?} {met}");
                assert_eq!(error.is_none(), stops, "{policy:?} {effect:?} {met}: {error:?}");
            }
            assert!(met > 1, "{policy:?} {effect:?}: {met}");
        }
    }
}

#[test]
fn what_the_job_works_on_is_not_changed_by_others() {
    let sim = Sim::seeded(11);
    let world = World::new(&sim);
    let set = Set::shared(&world, Grant { shared: Perm::ALL, ..Grant::WRITER });
    set.start(StreamOptions { speed: 1, ..base(&set, 0) }).unwrap();
    let [bottom, middle, upper, top] = set.chain.layers.clone().try_into().unwrap();
    type Step = Box<dyn Fn(&mut Plan) + Send>;
    let plans: [(&str, Step); 4] = [
        ("a snapshot of the top", Box::new(move |plan| plan.demand(top, Demand::NoJob))),
        (
            "another layer below it",
            Box::new(move |plan| plan.set_child(upper, ChildKey::Backing, bottom, Role::COW)),
        ),
        ("no layer below it", Box::new(move |plan| plan.remove_child(top, ChildKey::Backing))),
        ("a change of a layer", Box::new(move |plan| plan.demand(middle, Demand::NoJob))),
    ];
    for (what, step) in plans {
        let refused = world.call(async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            step(&mut plan);
            task.apply(plan).await.unwrap_err()
        });
        assert_eq!(refused.kind(), Kind::InUse, "{what}");
        assert!(refused.report().contains("job 'j'"), "{what}: {}", refused.report());
    }
    let resizer = world.call(async move |task: &mut Task<'_>| {
        let mut plan = Plan::new();
        let grant = Grant { perm: Perm::RESIZE, shared: Perm::ALL };
        let spec = RootSpec { name: "resizer".to_owned(), grant, stays: false };
        let _root: Backend<ReadWrite> = plan.attach_root(task.gs(), top, spec);
        task.apply(plan).await.unwrap_err()
    });
    assert!(resizer.report().contains("job 'j'"), "{}", resizer.report());
    let second = set.start(StreamOptions { id: "k".to_owned(), ..set.options() }).unwrap_err();
    assert_eq!(second.kind(), Kind::InUse);
    assert!(second.report().contains("job 'j'"), "{}", second.report());
    world.jobs.cancel("j", Cancel::Force).unwrap();
    world.wait("j");
    set.close();
    world.end();
}

/// 51: every drain cut a rate limit's sleep short, so that the job was faster than its limit.
#[test]
fn g51_pauses_and_drains_do_not_make_a_job_faster_than_its_limit() {
    let full = Images::full(LEN);
    for is_disturbed in [false, true] {
        let sim = Sim::seeded(13);
        let world = World::new(&sim);
        let set = Set::open(&world, &full);
        let copied = LEN - set.chain.allocated_in_top(&sim, LEN);
        let speed = 256 << 10;
        let begin = sim.now_ns();
        set.start(StreamOptions { speed, ..set.options() }).unwrap();
        while world.jobs.info("j").is_ok() {
            let next = sim.now_ns() + 7_000_000;
            let local = sim.control();
            sim.block_on(&sim.control(), async move { local.sleep_until(next).await }).unwrap();
            if is_disturbed {
                let top = set.chain.top();
                world.call(async move |task: &mut Task<'_>| drop(task.drain(&[top]).await));
                let _ = world.jobs.pause("j");
                sim.settle().unwrap();
                let _ = world.jobs.resume("j");
            }
        }
        let ms = (sim.now_ns() - begin) / 1_000_000;
        let least = (copied - (64 << 10)) * 1000 / (256 << 10);
        assert!((least..least + 1500).contains(&ms), "{copied} bytes in {ms} ms");
        set.close();
        world.end();
    }
}

#[test]
fn a_snapshot_above_a_stream_is_taken_while_it_runs() {
    let images = images(5);
    let program = |sim: &Sim| {
        let world = World::new(sim);
        let set = Set::open(&world, &images);
        let running = set.load(15);
        let options = StreamOptions {
            base: StreamBase::Base(set.chain.layers[0]),
            ..options("j", set.chain.layers[2])
        };
        set.start(options).unwrap();
        let (top, file) = (set.chain.top(), SimDisk::zeroed(LEN, 9));
        world.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let file = opening.add(SimDriver::node("snapshot-file", &file)).unwrap();
            let snapshot = opening.add(SimOverlay::node("snapshot", LEN, file, Some(top))).unwrap();
            let mut plan = Plan::new();
            plan.demand(top, Demand::NoJob);
            plan.insert(opening);
            plan.replace(top, snapshot);
            task.apply(plan).await.unwrap();
        });
        world.wait("j");
        sim.run_until(|| running.get() == 0).unwrap();
        assert_eq!(set.names(), ["snapshot", "layer3", "layer2", "layer0"]);
        set.read_all();
        world.end();
    };
    println!("{}", explore(0..60, program));
}

#[test]
fn two_streams_in_one_chain_work_side_by_side() {
    let chains: Vec<Images> = (0..4).map(|seed| Images::drawn(&[LEN; 6], &mut Rng::new(seed))).collect();
    let program = |sim: &Sim| {
        let world = World::new(sim);
        let set = Set::open(&world, &chains[usize::try_from(sim.seed()).unwrap() % 4]);
        let running = set.load(15);
        let layers = set.chain.layers.clone();
        let part = |id, top: usize, base: usize| {
            let base = StreamBase::Base(layers[base]);
            StreamOptions { base, auto_dismiss: false, ..options(id, layers[top]) }
        };
        let (upper, lower) = (part("upper", 5, 3), part("lower", 3, 0));
        set.start(upper).unwrap();
        set.start(lower).unwrap();
        for id in ["upper", "lower"] {
            world.wait(id);
            assert_eq!(world.jobs.info(id).unwrap().error, None);
        }
        assert_eq!(set.names(), ["layer5", "layer3", "layer0"]);
        let nodes = world.call(async |task: &mut Task<'_>| task.gs().with(|graph| graph.nodes()));
        assert!(nodes.iter().all(|node| node.read_only != node.name.starts_with("layer5")));
        sim.run_until(|| running.get() == 0).unwrap();
        let images = set.close();
        assert_eq!(backing_of(&images[5]).unwrap().0, "layer3.img");
        assert_eq!(backing_of(&images[3]).unwrap().0, "layer0.img");
        world.end();
    };
    println!("{}", explore(0..150, program));
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_flushed() {
    let (old, new) = (Cell::new(0), Cell::new(0));
    (0..8).for_each(|seed| cut(&Images::drawn(&[64 << 10; 3], &mut Rng::new(seed)), (&old, &new)));
    assert!(old.get() > 500 && new.get() > 20, "{old:?} {new:?}");
}

/// Cuts the power at every operation of a stream; counts how often the image named the old and the new base when the job
/// had not told yet that it is done.
fn cut(images: &Images, (old, new): (&Cell<u32>, &Cell<u32>)) {
    let sweep = PowerSweep::new(11, images.list.clone());
    let work = |sim: &Sim, disks: &[SimDisk]| {
        let world = World::new(sim);
        if let Ok(chain) = Chain::open(&world, disks, Grant::WRITER) {
            let jobs = world.jobs.clone();
            let options =
                StreamOptions { base: StreamBase::Base(chain.layers[0]), ..options("j", chain.top()) };
            let _ = world.call(async move |task: &mut Task<'_>| start(&jobs, task, options).await);
            world.wait("j");
        }
        world.record.of("j").contains(&"COMPLETED".to_owned())
    };
    let swept = sweep.sweep(work, |sim, disks, done| {
        let found: Vec<Image> = disks.iter().map(SimDisk::image).collect();
        found.iter().for_each(demand_consistent);
        let backing = backing_of(&found[2]).unwrap().0;
        assert!(backing == "layer0.img" || (backing == "below.img" && !done), "{backing}");
        let seen = if backing == "below.img" { old } else { new };
        seen.set(seen.get() + u32::from(!done));
        // Whatever it names, it shows the same.
        let chain = if backing == "below.img" { found } else { vec![found[0].clone(), found[2].clone()] };
        reopen(sim, &chain, &Rc::new(RefCell::new(images.model.clone())));
    });
    println!("{swept}");
}
