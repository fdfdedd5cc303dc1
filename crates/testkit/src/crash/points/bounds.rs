//! How many points are looked at: the bounds, and what the environment says of them.

/// A number that multiplies the samples: `2` looks at twice as many.
pub const DEPTH_VARIABLE: &str = "DRYSTONE_CRASH_DEPTH";
/// The one point that is looked at: seed, boundary and codes, as a failure prints them.
pub const POINT_VARIABLE: &str = "DRYSTONE_CRASH_POINT";

/// Up to so many unflushed writes or sectors, every subset is looked at.
const EXHAUSTIVE_MAX: u64 = 7;
/// Of more, so many subsets.
const SAMPLES: usize = 48;
/// So many further torn writes where whole writes were looked at exhaustively.
const TORN: usize = 8;
/// The second cut is at one of so many operations.
const SECOND_CUT_OPS: u64 = 40;
/// Most schedules of a deeper run.
const SCHEDULES_MAX: u64 = 8;

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Up to so many unflushed writes or sectors, every subset.
    pub exhaustive_max: u64,
    /// Of more, so many subsets.
    pub samples: usize,
    /// So many torn writes beside every subset of whole ones.
    pub torn: usize,
    /// The second cut is at one of so many operations; past the end of the work, after it.
    pub second_cut_ops: u64,
    /// How many schedules.
    pub schedules: u64,
}

impl Bounds {
    /// What every run of the tests looks at.
    pub const USUAL: Self = Self {
        exhaustive_max: EXHAUSTIVE_MAX,
        samples: SAMPLES,
        torn: TORN,
        second_cut_ops: SECOND_CUT_OPS,
        schedules: 1,
    };

    /// `times` as many samples.
    #[must_use]
    pub fn deeper(self, times: u64) -> Self {
        let factor = usize::try_from(times.max(1)).unwrap_or(usize::MAX);
        Self {
            exhaustive_max: (self.exhaustive_max + u64::from(times.max(1).ilog2())).min(16),
            samples: self.samples.saturating_mul(factor),
            torn: self.torn.saturating_mul(factor),
            schedules: times.clamp(1, SCHEDULES_MAX),
            ..self
        }
    }

    /// [`Self::USUAL`], or deeper as the environment says.
    ///
    /// # Panics
    /// If that is not a number.
    #[must_use]
    pub fn wanted() -> Self {
        match std::env::var(DEPTH_VARIABLE).ok().map(|text| (text.parse::<u64>(), text)) {
            None => Self::USUAL,
            Some((Ok(times), _)) => Self::USUAL.deeper(times),
            Some((Err(_), text)) => panic!("{DEPTH_VARIABLE} is a number, not '{text}'"),
        }
    }
}

/// The one point that is looked at.
pub(super) struct Only {
    seed: u64,
    op: u64,
    /// A code for each disk, with commas between them.
    pub(super) codes: String,
}

impl Only {
    pub(super) fn is_at(&self, seed: u64, op: u64) -> bool {
        (self.seed, self.op) == (seed, op)
    }

    /// Reads `seed boundary codes`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let seed = words.next()?.parse().ok()?;
        let op = match words.next()? {
            "end" => u64::MAX,
            number => number.parse().ok()?,
        };
        Some(Self { seed, op, codes: words.next()?.to_owned() }).filter(|_| words.next().is_none())
    }
}

pub(super) fn wanted_point() -> Option<Only> {
    let text = std::env::var(POINT_VARIABLE).ok()?;
    match Only::parse(&text) {
        Some(only) => Some(only),
        None => panic!("{POINT_VARIABLE} is a seed, a boundary and codes, not '{text}'"),
    }
}
