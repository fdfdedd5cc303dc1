//! `block-stream` cut at every boundary: the copying, the end with the other name of the backing file, cancelled and failed
//! ones, with a guest at work.
//!
//! Whatever survived: every image is whole, those below are as they were, the image names its old backing file or, once the
//! job may have come to its end, the new one, and with what it names it shows what the guest has written. Then a guest and
//! another stream go on, and are cut, too.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use drystone_base::Error;
use drystone_base::rng::Rng;
use drystone_core::control::Task;
use drystone_core::graph::permission::Grant;
use drystone_job::Cancel;
use drystone_job::stream::{StreamBase, start};
use drystone_testkit::client::{Load, Mix, SharedModel};
use drystone_testkit::crash::{CrashPoints, Subject};
use drystone_testkit::disk::{Fault, FaultEffect, Image, OpFilter, OpKind, SimDisk};
use drystone_testkit::model::{ByteModel, DiscardRule};
use drystone_testkit::sim::Sim;

use crate::chain::{Chain, Images, backing_of, demand_consistent, options};
use crate::world::World;

const LEN: u64 = 64 << 10;
/// Bytes per second of a job that is cancelled.
const SLOWLY: i64 = 16 << 10;
/// What every image but the lowest calls its backing file at first.
const FIRST_NAME: &str = "below.img";

/// What becomes of the job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ends,
    /// So many steps of the simulation after it began, which is before its end.
    Cancelled(u64),
    /// An image below cannot be read.
    Fails,
}

/// A stream and what is beside it.
struct Streamed {
    images: Images,
    /// The image that gets the data.
    top: usize,
    base: Option<usize>,
    fate: Fate,
    /// How many requests a guest makes meanwhile.
    requests: u64,
}

#[derive(Debug, Clone)]
struct Known {
    model: ByteModel,
    /// What the image may call its backing file.
    names: Vec<Option<String>>,
}

fn name_of(image: &Image) -> Option<String> {
    backing_of(image).map(|(name, _)| name)
}

fn are_disturbed(disks: &[SimDisk]) -> bool {
    disks.iter().any(|disk| disk.power().is_off() || disk.faults_hit() > 0)
}

impl Streamed {
    fn new(layers: usize, base: Option<usize>) -> Self {
        let images = Images::drawn(&vec![LEN; layers], &mut Rng::new(5));
        Self { images, top: layers - 1, base, fate: Fate::Ends, requests: 0 }
    }

    fn look_at(&self, name: &str) {
        CrashPoints::of(name, self.images.list.clone()).look_at(self);
    }

    /// The images that are a chain, with what the image on `top` names.
    fn chain(&self, disks: &[SimDisk]) -> Vec<SimDisk> {
        let (below, above) = disks.split_at(self.top);
        let below = match name_of(&above[0].image()).as_deref() {
            None => &[],
            Some(FIRST_NAME) => below,
            Some(name) => {
                let base = self.base.unwrap();
                assert_eq!(name, format!("layer{base}.img"));
                &below[..=base]
            }
        };
        [below, above].concat()
    }

    /// A guest's requests, which only a power cut or fault lets fail; how many clients are still at it.
    fn guest(
        &self,
        sim: &Sim,
        chain: &Chain,
        model: &SharedModel,
        disks: &[SimDisk],
        requests: u64,
    ) -> Rc<Cell<u32>> {
        let running = Rc::new(Cell::new(2));
        for thread in [1, 2] {
            let (mut client, running) = (chain.client(sim, thread, model), Rc::clone(&running));
            let mut rng = Rng::new(sim.seed() ^ u64::from(thread));
            let mix = Mix { reads: 2, writes: 6, zeroes: 1, discards: 1, flushes: 2 };
            let load = Load { mix, discard: DiscardRule::OldOrZero, ..Load::new(requests, LEN) };
            let disks = disks.to_vec();
            sim.spawn(&sim.io(thread), "guest", async move {
                let on_error = |error: Error| assert!(are_disturbed(&disks), "{}", error.report());
                load.run(&mut client, &mut rng, on_error).await;
                running.set(running.get() - 1);
            });
        }
        running
    }

    /// Opens the chain that there is, streams in it, and closes it.
    fn stream(
        &self,
        sim: &Sim,
        disks: &[SimDisk],
        known: Known,
        (base, fate, requests): (Option<usize>, Fate, u64),
    ) -> Known {
        let model = Rc::new(RefCell::new(known.model));
        let mut names = known.names;
        let used = self.chain(disks);
        let world = World::new(sim);
        if let Ok(chain) = Chain::open(&world, &used, Grant::WRITER) {
            let running = self.guest(sim, &chain, &model, disks, requests);
            let top = used.len() - (disks.len() - self.top);
            if top > 0 {
                names.push(base.map(|base| format!("layer{base}.img")));
                if self.run_job(&world, &chain, (top, base, fate), disks) {
                    names.drain(..names.len() - 1);
                }
            }
            sim.run_until(|| running.get() == 0).unwrap();
            // Closing stores everything.
            let flush = model.borrow_mut().begin_flush();
            match chain.close(&world) {
                Ok(()) => model.borrow_mut().end_flush(flush),
                Err(error) => assert!(are_disturbed(disks), "{}", error.report()),
            }
        }
        world.end();
        let mut model = model.borrow().clone();
        model.crash();
        Known { model, names }
    }

    /// Runs the job to its end; whether it told that it is done.
    fn run_job(
        &self,
        world: &World<'_>,
        chain: &Chain,
        (top, base, fate): (usize, Option<usize>, Fate),
        disks: &[SimDisk],
    ) -> bool {
        let mut wanted = options("j", chain.layers[top]);
        wanted.base = base.map_or(StreamBase::None, |base| StreamBase::Base(chain.layers[base]));
        if matches!(fate, Fate::Cancelled(_)) {
            wanted.speed = SLOWLY;
        }
        if fate == Fate::Fails {
            disks[0].inject(Fault::nth(2, OpFilter::of(OpKind::Read), FaultEffect::Io));
        }
        let jobs = world.jobs.clone();
        if world.call(async move |task: &mut Task<'_>| start(&jobs, task, wanted).await).is_err() {
            assert!(are_disturbed(disks));
            return false;
        }
        if let Fate::Cancelled(steps) = fate {
            let end = world.sim.steps() + steps;
            let is_over = || world.record.of("j").iter().any(|word| word == "null");
            world.sim.run_until(|| world.sim.steps() >= end || is_over()).unwrap();
            let cancelled = world.jobs.cancel("j", Cancel::Force);
            assert!(cancelled.is_ok() || are_disturbed(disks), "it is over");
        }
        world.wait("j");
        world.record.of("j").contains(&"COMPLETED".to_owned())
    }
}

impl Subject for Streamed {
    type Known = Known;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Known {
        let names = vec![name_of(&self.images.list[self.top])];
        let before = Known { model: self.images.model.clone(), names };
        self.stream(sim, disks, before, (self.base, self.fate, self.requests))
    }

    fn verify(&self, sim: &Sim, disks: &[SimDisk], known: &Known) -> Known {
        let found: Vec<Image> = disks.iter().map(SimDisk::image).collect();
        found.iter().for_each(demand_consistent);
        let name = name_of(&found[self.top]);
        assert!(known.names.contains(&name), "the backing file is called {name:?}, not {:?}", known.names);
        assert!(found[..self.top] == self.images.list[..self.top], "an image below has changed");
        let model = Rc::new(RefCell::new(known.model.clone()));
        let world = World::new(sim);
        let chain = Chain::open(&world, &self.chain(disks), Grant::WRITER).unwrap();
        chain.read_all(sim, &model).unwrap();
        chain.close(&world).unwrap();
        world.end();
        let model = model.borrow().clone();
        Known { model, names: vec![name] }
    }

    /// A job does not survive: another one does the rest.
    fn go_on(&self, sim: &Sim, disks: &[SimDisk], known: Known) -> Known {
        self.stream(sim, disks, known, (None, Fate::Ends, 3))
    }
}

#[test]
fn stream_of_a_whole_chain() {
    Streamed::new(3, None).look_at("stream of a whole chain");
}

#[test]
fn stream_down_to_a_base() {
    Streamed::new(3, Some(0)).look_at("stream down to a base");
}

#[test]
fn stream_beside_a_guest() {
    Streamed { requests: 6, ..Streamed::new(3, Some(0)) }.look_at("stream beside a guest");
}

#[test]
fn stream_into_an_image_below_the_guests() {
    Streamed { requests: 4, top: 2, ..Streamed::new(4, Some(0)) }
        .look_at("stream into an image below the guest's");
}

#[test]
fn stream_cancelled() {
    for steps in [10, 40] {
        let name = format!("stream cancelled after {steps} steps");
        Streamed { requests: 3, fate: Fate::Cancelled(steps), ..Streamed::new(3, None) }.look_at(&name);
    }
}

#[test]
fn stream_from_an_image_that_fails() {
    Streamed { requests: 2, fate: Fate::Fails, ..Streamed::new(3, None) }
        .look_at("stream from an image that fails");
}
