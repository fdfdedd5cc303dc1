//! Every change of metadata in several steps, cut off after each operation of the disk and disturbed at each of them.
//!
//! After a power cut, whatever survived: the image opens, the check finds no corruption, what was flushed is there, and
//! the image can be written. After an error: the request works when it is repeated, and nothing leaks in the end.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_testkit::crash::{FaultSweep, PowerSweep, Swept};
use drystone_testkit::disk::{FaultEffect, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, demand_consistent, demand_leaks};
use super::script::{run, run_stubborn, steps};
use super::state::{State, read_all};

/// Cuts the power at every operation of `script`.
fn cut(state: &State, script: &str) -> Swept {
    let sweep = PowerSweep::new(7, state.images.clone());
    let work = |sim: &Sim, disks: &[SimDisk]| -> ByteModel {
        let model = Rc::new(RefCell::new(state.model.clone()));
        let graph = SimGraph::start(sim);
        if let Ok(chain) = Chain::open(&graph, disks, state.options)
            && run(sim, &chain, &model, script).is_ok()
        {
            let _ = chain.close(&graph);
        }
        let mut model = model.borrow().clone();
        model.crash();
        model
    };
    sweep.sweep(work, |sim, disks, known| look_after_cut(state, sim, disks, known))
}

fn look_after_cut(state: &State, sim: &Sim, disks: &[SimDisk], known: &ByteModel) {
    let image = disks.last().unwrap().image();
    demand_consistent(&image);
    let mut model = known.clone();
    model.found_len(super::chain::header(&image).len_guest());
    let model = Rc::new(RefCell::new(model));
    let graph = SimGraph::start(sim);
    let chain = Chain::open(&graph, disks, state.options).unwrap();
    read_all(sim, &chain, &model).unwrap();
    run(sim, &chain, &model, "write 0..512; unmap 512..2K; flush").unwrap();
    chain.close(&graph).unwrap();
    demand_consistent(&disks.last().unwrap().image());
}

/// Lets every operation of `script` fail once.
fn disturb(state: &State, script: &str, effect: FaultEffect) -> Swept {
    let sweep = FaultSweep::new(7, state.images.clone(), effect);
    let work = |sim: &Sim, disks: &[SimDisk]| {
        let model = Rc::new(RefCell::new(state.model.clone()));
        let graph = SimGraph::start(sim);
        let open = || Chain::open(&graph, disks, state.options);
        let chain = open().or_else(|_| open()).unwrap();
        run_stubborn(sim, &chain, &model, script).unwrap();
        read_all(sim, &chain, &model).or_else(|_| read_all(sim, &chain, &model)).unwrap();
        let close = || {
            let again = Chain { top: chain.top, backend: chain.backend.clone() };
            again.close(&graph)
        };
        close().or_else(|_| close()).unwrap();
        model.borrow().clone()
    };
    sweep.sweep(work, |sim, disks, known| {
        demand_leaks(&disks.last().unwrap().image(), state.leaks);
        let model = Rc::new(RefCell::new(known.clone()));
        let graph = SimGraph::start(sim);
        let chain = Chain::open(&graph, disks, state.options).unwrap();
        read_all(sim, &chain, &model).unwrap();
    })
}

/// Lets every operation of `script` fail once, goes on with the next request, and cuts the power at the end.
fn disturb_and_cut(state: &State, script: &str, effect: FaultEffect) -> Swept {
    let sweep = FaultSweep::new(7, state.images.clone(), effect);
    let work = |sim: &Sim, disks: &[SimDisk]| {
        let model = Rc::new(RefCell::new(state.model.clone()));
        let graph = SimGraph::start(sim);
        if let Ok(chain) = Chain::open(&graph, disks, state.options) {
            for step in steps(script) {
                let _ = run(sim, &chain, &model, step);
            }
        }
        disks.iter().for_each(|disk| disk.power().cut());
        let mut model = model.borrow().clone();
        model.crash();
        model
    };
    sweep.sweep(work, |sim, disks, known| {
        let below = disks.len() - 1;
        for found in disks[below].crash_state().survivors(4, sim.seed()) {
            let mut fresh: Vec<SimDisk> =
                disks[..below].iter().map(|disk| disk.reopened(disk.image())).collect();
            fresh.push(disks[below].reopened(found.image.clone()));
            println!("{found}");
            look_after_cut(state, &Sim::seeded(sim.seed()), &fresh, known);
        }
    })
}

/// Cuts and disturbs.
fn every_way(name: &str, state: &State, script: &str) {
    println!("{name}: cut: {}", cut(state, script));
    for effect in [FaultEffect::Io, FaultEffect::NoSpace, FaultEffect::Short] {
        println!("{name}: {effect:?}: {}", disturb(state, script, effect));
    }
    println!("{name}: error and cut: {}", disturb_and_cut(state, script, FaultEffect::Io));
}

macro_rules! changes {
    ($($(#[$note:meta])* $name:ident: $state:expr, $script:expr;)*) => { $(
        $(#[$note])*
        #[test]
        fn $name() {
            every_way(stringify!($name), &$state, $script);
        }
    )* };
}

fn new(kind: &str) -> State {
    State::new(kind)
}

changes! {
    first_allocation: new("64K"), "write 0..4K; flush; write 6K..7K";
    allocations_side_by_side: new("64K"), "write 0..4K & write 8K..12K & write 4K+512; flush; write 0..512 & write 13K..20K fua";
    cow_over_backing: new("64K").after("write 0..64K").overlay("64K"), "write 1K..2K; flush; write 6K..13K; zero 30K..31K; flush";
    new_l2_tables: new("c512 128K"), "write 0..1K; write 40K..41K; flush; write 70K..71K & write 100K..101K";
    l2_table_of_a_snapshot: new("64K").after("write 0..20K; zero 24K..28K").snapshot(), "write 1K..2K; flush; write 24K..25K; unmap 8K..12K; flush; write 8K..9K";
    new_refcount_block: new("c512 r64 256K").after("write 0..16K"), "write 16K..40K; flush; write 40K..64K";
    refcount_table_grows: new("c512 r64 64K").after("write 0..1K").with_full_counts(), "write 1K..2K; flush; write 3K..4K & write 40K..41K; flush; write 8K..50K";
    refcount_table_grows_beside_others: new("c512 r64 64K").with_full_counts(), "write 1K..2K & write 33K..35K & flush; write 2K..3K; flush";
    l1_grows: new("c512 64K").after("write 0..1K"), "grow 2200K; write 2190K..2195K; flush";
    l1_grows_over_many_refcount_blocks: new("c512 r64 64K").after("write 0..1K"), "grow 130M; write 129M+512; flush";
    l1_growth_fails_and_its_place_is_used: new("c512 64K").after("write 0..1K"), "grow 2200K; write 1124+100; flush; write 2K+100";
    grows_over_a_longer_backing_file: new("64K").after("write 0..64K").overlay("10K"), "write 1K..2K; grow 40K; flush; write 9K..11K";
    grows_from_a_shared_and_a_compressed_tail: new("v2 6K").after("write 0..6K").snapshot(), "grow 64K; flush; write 5K..10K";
    header_marks: new("64K").edit(|image| image.write(95, &[4])), "write 0..1K; flush";
    discard_and_reuse: new("64K").after("write 0..16K"), "discard 0..8K; flush; write 20K..24K; write 30K..32K; flush";
    zero_and_reuse: new("64K").after("write 0..16K"), "zero 0..8K; flush; write 1K..2K; unmap 8K..12K; flush; write 8K..9K";
    v2_unmaps_and_reuses: new("v2 64K").after("write 0..16K"), "unmap 0..8K; flush; write 20K..24K; discard 8K..12K; flush; write 30K..32K";
    close_without_flush: new("64K"), "write 0..4K; write 10K..11K; discard 0..4K";
}
