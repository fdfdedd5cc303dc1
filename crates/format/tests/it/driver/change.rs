//! Every change of metadata in several steps (`changes`), disturbed at each operation of the disk: the request works when it
//! is repeated, and nothing leaks in the end. Where it is not repeated and the power goes off later, the image is whole.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_testkit::crash::{FaultSweep, Subject, Swept};
use drystone_testkit::disk::{FaultEffect, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, demand_leaks};
use super::changes::for_each_change;
use super::script::{Stage, steps};
use super::scripted::Scripted;
use super::state::{State, read_all};

/// A change of more operations fails in one way only, which takes long enough.
const OPS_MANY: u64 = 150;

/// Lets every operation of `script` fail once.
fn disturb(state: &State, script: &str, effect: FaultEffect) -> Swept {
    let sweep = FaultSweep::new(7, state.images.clone(), effect);
    let work = |sim: &Sim, disks: &[SimDisk]| {
        let (model, names) = (Rc::new(RefCell::new(state.model.clone())), RefCell::default());
        let bitmaps = RefCell::new(state.bitmaps.clone());
        let graph = SimGraph::start(sim);
        let open = || Chain::open(&graph, disks, state.options);
        let chain = open().or_else(|_| open()).unwrap();
        let stage =
            Stage { sim, graph: &graph, chain: &chain, model: &model, names: &names, bitmaps: &bitmaps };
        stage.run_stubborn(script).unwrap();
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
        let subject = Scripted { state, script };
        // A failed step is not the end.
        let known = subject.use_chain(sim, disks, &subject.before(), |stage| {
            steps(script).for_each(|step| drop(stage.step(step)));
            disks.iter().for_each(|disk| disk.power().cut());
        });
        disks.iter().for_each(|disk| disk.power().cut());
        known
    };
    sweep.sweep(work, |sim, disks, known| {
        let below = disks.len() - 1;
        for found in disks[below].crash_state().survivors(4, sim.seed()) {
            let mut fresh: Vec<SimDisk> =
                disks[..below].iter().map(|disk| disk.reopened(disk.image())).collect();
            fresh.push(disks[below].reopened(found.image.clone()));
            println!("{found}");
            Scripted { state, script }.verify(&Sim::seeded(sim.seed()), &fresh, known);
        }
    })
}

/// Disturbs, and cuts at the end.
fn every_way(name: &str, state: &State, script: &str) {
    for effect in [FaultEffect::Io, FaultEffect::NoSpace, FaultEffect::Short] {
        let swept = disturb(state, script, effect);
        println!("{name}: {effect:?}: {swept}");
        if swept.ops > OPS_MANY {
            break;
        }
    }
    println!("{name}: error and cut: {}", disturb_and_cut(state, script, FaultEffect::Io));
}

macro_rules! tests_of {
    ($($name:ident: $state:expr, $script:expr;)*) => { $(
        #[test]
        fn $name() {
            every_way(stringify!($name), &$state, $script);
        }
    )* };
}

fn new(kind: &str) -> State {
    State::new(kind)
}

for_each_change!(tests_of);
