//! [`run`]: a daemon, its users and its misfortunes, all from one seed, and what must hold in the end.
//!
//! ```text
//!   operator  m0   snapshots, streams, reopens, resizes, exports         changes the graph; may vanish in a command
//!   meddler   m1   looks, pauses and cancels jobs, adds and deletes iothreads
//!   staller   m2   sends commands and does not read what is answered
//!   clients        write and read over NBD, stall and vanish             every byte is compared with a model
//!   crowd          more connections than there may be
//!   vandal         handshakes and requests that are broken, cut, oversized    changes nothing, and nobody notices
//!   stranger  m3   a disk at a server that does odd things, and users of it   nobody else notices
//!   misfortune     EIO, ENOSPC, short transfers, no space left           in some runs
//! ```
//! | a run ends with | then |
//! |---|---|
//! | `quit` when everybody has gone | all disks are read before; images are sound, and leak only after misfortunes |
//! | `quit` while a job runs and clients write | nobody waits for ever; everything that was acknowledged is there |
//! | a power cut of all disks, at any operation | whatever survives is sound, and everything that was flushed is there |
//!
//! Images are opened again by a new daemon, on top of what they say themselves is behind them.
//!
//! Invariant: equal seeds and steps give equal runs.

mod ending;
mod operator;
mod people;
mod stranger;
mod vandal;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use drystone_base::rng::Rng;
use drystone_testkit::client::SharedModel;
use drystone_testkit::disk::{DiskOptions, Power, SimDisk};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::{Sim, SimOptions, catch};

use crate::daemon::{Access, DaemonOptions, SimDaemon};
use crate::image::new_image;
use operator::Operator;

/// How many steps an operator makes, mostly.
pub const STEPS_DEFAULT: u64 = 6;

/// Bytes of a disk at first.
const DISK_BYTES: u64 = 256 << 10;
/// Images that can be laid over the first one of a disk.
const OVERLAYS: usize = 3;
/// People sleep about this long.
const PAUSE_NS: u64 = 300_000;
/// A power cut comes at one of the first operations of disks, of which there are mostly fewer.
const CUT_OPS_MAX: u64 = 300;
/// A run of more steps has no end.
const STEPS_MAX: u64 = 3_000_000;

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Steps of the scheduler.
    pub steps: u64,
    /// Different for different schedules.
    pub schedule: u64,
    /// Different if anything else was said.
    pub said: u64,
    /// Commands by name: done, refused.
    pub commands: BTreeMap<String, (u64, u64)>,
    /// Everything else that happened, by name.
    pub events: BTreeMap<String, u64>,
}

/// A run that found something.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What it found.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "daemon, seed {}: {}", self.seed, self.message)
    }
}

impl std::error::Error for Failure {}

/// Plays a daemon whose operator makes `steps` steps.
///
/// # Errors
/// [`Failure`] if anything is not as it must be.
pub fn run(seed: u64, steps: u64) -> Result<Report, Failure> {
    catch(seed, || play(seed, steps)).map_err(|message| Failure { seed, message })
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// When everybody has gone.
    Calm,
    /// While a job runs and clients write.
    Busy,
    /// The power goes.
    Cut,
}

/// What is special about a run.
#[derive(Debug, Clone, Copy)]
struct Story {
    ending: Ending,
    /// Devices fail.
    is_troubled: bool,
    /// The operator may go in the middle of a command.
    may_vanish: bool,
    disks: usize,
    steps: u64,
}

impl Story {
    fn draw(rng: &mut Rng, steps: u64) -> Self {
        let ending = match rng.below(4) {
            0 | 1 => Ending::Calm,
            2 => Ending::Busy,
            _ => Ending::Cut,
        };
        let (is_troubled, may_vanish) = (rng.one_in(3), rng.one_in(2));
        Self { ending, is_troubled, may_vanish, disks: 1 + rng.index(2), steps }
    }
}

/// Counts of what was done. Clones are the same.
#[derive(Debug, Clone, Default)]
struct Counts(Rc<RefCell<Counted>>);

/// Commands: done and refused; other events.
type Counted = (BTreeMap<String, (u64, u64)>, BTreeMap<String, u64>);

impl Counts {
    fn command(&self, name: &str, is_done: bool) {
        let mut counted = self.0.borrow_mut();
        let (done, refused) = counted.0.entry(name.to_owned()).or_default();
        *if is_done { done } else { refused } += 1;
    }

    fn event(&self, name: &str, count: u64) {
        if count > 0 {
            *self.0.borrow_mut().1.entry(name.to_owned()).or_default() += count;
        }
    }
}

/// A disk of clients: a chain of images.
struct Disk {
    /// `a`, `b`, ...: the beginning of the names of its nodes, and the name of its export.
    name: char,
    images: Vec<SimDisk>,
    model: SharedModel,
    /// The image that is on top, or that a command in work puts there.
    top: Cell<usize>,
}

impl Disk {
    fn new(number: usize, rng: &mut Rng, power: &Power) -> Self {
        let name = char::from(b'a' + u8::try_from(number).unwrap_or(0));
        let image = |index: usize| {
            let backing = index.checked_sub(1).map(|below| node_name(name, below));
            let shown = format!("{}-file", node_name(name, index));
            let seeded = DiskOptions::seeded(rng.next_u64());
            let options = DiskOptions { name: shown, power: power.clone(), ..seeded };
            SimDisk::new(new_image(DISK_BYTES, backing.as_deref()), options)
        };
        let images = (0..=OVERLAYS).map(image).collect();
        let model = ByteModel::zeroed(DISK_BYTES).with_odd_ends();
        Self { name, images, model: Rc::new(RefCell::new(model)), top: Cell::new(0) }
    }

    fn node(&self, index: usize) -> String {
        node_name(self.name, index)
    }
}

fn node_name(disk: char, index: usize) -> String {
    format!("{disk}{index}")
}

/// What the tasks of one run share. Clones are the same.
#[derive(Clone)]
struct Run {
    access: Access,
    story: Story,
    disks: Rc<Vec<Disk>>,
    /// Everybody goes home.
    is_over: Rc<Cell<bool>>,
    /// How many tasks have not gone home.
    at_work: Rc<Cell<usize>>,
    counts: Counts,
}

impl Run {
    /// Devices work again, and go on to.
    fn mend(&self) {
        for image in self.disks.iter().flat_map(|disk| &disk.images) {
            image.clear_faults();
            image.set_space(u64::MAX);
        }
    }
}

fn play(seed: u64, steps: u64) -> Report {
    let sim = Sim::new(SimOptions { io_threads: 4, steps_max: STEPS_MAX, ..SimOptions::seeded(seed) });
    let mut rng = sim.rng();
    let story = Story::draw(&mut rng, steps);
    let power = Power::new();
    let disks: Vec<Disk> = (0..story.disks).map(|number| Disk::new(number, &mut rng, &power)).collect();
    let files = |disk: &Disk| -> Vec<(String, SimDisk)> {
        let file = |(index, image): (usize, &SimDisk)| (format!("{}-file", disk.node(index)), image.clone());
        disk.images.iter().enumerate().map(file).collect()
    };
    let files = disks.iter().flat_map(files).collect();
    let options = DaemonOptions { disks: files, monitors: 4, ..DaemonOptions::seeded(rng.next_u64()) };
    let daemon = SimDaemon::start(&sim, options);
    let run = Run {
        access: daemon.access(),
        story,
        disks: Rc::new(disks),
        is_over: Rc::default(),
        at_work: Rc::default(),
        counts: Counts::default(),
    };
    if story.ending == Ending::Cut {
        power.cut_at(power.ops_begun() + rng.below(CUT_OPS_MAX));
    }
    operate(&sim, &daemon, &run, &power, rng);
    let (counts, trace) = (run.counts.clone(), daemon.trace().clone());
    ending::end(&sim, daemon, &run, &power);
    counts.event("operations of disks", power.ops_begun());
    let hits = run.disks.iter().flat_map(|disk| &disk.images).map(SimDisk::faults_hit).sum();
    counts.event("operations of disks that failed", hits);
    let (commands, events) = counts.0.take();
    Report { seed, steps: sim.steps(), schedule: sim.schedule_hash(), said: trace.hash(), commands, events }
}

/// Lets everybody loose, until the operator has told the daemon to quit or the power goes.
fn operate(sim: &Sim, daemon: &SimDaemon<'_>, run: &Run, power: &Power, mut rng: Rng) {
    let done = Rc::new(RefCell::new(None));
    let local = sim.io(4);
    people::spawn(sim, run, &mut rng);
    let operator = {
        let (done, run, local) = (Rc::clone(&done), run.clone(), Rc::clone(&local));
        async move {
            let result = Operator::operate(run, local, rng).await;
            done.replace(Some(result));
        }
    };
    sim.spawn(&local, "operator", operator);
    let is_over = || power.is_off() || done.borrow().is_some();
    if let Err(stuck) = sim.run_until(is_over) {
        panic!("{stuck}\n{}", daemon.trace());
    }
    if let Some(Err(error)) = done.take()
        && !power.is_off()
    {
        panic!("{}\n{}", error.report(), daemon.trace());
    }
}
