//! [`Tally`]: what a run, or many, have done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How things ended: (done, refused or failed).
pub type Ends = (u64, u64);

/// Counts of what was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests by kind: worked, failed.
    pub requests: BTreeMap<String, Ends>,
    /// Changes of the graph by kind: done, refused.
    pub changes: BTreeMap<String, Ends>,
    /// Why changes were refused, by kind and reason.
    pub refusals: BTreeMap<String, u64>,
    /// Everything else that happened, by name.
    pub events: BTreeMap<String, u64>,
}

/// What a series of runs has done.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// How many runs.
    pub runs: u64,
    /// How many steps of the scheduler.
    pub steps: u64,
    /// Hashes of the schedules.
    pub schedules: BTreeSet<u64>,
    /// What was done.
    pub tally: Tally,
    /// The most bytes that one run held at once.
    pub memory_bytes: u64,
}

/// A tally that all parts of one run add to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<Tally>>);

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn request(&self, name: &str, is_done: bool) {
        end(&mut self.lock().requests, name, is_done);
    }

    pub(crate) fn change(&self, name: &str, is_done: bool) {
        end(&mut self.lock().changes, name, is_done);
    }

    pub(crate) fn refusal(&self, name: &str, reason: impl fmt::Debug) {
        *self.lock().refusals.entry(format!("{name}: {reason:?}")).or_default() += 1;
    }

    pub(crate) fn event(&self, name: &str, count: u64) {
        if count > 0 {
            *self.lock().events.entry(name.to_owned()).or_default() += count;
        }
    }

    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut self.lock())
    }
}

fn end(ends: &mut BTreeMap<String, Ends>, name: &str, is_done: bool) {
    let (done, refused) = ends.entry(name.to_owned()).or_default();
    *if is_done { done } else { refused } += 1;
}

impl Tally {
    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        let groups = [(&mut self.requests, &other.requests), (&mut self.changes, &other.changes)];
        for (own, others) in groups {
            for (name, (done, refused)) in others {
                let ends = own.entry(name.clone()).or_default();
                *ends = (ends.0 + done, ends.1 + refused);
            }
        }
        let groups = [(&mut self.refusals, &other.refusals), (&mut self.events, &other.events)];
        for (own, others) in groups {
            for (name, count) in others {
                *own.entry(name.clone()).or_default() += count;
            }
        }
    }
}

impl Totals {
    /// Adds one run.
    pub fn add(&mut self, steps: u64, schedule: u64, tally: &Tally) {
        self.runs += 1;
        self.steps += steps;
        self.schedules.insert(schedule);
        self.tally.add(tally);
    }

    /// Adds another series.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.schedules.extend(&other.schedules);
        self.tally.add(&other.tally);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
    }
}

fn sum(ends: &BTreeMap<String, Ends>) -> Ends {
    ends.values().fold((0, 0), |sum, ends| (sum.0 + ends.0, sum.1 + ends.1))
}

/// One line.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, changes) = (sum(&self.requests), sum(&self.changes));
        write!(f, "{} requests", requests.0)?;
        if requests.1 > 0 {
            write!(f, " ({} failed)", requests.1)?;
        }
        write!(f, ", {} changes", changes.0)?;
        if changes.1 > 0 {
            write!(f, " ({} refused)", changes.1)?;
        }
        self.events.iter().try_for_each(|(name, count)| write!(f, ", {count} {name}"))
    }
}

/// A table.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds, {} distinct schedules, {} steps",
            self.runs,
            self.schedules.len(),
            self.steps
        )?;
        if self.memory_bytes > 0 {
            writeln!(
                f,
                "memory of a run: at most {} KiB; none is left by systems that end",
                self.memory_bytes >> 10
            )?;
        }
        for (title, words, ends) in [
            ("requests", ["worked", "failed"], &self.tally.requests),
            ("changes", ["done", "refused"], &self.tally.changes),
        ] {
            let (done, not) = sum(ends);
            writeln!(f, "{title:<24}{done:>10} {} {not:>10} {}", words[0], words[1])?;
            for (name, (done, not)) in ends {
                writeln!(f, "  {name:<22}{done:>10} {:words$} {not:>10}", "", words = words[0].len())?;
            }
        }
        for (title, counts) in [("refusals", &self.tally.refusals), ("events", &self.tally.events)] {
            writeln!(f, "{title}")?;
            counts.iter().try_for_each(|(name, count)| writeln!(f, "  {name:<38}{count:>10}"))?;
        }
        Ok(())
    }
}
