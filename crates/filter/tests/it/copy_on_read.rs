//! `copy-on-read`: bytes stay, layers below are not needed any more, a racing write is never lost.

use std::cell::Cell;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_base::{Error, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Plan, RootSpec, Task};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_filter::copy_on_read::{CopyOnRead, entry};
use drystone_testkit::client::{Load, Mix};
use drystone_testkit::disk::{DiskOptions, Fault, FaultEffect, OpFilter, OpKind, SimDisk};
use drystone_testkit::graph::{SimDriver, SimGraph};
use drystone_testkit::model::DiscardRule;
use drystone_testkit::notation::range;
use drystone_testkit::sim::{Sim, explore};

use crate::chain::{Chain, on_io, read, stamped, write, zero_unchanged};

const LEN: u64 = 64 << 10;

fn open(sim: &Sim, graph: &SimGraph<'_>) -> Chain {
    Chain::open(sim, graph, &stamped(LEN, 1), &[LEN], None)
}

#[test]
fn what_was_read_is_in_the_top_and_the_base_is_not_asked_again() {
    let sim = Sim::seeded(1);
    let graph = SimGraph::start(&sim);
    let chain = open(&sim, &graph);
    assert!(!chain.status(&sim, range("4K+8K")).allocated);
    on_io(&sim, async |lane| read(lane, &chain.guest, range("4K+8K")).await).unwrap();
    assert!(chain.status(&sim, range("4K+8K")).allocated);
    assert!(!chain.status(&sim, range("12K+4K")).allocated);
    chain.disks[0].clear_trace();
    let bytes = on_io(&sim, async |lane| read(lane, &chain.guest, range("4K+8K")).await).unwrap();
    assert_eq!(bytes, stamped(LEN, 1).bytes(4096..12288));
    assert!(chain.disks[0].trace().is_empty(), "the top has it");
}

#[test]
fn copies_under_random_load_lose_no_write() {
    let program = |sim: &Sim| {
        let graph = SimGraph::start(sim);
        let chain = open(sim, &graph);
        let running = Rc::new(Cell::new(3));
        let mut seeds = Rng::new(sim.seed());
        for thread in [1, 1, 2] {
            let (mut client, running) = (chain.client(sim, thread), Rc::clone(&running));
            let mut rng = Rng::new(seeds.next_u64());
            let mix = Mix { reads: 6, writes: 4, zeroes: 1, discards: 1, flushes: 1 };
            let load = Load { mix, discard: DiscardRule::OldOrZero, ..Load::new(25, LEN) };
            sim.spawn(&sim.io(thread), "client", async move {
                load.run(&mut client, &mut rng, |error| panic!("{}", error.report())).await;
                running.set(running.get() - 1);
            });
        }
        sim.run_until(|| running.get() == 0).unwrap();
        let mut client = chain.client(sim, 1);
        sim.block_on(&sim.io(1), client.read(range("0..64K"))).unwrap().unwrap();
        assert!(chain.status(sim, range("0..64K")).allocated);
        graph.finish();
    };
    println!("{}", explore(0..500, program));
}

#[test]
fn a_write_that_comes_between_the_read_and_the_copy_waits_for_it() {
    let sim = Sim::seeded(3);
    let graph = SimGraph::start(&sim);
    let chain = open(&sim, &graph);
    let hold = chain.disks[1].hold(OpFilter::of(OpKind::Write));
    let (mut reader, mut writer) = (chain.client(&sim, 1), chain.client(&sim, 2));
    let done = Rc::new(Cell::new(0));
    let (one, two) = (Rc::clone(&done), Rc::clone(&done));
    sim.spawn(&sim.io(1), "reader", async move {
        reader.read(range("0..8K")).await.unwrap();
        one.set(one.get() + 1);
    });
    sim.block_on(&sim.io(1), hold.reached(1)).unwrap();
    sim.spawn(&sim.io(2), "writer", async move {
        writer.write(range("4K+512"), false).await.unwrap();
        two.set(two.get() + 1);
    });
    sim.settle().unwrap();
    assert_eq!((done.get(), hold.count()), (0, 1), "only the copy is at the disk");
    drop(hold);
    sim.run_until(|| done.get() == 2).unwrap();
    let mut client = chain.client(&sim, 1);
    sim.block_on(&sim.io(1), client.read(range("0..64K"))).unwrap().unwrap();
}

#[test]
fn only_layers_down_to_the_bottom_are_copied() {
    let sim = Sim::seeded(4);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&sim, &graph, &stamped(LEN, 1), &[LEN, LEN], Some(1));
    on_io(&sim, async |lane| read(lane, &chain.guest, range("0..64K")).await).unwrap();
    assert!(!chain.status(&sim, range("0..64K")).allocated, "only the base has data");
}

#[test]
fn where_a_layer_is_shorter_than_its_base_zeroes_are_copied() {
    let sim = Sim::seeded(5);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&sim, &graph, &stamped(LEN, 1), &[LEN / 2, LEN], Some(1));
    let mut client = chain.client(&sim, 1);
    sim.block_on(&sim.io(1), client.read(range("0..64K"))).unwrap().unwrap();
    assert!(!chain.status(&sim, range("0..32K")).allocated, "the base shows through");
    assert!(chain.status(&sim, range("32K..64K")).allocated, "it must not show through here");
}

#[test]
fn zeroes_that_change_nothing_are_written_only_where_lower_layers_show_zeroes() {
    let sim = Sim::seeded(6);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&sim, &graph, &stamped(LEN, 1), &[LEN / 2, LEN], Some(1));
    on_io(&sim, async |lane| {
        write(lane, &chain.guest, 40960, 7, 4096).await.unwrap();
        zero_unchanged(lane, &chain.copier, range("0..64K")).await.unwrap();
        assert_eq!(read(lane, &chain.guest, range("40K+4K")).await.unwrap(), [7; 4096]);
    });
    assert!(chain.status(&sim, range("44K..64K")).allocated);
    assert!(!chain.status(&sim, range("0..32K")).allocated);
}

/// Found by `drystone-sim`: a stream down to a base went through a filter that somebody had put there before. Where the
/// layer above the base was shorter, that filter saw nothing to zero, and in the end the base showed through.
#[test]
fn zeroes_are_written_for_a_filter_above_that_has_a_bottom() {
    let sim = Sim::seeded(6);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&sim, &graph, &stamped(LEN, 1), &[LEN / 2, LEN], None);
    let (below, guest) = (chain.filter, chain.guest.id());
    let upper = graph.call(async move |task: &mut Task<'_>| {
        let bottom = task.gs().find("layer1").unwrap();
        let mut opening = Opening::new(task);
        let upper = CopyOnRead::new(Some(bottom)).node(Some("upper".to_owned()), below, LEN);
        let upper = opening.add(upper).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(below, upper);
        task.apply(plan).await.unwrap();
        task.gs().with(|graph| graph.roots().into_iter().find(|root| root.id == guest).unwrap().node)
            == Some(upper)
    });
    assert!(upper, "the guest is above both");
    let mut client = chain.client(&sim, 1);
    sim.block_on(&sim.io(1), client.read(range("0..64K"))).unwrap().unwrap();
    on_io(&sim, async |lane| zero_unchanged(lane, &chain.copier, range("32K..64K")).await).unwrap();
    assert!(chain.status(&sim, range("32K..64K")).allocated, "the base must not show through here");
}

/// Found by `drystone-sim`: a stream that failed with its disk could not take its filter out, which stayed for ever.
#[test]
fn a_filter_leaves_although_the_disk_below_cannot_be_flushed() {
    let sim = Sim::seeded(7);
    let graph = SimGraph::start(&sim);
    let chain = open(&sim, &graph);
    chain.disks.iter().for_each(|disk| disk.inject(Fault::every(OpFilter::any(), FaultEffect::Io)));
    let filter = chain.filter;
    graph.call(async move |task: &mut Task<'_>| {
        let top = task.gs().find("layer1").unwrap();
        let mut plan = Plan::new();
        plan.replace(filter, top);
        task.apply(plan).await.unwrap();
        assert!(task.gs().find("cor").is_err());
    });
}

#[test]
fn a_copy_that_fails_fails_who_wants_copies_and_nobody_else() {
    let sim = Sim::seeded(7);
    let graph = SimGraph::start(&sim);
    let chain = open(&sim, &graph);
    let copy = |byte: Result<Vec<u8>>| byte.map(|bytes| bytes == stamped(LEN, 1).bytes(0..8192));
    for (backend, expected) in [(&chain.guest, Ok(true)), (&chain.copier, Err(Kind::NoSpace))] {
        chain.disks[1].inject(Fault::every(OpFilter::of(OpKind::Write), FaultEffect::NoSpace));
        let found = on_io(&sim, async |lane| read(lane, backend, range("0..8K")).await);
        chain.disks[1].clear_faults();
        assert_eq!(copy(found).map_err(|error| error.kind()), expected);
        assert!(!chain.status(&sim, range("0..4K")).allocated);
    }
}

#[test]
fn the_filter_needs_to_write_what_is_unchanged_and_nothing_else() {
    let sim = Sim::seeded(8);
    let graph = SimGraph::start(&sim);
    let chain = open(&sim, &graph);
    let filter = chain.filter;
    let grant = graph.call(async move |task: &mut Task<'_>| {
        task.gs().with(|graph| graph.node(filter).unwrap().edges[0].grant)
    });
    assert_eq!(grant.perm, Perm::CONSISTENT_READ.with(Perm::WRITE).with(Perm::WRITE_UNCHANGED));
    assert_eq!(grant.shared, Perm::CONSISTENT_READ);
}

/// A writer that does not pass the filter could have its bytes replaced by a copy of what was there before.
#[test]
fn nobody_writes_around_the_filter() {
    let sim = Sim::seeded(9);
    let graph = SimGraph::start(&sim);
    let chain = open(&sim, &graph);
    let filter = chain.filter;
    graph.call(async move |task: &mut Task<'_>| {
        let top = task.gs().find("layer1").unwrap();
        assert_eq!(task.gs().with(|graph| (entry(graph, top), entry(graph, filter))), (filter, filter));
        for (node, is_allowed) in [(top, false), (filter, true)] {
            let mut plan = Plan::new();
            let grant = Grant { perm: Perm::WRITE_UNCHANGED, shared: Perm::ALL };
            let spec = RootSpec { name: "late".to_owned(), grant, stays: false };
            let _late: Backend<ReadWrite> = plan.attach_root(task.gs(), node, spec);
            let result = task.apply(plan).await;
            assert_eq!(result.as_ref().map_err(Error::kind).err(), (!is_allowed).then_some(Kind::InUse));
            if let Err(error) = result {
                assert!(error.report().contains("node 'cor'"), "{}", error.report());
            }
        }
    });
}

/// Between the look at a disk and the commit of the plan that filters it, the disk can grow.
#[test]
fn a_filter_is_as_long_as_its_child_when_it_comes() {
    let sim = Sim::seeded(10);
    let graph = SimGraph::start(&sim);
    let disk = SimDisk::new(stamped(LEN, 1), DiskOptions::seeded(1));
    let len = graph.call(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let below = opening.add(SimDriver::node("below", &disk)).unwrap();
        let filter = CopyOnRead::new(None).node(Some("cor".to_owned()), below, LEN / 2);
        let filter = opening.add(filter).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        let spec = RootSpec { name: "guest".to_owned(), grant: Grant::WRITER, stays: false };
        let _guest: Backend<ReadWrite> = plan.attach_root(task.gs(), filter, spec);
        task.apply(plan).await.unwrap();
        task.gs().with(|graph| graph.node(filter).unwrap().len)
    });
    assert_eq!(len, LEN);
}
