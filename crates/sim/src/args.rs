//! The arguments of `drystone-sim`.

use drystone_played::play::STEPS_DEFAULT;
use drystone_sim::Options;

/// What the fixed seeds are when none are named.
const SEEDS_DEFAULT: u64 = 1000;

pub(crate) const USAGE: &str = "\
usage: drystone-sim [--seed N] [--seeds N] [--steps N] [--jobs N] [--verbose] [--script FILE]
                    [--minimise] [--keep-going] [--daemon] [--ci]

  --seed N      the first seed (1), and only that one unless --seeds says more
  --seeds N     how many seeds (1000)
  --steps N     about how many steps an actor has (20)
  --jobs N      how many runs at a time (as many as there are processors)
  --verbose     a line for each run
  --script FILE plays a script instead
  --planted     plants mistakes and finds them (built with the feature `planted`)
  --plant NAME  plants one, and plays seeds
  --minimise    takes out of a script that fails what is not needed for that
  --keep-going  goes on after a failure, and says what it was
  --daemon      plays whole daemons, with their monitors and clients, instead of scripts; --steps is about their operators
  --ci          seeds 1 to 8000, and 2000 fresh ones, which DRYSTONE_SIM_SEED decides; of each 20, one is a daemon's too";

/// The seeds that are played on every change.
const CI_FIXED: (u64, u64) = (1, 8000);
/// How many more are, which nobody has seen.
const CI_FRESH: u64 = 2000;
/// For so many of them, there is one of a daemon.
const CI_PER_DAEMON: u64 = 20;

/// Which mistakes are to be found.
#[cfg(feature = "planted")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Each of them.
    All,
    /// This one is in the program.
    One(drystone_base::planted::Mistake),
}

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Args {
    pub(crate) options: Options,
    /// First seed and count, for each series.
    pub(crate) seeds: Vec<(u64, u64)>,
    /// The same for daemons.
    pub(crate) daemons: Vec<(u64, u64)>,
    /// Steps of the operator of a daemon.
    pub(crate) daemon_steps: u64,
    pub(crate) jobs: usize,
    pub(crate) is_verbose: bool,
    pub(crate) minimises: bool,
    pub(crate) keeps_going: bool,
    pub(crate) wants_help: bool,
    pub(crate) script: Option<String>,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<Plant>,
}

impl Args {
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let (mut seed, mut seeds) = (None, None);
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut parsed = Self { jobs, daemon_steps: STEPS_DEFAULT, ..Self::default() };
        let mut is_daemon = false;
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{option} needs a value\n{USAGE}"));
            match option.as_str() {
                "--seed" => seed = Some(number(option, value()?)?),
                "--seeds" => seeds = Some(number(option, value()?)?),
                "--steps" => parsed.set_steps(number(option, value()?)?),
                "--jobs" => parsed.jobs = usize::try_from(number(option, value()?)?).unwrap_or(1).max(1),
                "--script" => parsed.script = Some(value()?.clone()),
                "--verbose" => parsed.is_verbose = true,
                "--help" => parsed.wants_help = true,
                "--minimise" => parsed.minimises = true,
                "--keep-going" => parsed.keeps_going = true,
                "--daemon" => is_daemon = true,
                "--ci" => parsed.set_ci(fresh_seed()?),
                #[cfg(feature = "planted")]
                "--planted" => parsed.planted = Some(Plant::All),
                #[cfg(feature = "planted")]
                "--plant" => parsed.planted = Some(Plant::One(mistake(value()?)?)),
                _ => return Err(format!("unknown argument: {option}\n{USAGE}")),
            }
        }
        if !parsed.seeds.is_empty() {
            return Ok(parsed);
        }
        let count = seeds.unwrap_or(if seed.is_some() { 1 } else { SEEDS_DEFAULT });
        parsed.is_verbose |= count == 1;
        let series = if is_daemon { &mut parsed.daemons } else { &mut parsed.seeds };
        series.push((seed.unwrap_or(1), count));
        Ok(parsed)
    }

    fn set_steps(&mut self, steps: u64) {
        (self.options.steps, self.daemon_steps) = (steps, steps);
    }

    fn set_ci(&mut self, fresh: u64) {
        self.seeds = vec![CI_FIXED, (fresh, CI_FRESH)];
        self.daemons = self.seeds.iter().map(|&(first, count)| (first, count / CI_PER_DAEMON)).collect();
    }
}

#[cfg(feature = "planted")]
fn mistake(name: &str) -> Result<drystone_base::planted::Mistake, String> {
    crate::planted::find(name).ok_or_else(|| format!("nobody knows a mistake called '{name}'"))
}

/// The first of seeds that were not played before.
fn fresh_seed() -> Result<u64, String> {
    const VARIABLE: &str = "DRYSTONE_SIM_SEED";
    match std::env::var(VARIABLE) {
        Ok(text) => number(VARIABLE, &text),
        Err(_) => {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            Ok(since.map_or(0, |since| since.as_secs()) << 20)
        }
    }
}

fn number(option: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{option}: '{text}' is no number"))
}
