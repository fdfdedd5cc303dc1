//! A graph of the core on simulated disks: what the sweeps and the load find out about it, and that they find planted
//! mistakes.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Kind};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::Task;
use drystone_core::graph::node::NodeId;
use drystone_testkit::client::{BackendClient, Load, Mix, SharedModel, Target, Watched};
use drystone_testkit::crash::{FaultSweep, PowerSweep};
use drystone_testkit::disk::{DiskOptions, Fault, FaultEffect, Image, OpFilter, OpKind, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::{ByteModel, Content, Ending};
use drystone_testkit::notation::range;
use drystone_testkit::sim::{Sim, explore};

const LEN: u64 = 65536;

fn shared(model: ByteModel) -> SharedModel {
    Rc::new(RefCell::new(model))
}

fn whole() -> GuestRange {
    GuestRange::new(GuestOffset::ZERO, LEN)
}

/// Three clients on two threads.
fn spawn_load(sim: &Sim, backend: &Backend<ReadWrite>, model: &SharedModel, load: &Load) {
    let mut seeds = sim.rng();
    for (thread, name) in [(1, "a"), (1, "b"), (2, "c")] {
        let mut client = Watched::new(BackendClient::new(backend, &sim.io(thread)), model);
        let (mut rng, load) = (Rng::new(seeds.next_u64()), load.clone());
        sim.spawn(&sim.io(thread), name, async move { load.run(&mut client, &mut rng, drop).await });
    }
}

/// Drains the node again and again, and looks whether the disk is at rest meanwhile.
fn spawn_drains(graph: &SimGraph<'_>, node: NodeId, disk: &SimDisk) {
    let disk = disk.clone();
    graph.control().spawn(async move |task: &mut Task<'_>| {
        for _ in 0..5 {
            let quiet = task.drain(&[node]).await;
            let begun = disk.trace().len();
            assert!(disk.trace().iter().all(|record| record.ended.is_some()), "a drain waits for everybody");
            task.sleep_until(task.local().now_ns() + 100_000).await;
            assert_eq!(disk.trace().len(), begun, "a request reached a quiet node");
            drop(quiet);
            task.sleep_until(task.local().now_ns() + 100_000).await;
        }
    });
}

#[test]
fn under_load_and_drains_every_read_is_explained() {
    let explored = explore(0..200, |sim| {
        let align_bytes = if sim.seed() % 2 == 0 { 1 } else { 512 };
        let options = DiskOptions { align_bytes, ..DiskOptions::seeded(sim.seed()) };
        let (disk, model) = (SimDisk::new(Image::new(LEN), options), shared(ByteModel::zeroed(LEN)));
        if sim.seed() % 3 == 0 {
            let effect = [FaultEffect::Io, FaultEffect::Short, FaultEffect::NoSpace];
            disk.inject(Fault::nth(sim.seed() % 31, OpFilter::any(), effect[sim.rng().index(3)]));
        }
        let graph = SimGraph::start(sim);
        let (node, backend) = graph.open_disk("disk", &disk);
        spawn_load(sim, &backend, &model, &Load::new(25, LEN));
        spawn_drains(&graph, node, &disk);
        graph.finish();
        model.borrow_mut().check(whole(), &disk.image().to_vec()).unwrap();
    });
    assert_eq!(explored.schedules, 200);
}

/// A misaligned write reads whole sectors and writes them back: what was zeroed between the two came back, because the
/// aligned middle of a zeroed range was not locked.
#[test]
fn a_misaligned_write_does_not_undo_zeroes_beside_it() {
    explore(0..200, |sim| {
        let options = DiskOptions { align_bytes: 512, ..DiskOptions::seeded(sim.seed()) };
        let (disk, model) = (SimDisk::new(Image::new(LEN), options), shared(ByteModel::zeroed(LEN)));
        let graph = SimGraph::start(sim);
        let (_, backend) = graph.open_disk("disk", &disk);
        let [mut first, mut second] =
            [1, 2].map(|thread| Watched::new(BackendClient::new(&backend, &sim.io(thread)), &model));
        sim.block_on(&sim.io(1), first.write(range("0..4K"), false)).unwrap().unwrap();
        sim.spawn(
            &sim.io(1),
            "writes",
            async move { first.write(range("1000..1100"), false).await.unwrap() },
        );
        sim.spawn(
            &sim.io(2),
            "zeroes",
            async move { second.write_zeroes(range("0..4K"), true).await.unwrap() },
        );
        graph.finish();
        model.borrow_mut().check(whole(), &disk.image().to_vec()).unwrap();
    });
}

/// A workload through the graph that tells what the disk may hold afterwards.
fn run(sim: &Sim, disks: &[SimDisk]) -> ByteModel {
    let model = shared(ByteModel::zeroed(LEN));
    let graph = SimGraph::start(sim);
    let (_, backend) = graph.open_disk("disk", &disks[0]);
    spawn_load(sim, &backend, &model, &Load { mix: Mix::WRITES, ..Load::new(6, LEN) });
    graph.finish();
    model.take_or_clone()
}

trait TakeOrClone {
    fn take_or_clone(self) -> ByteModel;
}

impl TakeOrClone for SharedModel {
    fn take_or_clone(self) -> ByteModel {
        Rc::try_unwrap(self).map_or_else(|shared| shared.borrow().clone(), RefCell::into_inner)
    }
}

fn check_contents(_sim: &Sim, disks: &[SimDisk], model: &ByteModel) {
    let wrong = model.clone().check(whole(), &disks[0].image().to_vec());
    wrong.unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn a_power_cut_at_any_operation_loses_no_flushed_byte() {
    for seed in 0..8 {
        let sweep = PowerSweep::new(seed, vec![Image::new(LEN)]);
        let swept = sweep.sweep(
            |sim, disks| {
                let mut model = run(sim, disks);
                model.crash();
                model
            },
            check_contents,
        );
        assert_eq!(swept.runs, swept.ops + 1);
        assert!(swept.checks > 16 * swept.ops / 2, "{swept}");
    }
}

#[test]
fn a_sweep_can_cut_at_some_operations_only() {
    let sweep = PowerSweep { cuts: 5, ..PowerSweep::new(3, vec![Image::new(LEN)]) };
    let swept = sweep.sweep(run, |_, _, _| {});
    assert!((2..12).contains(&swept.runs), "{swept}");
}

#[test]
fn an_error_at_any_operation_is_reported_and_leaves_no_other_trace() {
    for effect in [FaultEffect::Io, FaultEffect::NoSpace, FaultEffect::Short] {
        let sweep = FaultSweep::new(3, vec![Image::new(LEN)], effect);
        let swept = sweep.sweep(run, check_contents);
        assert_eq!(swept.runs, swept.ops + 1, "the last one is undisturbed");
    }
}

#[test]
#[should_panic(expected = "wrong bytes at")]
fn a_sweep_finds_a_flush_that_was_claimed_and_not_made() {
    PowerSweep::new(3, vec![Image::new(LEN)]).sweep(
        |sim, disks| {
            let model = shared(run(sim, disks));
            let flush = model.borrow_mut().begin_flush();
            model.borrow_mut().end_flush(flush);
            model.borrow_mut().crash();
            model.take_or_clone()
        },
        check_contents,
    );
}

#[test]
fn two_disks_lose_power_together() {
    let sweep = PowerSweep::new(5, vec![Image::new(4096), Image::new(4096)]);
    let seen = RefCell::new(std::collections::BTreeSet::new());
    let swept = sweep.sweep(
        |sim, disks| {
            let graph = SimGraph::start(sim);
            let (_, first) = graph.open_disk("first", &disks[0]);
            let (_, second) = graph.open_disk("second", &disks[1]);
            let io = sim.io(1);
            sim.spawn(&io.clone(), "copies", async move {
                let (mut first, mut second) =
                    (BackendClient::new(&first, &io), BackendClient::new(&second, &io));
                // The second disk is written when the first one is safe.
                let _ = first.write(0, &[1; 512], false).await;
                if first.flush().await.is_ok() {
                    let _ = second.write(0, &[1; 512], false).await;
                }
            });
            graph.finish();
        },
        |_, disks, ()| {
            let held = [0, 1].map(|index: usize| disks[index].image().bytes(0..1)[0]);
            assert_ne!(held, [0, 1], "the second disk never has what the first one lacks");
            seen.borrow_mut().insert(held);
        },
    );
    assert_eq!(seen.into_inner().into_iter().collect::<Vec<_>>(), [[0, 0], [1, 0], [1, 1]], "{swept}");
}

#[test]
fn a_stuck_graph_says_who_waits_for_whom() {
    let sim = Sim::seeded(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let graph = SimGraph::start(&sim);
    let (node, backend) = graph.open_disk("disk", &disk);
    let hold = disk.hold(OpFilter::of(OpKind::Write));
    let mut client = BackendClient::new(&backend, &sim.io(1));
    sim.spawn(&sim.io(1), "writer", async move { client.write(0, &[1; 512], false).await.unwrap() });
    sim.block_on(&sim.control(), hold.reached(1)).unwrap();
    graph.control().spawn(async move |task: &mut Task<'_>| drop(task.drain(&[node]).await));
    let stuck = sim.run_until(|| false).unwrap_err().to_string();
    assert!(stuck.contains("thread 1: writer"), "{stuck}");
    assert!(stuck.contains("disk 'sim' op 0 Write 0..512 in flight"), "{stuck}");
    assert!(stuck.contains("a drain waits for the requests of 'user of disk' to end (Gate)"), "{stuck}");
    drop(hold);
    graph.finish();
}

#[test]
fn a_node_tells_what_its_disk_has_allocated() {
    let sim = Sim::seeded(1);
    let mut image = Image::new(LEN);
    image.write(8192, &[1; 4096]);
    let graph = SimGraph::start(&sim);
    let (_, backend) = graph.open_disk("disk", &SimDisk::new(image, DiskOptions::seeded(1)));
    let io = sim.io(1);
    let parts = sim.block_on(&io, async {
        let mut lane = drystone_core::lane::Lane::new(io.clone());
        let mut parts = Vec::new();
        let mut rest = whole();
        while !rest.is_empty() {
            let status = lane.enter(&backend).await.status(rest, 0).await.unwrap();
            parts.push((rest.start().get(), status.data, status.zero));
            rest = rest.skip(status.len);
        }
        parts
    });
    assert_eq!(parts.unwrap(), [(0, false, true), (8192, true, false), (12288, false, true)]);
    graph.finish();
}

#[test]
fn a_full_disk_fails_writes_until_it_has_room() {
    let sim = Sim::seeded(2);
    let disk = SimDisk::zeroed(LEN, 2);
    disk.set_space(8192);
    let model = shared(ByteModel::zeroed(LEN));
    let graph = SimGraph::start(&sim);
    let (_, backend) = graph.open_disk("disk", &disk);
    let mut client = Watched::new(BackendClient::new(&backend, &sim.io(1)), &model);
    let io = sim.io(1);
    sim.block_on(&io, async {
        let error = client.write(whole(), false).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        client.read(whole()).await.unwrap();
        disk.set_space(1 << 20);
        client.write(whole(), false).await.unwrap();
        client.read(whole()).await.unwrap();
    })
    .unwrap();
    graph.finish();
}

#[test]
fn a_request_that_nobody_waits_for_runs_to_its_end() {
    for polls in 0..12 {
        let sim = Sim::seeded(polls);
        let (disk, model) = (SimDisk::zeroed(LEN, polls), shared(ByteModel::zeroed(LEN)));
        let graph = SimGraph::start(&sim);
        let (node, backend) = graph.open_disk("disk", &disk);
        let mut client = Watched::new(BackendClient::new(&backend, &sim.io(1)), &model);
        let abandoned = drystone_testkit::sim::abandon_after(polls, client.write(whole(), false));
        let answer = sim.block_on(&sim.io(1), abandoned).unwrap();
        graph.call(async move |task: &mut Task<'_>| drop(task.drain(&[node]).await));
        assert!(disk.trace().iter().all(|record| record.ended.is_some()), "a drain waits for it");
        let image = disk.image();
        model.borrow_mut().check(whole(), &image.to_vec()).unwrap();
        if answer.is_none() && !disk.trace().is_empty() {
            assert!(Content::Stamp(drystone_testkit::pattern::Stamp::new(1)).is_at(0, &image.to_vec()));
        }
        graph.finish();
    }
}

#[test]
fn an_ending_says_what_may_have_happened() {
    assert_eq!(Ending::from(&Ok::<_, ()>(())), Ending::Done);
    assert_eq!(Ending::from(&Err::<(), _>(())), Ending::Failed);
}
