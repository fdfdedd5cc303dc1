//! [`CrashPoints`]: one change, cut at every boundary between two operations, with every subset of what no flush covered lost.
//!
//! ```text
//!  boundary 0 1 2 ... n     the power goes off when operation 0, 1, 2, ... was submitted, and at the end
//!     └─ found 0 1 2 ...    what could be on all disks then: subsets of the unflushed writes, of all disks together
//!          └─ verify        it is opened and looked at
//!          └─ go on         more work, cut at some operation of its own, and what is found then is verified, too
//! ```
//! A change is a [`Subject`]; that of a test in one line, `CrashPoints::of("first write", images).look_at(&subject)`. How much
//! is looked at is in [`Bounds`]: all subsets of up to so many sectors or writes (and then torn writes as a sample), samples
//! beyond. The same contents with the same knowledge are verified once.
//!
//! Invariants: a point is found again by its boundary and the codes of its survivors, which a failure prints; the variable
//! [`POINT_VARIABLE`] has only that one looked at. Equal seeds give equal points.
//! Not here: what the bytes mean.

mod bounds;
mod found;
mod seen;

use std::fmt;

use drystone_base::rng::Rng;

pub use bounds::{Bounds, DEPTH_VARIABLE, POINT_VARIABLE};
use bounds::{Only, wanted_point};

use found::{Coverage, Found, draw_found, every_found, recall};
use seen::Seen;

use super::Context;
use crate::disk::{DiskOptions, Image, Power, SimDisk, Timing};
use crate::sim::Sim;

/// What a cut is looked at for.
pub trait Subject {
    /// What is known of the disks' contents, usually a [`crate::model::ByteModel`]. Its debug text says all of it.
    type Known: Clone + fmt::Debug;

    /// Makes the change. Requests fail from some moment on. What is known then.
    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Self::Known;

    /// Looks at what was found; panics if that is not as `known` says. What is known then.
    fn verify(&self, sim: &Sim, disks: &[SimDisk], known: &Self::Known) -> Self::Known;

    /// Works on with what was found. Requests fail from some moment on. What is known then.
    fn go_on(&self, sim: &Sim, disks: &[SimDisk], known: Self::Known) -> Self::Known;
}

/// A change and how it is cut.
#[derive(Debug, Clone)]
pub struct CrashPoints {
    /// What reports call it.
    pub name: String,
    /// What the disks hold at first.
    pub images: Vec<Image>,
    /// Decides the schedule and what the disks do.
    pub seed: u64,
    /// What the disks are like; each has a seed of its own, and all have one power supply.
    pub disks: DiskOptions,
    /// How much is looked at.
    pub bounds: Bounds,
}

/// How many points were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Points {
    /// The change.
    pub name: String,
    /// Moments at which the power was cut.
    pub boundaries: u64,
    /// Those whose every subset was looked at.
    pub exhaustive: u64,
    /// Subsets of lost writes.
    pub subsets: u64,
    /// Different contents that were opened and looked at, those after a second cut among them.
    pub images: u64,
}

/// The line that `cargo xtask test` adds up.
impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, boundaries, exhaustive, subsets, images } = self;
        write!(
            f,
            "crash points: {name}: {boundaries} boundaries, {exhaustive} of them exhaustive, {subsets} subsets, {images} images"
        )
    }
}

impl CrashPoints {
    /// The change `name` of disks that hold `images`, with the bounds that are wanted ([`Bounds::wanted`]).
    #[must_use]
    pub fn of(name: &str, images: Vec<Image>) -> Self {
        let disks =
            DiskOptions { timing: Timing::Seeded { delay_ns_max: 1_000_000 }, ..DiskOptions::seeded(0) };
        Self { name: name.to_owned(), images, seed: 7, disks, bounds: Bounds::wanted() }
    }

    /// Looks at all points, and prints how many there were.
    ///
    /// # Panics
    /// If the subject does. The point is printed then.
    pub fn look_at<S: Subject>(&self, subject: &S) -> Points {
        let mut points =
            Points { name: self.name.clone(), boundaries: 0, exhaustive: 0, subsets: 0, images: 0 };
        let mut seen = Seen::default();
        let only = wanted_point();
        for schedule in 0..self.bounds.schedules {
            let run = Run { points: self, seed: self.seed + schedule, only: only.as_ref(), subject };
            let ops = run.boundary(u64::MAX, (&mut points, &mut seen));
            (0..ops).for_each(|op| {
                run.boundary(op, (&mut points, &mut seen));
            });
        }
        println!("{points}");
        points
    }

    /// The disks of one run, with one power supply.
    fn make_disks(&self, images: &[Image], seed: u64) -> Vec<SimDisk> {
        let power = Power::new();
        let disk = |(index, image): (u64, &Image)| {
            let (seed, name) = (seed.wrapping_mul(31).wrapping_add(index), format!("disk{index}"));
            SimDisk::new(
                image.clone(),
                DiskOptions { name, seed, power: power.clone(), ..self.disks.clone() },
            )
        };
        (0..).zip(images).map(disk).collect()
    }
}

/// The points of one schedule.
struct Run<'p, S> {
    points: &'p CrashPoints,
    seed: u64,
    only: Option<&'p Only>,
    subject: &'p S,
}

impl<S: Subject> Run<'_, S> {
    /// One run with the power cut at operation `op` or at the end, and all that is looked at then; how many operations
    /// there were.
    fn boundary(&self, op: u64, (points, seen): (&mut Points, &mut Seen)) -> u64 {
        let is_wanted = self.only.is_none_or(|only| only.is_at(self.seed, op));
        if !is_wanted && op != u64::MAX {
            return 0;
        }
        let _context = Context(|| {
            format!("crash point '{}': boundary {}, seed {}", self.points.name, At(op), self.seed)
        });
        let disks = self.points.make_disks(&self.points.images, self.seed);
        let known = cut_at(&disks, op, || self.subject.change(&Sim::seeded(self.seed), &disks));
        let ops = disks.first().map_or(0, |disk| disk.power().ops_begun());
        if !is_wanted {
            return ops;
        }
        let (found, coverage) = match self.only {
            Some(only) => (vec![recall(&disks, &only.codes)], Coverage::Sampled),
            None => every_found(&disks, self.points.bounds, self.seed ^ op),
        };
        points.boundaries += 1;
        points.exhaustive += u64::from(coverage != Coverage::Sampled);
        for one in found {
            points.subsets += 1;
            if seen.is_new(&one, &known) {
                points.images += self.point(op, &one, &known);
            }
        }
        ops
    }

    /// Verifies what was found, works on with it, and verifies what another cut leaves; how many contents that were.
    fn point(&self, op: u64, found: &Found, known: &S::Known) -> u64 {
        let _context = Context(|| {
            format!("{found}\nagain: {POINT_VARIABLE}='{} {} {}'", self.seed, At(op), found.codes())
        });
        let sim = || Sim::seeded(self.seed);
        let settled = self.subject.verify(&sim(), &self.points.make_disks(&found.images(), self.seed), known);
        let mut rng = Rng::new(self.seed ^ found.hash());
        // Somewhere in the work, or after its end.
        let again = rng.below(self.points.bounds.second_cut_ops);
        let disks = self.points.make_disks(&found.images(), rng.next_u64());
        let known = cut_at(&disks, again, || self.subject.go_on(&sim(), &disks, settled));
        let second = draw_found(&disks, rng.next_u64());
        let _context = Context(|| format!("then more work, cut at operation {again}: {second}"));
        self.subject.verify(&sim(), &self.points.make_disks(&second.images(), self.seed), &known);
        2
    }
}

/// Runs `work` with the power cut at operation `op`, or at its end.
fn cut_at<T>(disks: &[SimDisk], op: u64, work: impl FnOnce() -> T) -> T {
    let Some(power) = disks.first().map(SimDisk::power) else { panic!("a power cut needs a disk") };
    power.cut_at(op);
    let known = work();
    power.cut();
    known
}

/// A boundary: the operation that was just submitted, or the end.
struct At(u64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == u64::MAX { f.write_str("end") } else { write!(f, "{}", self.0) }
    }
}

#[cfg(test)]
mod tests;
