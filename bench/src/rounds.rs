//! Rounds, and what is read from them.
//!
//! The order of the two sides alternates, so that a machine that gets slower (or faster) over the run favours neither;
//! each ratio is of two figures of one round.

use std::collections::BTreeMap;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The C tool.
    C,
    /// Ours; or the C tool again.
    Ours,
    /// The server without a block layer.
    Floor,
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// The figure of the row.
    pub(crate) value: f64,
    /// Processor time of the server for each request, in microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// Memory of the server, or the most that a program held, in MiB.
    pub(crate) rss_mib: Option<f64>,
    /// What the file that was made takes of its file system, in MiB.
    pub(crate) made_mib: Option<f64>,
}

/// What the goals ask of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bar {
    /// How many times as good as the C tool.
    pub(crate) times: f64,
    /// With no more memory than the C tool.
    pub(crate) is_lean: bool,
    /// With a file that is no larger than the C tool's.
    pub(crate) is_small: bool,
}

/// What a row's figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unit {
    /// As it is printed.
    pub(crate) name: &'static str,
    /// Whether more is better.
    pub(crate) is_rate: bool,
}

/// All measurements of one thing.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// What it is.
    pub(crate) name: String,
    /// What its figure counts.
    pub(crate) unit: Unit,
    /// By side, in the order of the rounds.
    pub(crate) samples: BTreeMap<Side, Vec<Sample>>,
    /// What is asked of it, if anything.
    pub(crate) bar: Option<Bar>,
}

/// Median, smallest and largest of some ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// The one in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

/// The order in which a round measures its sides.
pub(crate) fn order(sides: &[Side], round: usize) -> Vec<Side> {
    let mut order: Vec<Side> = sides.iter().copied().filter(|side| *side != Side::Floor).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order.extend(sides.iter().filter(|side| **side == Side::Floor));
    order
}

impl Row {
    /// Measures every side in every round.
    pub(crate) fn measure(
        name: String,
        unit: Unit,
        sides: &[Side],
        rounds: usize,
        mut sample: impl FnMut(Side) -> Result<Sample, String>,
    ) -> Result<Self, String> {
        let mut samples: BTreeMap<Side, Vec<Sample>> = BTreeMap::new();
        for round in 0..rounds {
            for side in order(sides, round) {
                let measured = sample(side).map_err(|error| format!("{name}, {side:?}: {error}"))?;
                samples.entry(side).or_default().push(measured);
            }
        }
        Ok(Self { name, unit, samples, bar: None })
    }

    /// As [`Self::measure`], of several things that one run of a side shows.
    pub(crate) fn measure_all(
        names: &[(&str, Unit)],
        sides: &[Side],
        rounds: usize,
        mut sample: impl FnMut(Side) -> Result<Vec<f64>, String>,
    ) -> Result<Vec<Self>, String> {
        let row = |(name, unit): &(&str, Unit)| Self {
            name: (*name).into(),
            unit: *unit,
            samples: BTreeMap::new(),
            bar: None,
        };
        let mut rows: Vec<Self> = names.iter().map(row).collect();
        for round in 0..rounds {
            for side in order(sides, round) {
                let first = names.first().map_or("", |(name, _)| name);
                let values = sample(side).map_err(|error| format!("{first}, {side:?}: {error}"))?;
                for (row, value) in rows.iter_mut().zip(values) {
                    row.samples.entry(side).or_default().push(Sample { value, ..Sample::default() });
                }
            }
        }
        Ok(rows)
    }

    /// The median of one number of a side; `None` if the side was not measured or has no such number.
    pub(crate) fn median(&self, side: Side, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.get(&side)?.iter().filter_map(of).collect())
    }

    /// What of its bar was missed; `None` without a bar, or without both sides.
    pub(crate) fn missed(&self) -> Option<Vec<&'static str>> {
        let (bar, ratio) = (self.bar?, self.ratio(Side::Ours, Side::C)?);
        let is_more = |of: fn(&Sample) -> Option<f64>| {
            self.median(Side::Ours, of).zip(self.median(Side::C, of)).is_some_and(|(ours, c)| ours > c)
        };
        let checks = [
            (ratio.median < bar.times, "time"),
            (bar.is_lean && is_more(|sample| sample.rss_mib), "memory"),
            (bar.is_small && is_more(|sample| sample.made_mib), "length"),
        ];
        Some(checks.into_iter().filter(|(is_missed, _)| *is_missed).map(|(_, what)| what).collect())
    }

    /// How many times as good `side` is as `other`, round by round: above 1 is better whatever the unit.
    pub(crate) fn ratio(&self, side: Side, other: Side) -> Option<Spread> {
        let pairs = self.samples.get(&side)?.iter().zip(self.samples.get(&other)?);
        let ratios: Vec<f64> = pairs
            .map(|(a, b)| if self.unit.is_rate { a.value / b.value } else { b.value / a.value })
            .filter(|ratio| ratio.is_finite())
            .collect();
        let (min, max) = (ratios.iter().copied().reduce(f64::min)?, ratios.iter().copied().reduce(f64::max)?);
        Some(Spread { median: median(ratios)?, min, max })
    }
}

/// The middle value, or the mean of the two middle ones.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = *values.get(half)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some((values.get(half - 1)? + upper) / 2.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Unit = Unit { name: "IOPS", is_rate: true };
    const TIME: Unit = Unit { name: "ms", is_rate: false };

    fn row(unit: Unit, c: &[f64], ours: &[f64]) -> Row {
        let samples = |values: &[f64]| {
            values.iter().map(|value| Sample { value: *value, ..Sample::default() }).collect()
        };
        let samples = BTreeMap::from([(Side::C, samples(c)), (Side::Ours, samples(ours))]);
        Row { name: "x".into(), unit, samples, bar: None }
    }

    #[test]
    fn sides_take_turns_and_the_floor_comes_last() {
        let sides = [Side::C, Side::Ours, Side::Floor];
        assert_eq!(order(&sides, 0), sides);
        assert_eq!(order(&sides, 1), [Side::Ours, Side::C, Side::Floor]);
        assert_eq!(order(&[Side::C, Side::Floor], 1), [Side::C, Side::Floor]);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let ratio = row(RATE, &[1.0, 10.0, 100.0], &[2.0, 10.0, 300.0]).ratio(Side::Ours, Side::C);
        assert_eq!(ratio, Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
    }

    #[test]
    fn less_time_is_better() {
        let ratio = row(TIME, &[4.0], &[2.0]).ratio(Side::Ours, Side::C);
        assert_eq!(ratio.map(|spread| spread.median), Some(2.0));
    }

    #[test]
    fn a_side_that_is_missing_has_no_figures() {
        let row = row(RATE, &[1.0], &[1.0]);
        assert_eq!(row.ratio(Side::C, Side::Floor), None);
        assert_eq!(row.median(Side::C, |sample| sample.cpu_us), None);
    }

    #[test]
    fn a_bar_asks_for_time_memory_and_length() {
        let sample = |value, rss, made| {
            vec![Sample { value, rss_mib: Some(rss), made_mib: Some(made), ..Sample::default() }]
        };
        let samples =
            BTreeMap::from([(Side::C, sample(3.0, 9.0, 5.0)), (Side::Ours, sample(1.0, 10.0, 6.0))]);
        let row = |times, is_lean, is_small| Row {
            bar: Some(Bar { times, is_lean, is_small }),
            samples: samples.clone(),
            ..row(TIME, &[], &[])
        };
        assert_eq!(row(3.0, false, false).missed(), Some(vec![]));
        assert_eq!(row(3.1, true, true).missed(), Some(vec!["time", "memory", "length"]));
        assert_eq!(Row { bar: None, ..row(3.0, true, true) }.missed(), None, "nothing was asked");
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn a_failed_measurement_names_itself() {
        let failed = Row::measure("x".into(), RATE, &[Side::C], 1, |_| Err("broken".into()));
        assert_eq!(failed.map(|_| ()), Err("x, C: broken".into()));
    }
}
