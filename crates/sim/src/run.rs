//! One run: a script is played from its beginning to its end, and everything that must hold is looked at.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_testkit::disk::Timing;
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::{Sim, SimOptions, catch};

use crate::after::Rest;
use crate::draw::draw;
use crate::ending::{Shown, end, images_of, known, reopen, survivors_of};
use crate::hall::Hall;
use crate::player::Player;
use crate::prepare::{add_all, finish, prepare};
use crate::script::{DiskSpec, Script};
use crate::stage::{Common, Guest, Stage};
use crate::tally::Tally;

/// How scripts are drawn.
#[derive(Debug, Clone)]
pub struct Options {
    /// About how many steps each actor has.
    pub steps: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 20 }
    }
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// Its seed.
    pub seed: u64,
    /// Steps of the scheduler.
    pub steps: u64,
    /// Different for different schedules.
    pub schedule: u64,
    /// What was done.
    pub tally: Tally,
}

/// A run that found something.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What it found.
    pub message: String,
    /// The script, to be run again.
    pub script: Script,
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, steps, schedule, tally } = self;
        write!(f, "seed {seed}: {steps} steps, schedule {schedule:016x}, {tally}")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.script.seed, self.message)
    }
}

impl std::error::Error for Failure {}

/// Draws a script and plays it.
///
/// # Errors
/// [`Failure`] if anything is not as it must be.
pub fn run(seed: u64, options: &Options) -> Result<RunReport, Box<Failure>> {
    run_script(&draw(seed, options))
}

/// Plays a script.
///
/// # Errors
/// [`Failure`] if anything is not as it must be.
pub fn run_script(script: &Script) -> Result<RunReport, Box<Failure>> {
    catch(script.seed, || play(script))
        .map_err(|message| Box::new(Failure { message, script: script.clone() }))
}

fn play(script: &Script) -> RunReport {
    let prepared = prepare(&script.images)
        .unwrap_or_else(|error| panic!("the images of the script cannot be made: {}", error.report()));
    let options =
        SimOptions { io_threads: script.threads, steps_max: STEPS_MAX, ..SimOptions::seeded(script.seed) };
    let sim = Sim::new(options);
    let common = Common::new(script.seed, Timing::Seeded { delay_ns_max: 1_000_000 });
    let sheets = add_all(&common, &prepared);
    let graph = SimGraph::start(&sim);
    let mut stage = Stage::new(&sim, &graph, common.clone());
    let disk = |disk: &DiskSpec| {
        let image = prepared.get(disk.image)?;
        Some(Guest {
            top: format!("i{}", disk.image),
            model: ByteModel::of(&image.shows).with_odd_ends(),
            resizes: disk.resizes,
        })
    };
    let disks = script.disks.iter().filter_map(disk).collect();
    finish(&sim, stage.open(sheets, disks))
        .unwrap_or_else(|error| panic!("cannot begin: {}", error.report()));
    if script.has_clients() {
        let hall = Hall::start(&sim);
        stage.hall = Some(hall.unwrap_or_else(|error| panic!("no server: {}", error.report())));
    }
    let stage = Rc::new(stage);
    act(&sim, &stage, script);
    let is_cut = common.power().is_off();
    let shown = if is_cut { cut(&sim, &stage) } else { end(&sim, &stage) };
    let kept = stage.kept();
    let (steps, schedule) = (sim.steps(), sim.schedule_hash());
    drop(stage);
    if is_cut {
        drop(graph);
        common.counts().event("power cuts", 1);
        let mut rng = Rng::new(script.seed);
        for _ in 0..SURVIVORS {
            reopen(script.seed, survivors_of(&common, &mut rng), shown.clone(), &kept, true);
        }
    } else {
        graph.finish();
        let may_leak = common.is_troubled() || common.is_damaged();
        let mut rest = Rest { images: images_of(&common), shown, kept, may_leak };
        rest.reopen(script.seed);
        if !common.is_damaged() {
            for (number, after) in (1..).zip(&script.afters) {
                let seed = script.seed.wrapping_add(number);
                let Some(is_done) = rest.then(seed, *after) else { continue };
                common.counts().change(after.deed.name(), is_done);
                rest.reopen(seed);
            }
        }
    }
    let hits = common.sheets().iter().map(|sheet| sheet.disk.faults_hit()).sum();
    common.counts().event("operations of devices that failed", hits);
    RunReport { seed: script.seed, steps, schedule, tally: common.counts().take() }
}

/// A run of more steps has no end.
const STEPS_MAX: u64 = 2_000_000;
/// So many of the things that could be found after a power cut are looked at.
const SURVIVORS: usize = 3;

/// Lets all actors loose, and waits for them and for what they have begun, or for the power to go.
fn act(sim: &Sim, stage: &Rc<Stage>, script: &Script) {
    let at_work = Rc::new(Cell::new(0_usize));
    for (number, actor) in script.actors.iter().enumerate() {
        let Some(disk) = stage.disks.get(actor.disk) else { continue };
        let player = Player::new(stage, disk, sim.io(actor.thread));
        let (actor, working) = (actor.clone(), Rc::clone(&at_work));
        working.set(working.get() + 1);
        sim.spawn(&sim.io(actor.thread), format!("actor {number}"), async move {
            player.play(actor).await;
            working.set(working.get() - 1);
        });
    }
    let common = &stage.common;
    let is_over = || common.power().is_off() || (at_work.get() == 0 && !common.is_changing());
    if let Err(stuck) = sim.run_until(is_over) {
        panic!("{stuck}");
    }
}

/// The power has gone: what the disks may show now.
fn cut(sim: &Sim, stage: &Rc<Stage>) -> Vec<Shown> {
    // What requests do without power, in caches, is nobody's business.
    let mut models = stage.models();
    models.iter_mut().flatten().for_each(ByteModel::crash);
    let tops = finish(sim, stage.tops());
    known(tops.unwrap_or_else(|error| panic!("the graph cannot be looked at: {}", error.report())), models)
}
