//! `drystone-sim`: plays seeds, many at a time, and says what was done and what was found.
#![forbid(unsafe_code)]

mod args;
#[cfg(feature = "planted")]
mod planted;

use std::fmt;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use args::Args;
use drystone_played::play;
use drystone_sim::script::Script;
use drystone_sim::tally::{Tally, Totals};
use drystone_sim::{Failure, RunReport, memory, minimise, run, run_script};
use drystone_testkit::allocations::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// So many scripts are tried to make one shorter.
const RUNS_MAX: u64 = 20_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match Args::parse(&args) {
        Ok(args) => act(&args),
        Err(text) => Err(text),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("drystone-sim: {text}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was found.
fn act(args: &Args) -> Result<bool, String> {
    if args.wants_help {
        println!("{}", args::USAGE);
        return Ok(true);
    }
    #[cfg(feature = "planted")]
    match &args.planted {
        Some(args::Plant::All) => return planted::find_all(args.jobs),
        Some(args::Plant::One(mistake)) => drystone_base::planted::plant(Some(*mistake)),
        None => {}
    }
    if let Some(path) = &args.script {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let script: Script = text.parse().map_err(|fault| format!("{path}: {fault}"))?;
        return Ok(show(args, run_script(&script)));
    }
    let mut is_fine = true;
    let scripts = args.seeds.iter().map(|series| (What::Scripts, series));
    for (what, (first, count)) in scripts.chain(args.daemons.iter().map(|series| (What::Daemons, series))) {
        println!("{what:?}, seeds {first} to {}", first.saturating_add(*count).saturating_sub(1));
        is_fine &= series(args, what, *first, *count);
        if !is_fine {
            break;
        }
    }
    Ok(is_fine)
}

/// What is played.
#[derive(Debug, Clone, Copy)]
enum What {
    Scripts,
    Daemons,
}

/// What was found.
enum Found {
    Script(Box<Failure>),
    Daemon(play::Failure),
    /// What a seed holds that it should not.
    Memory(u64, String),
}

impl Found {
    fn seed(&self) -> u64 {
        match self {
            Self::Script(failure) => failure.script.seed,
            Self::Daemon(failure) => failure.seed,
            Self::Memory(seed, _) => *seed,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(failure) => failure.fmt(f),
            Self::Daemon(failure) => failure.fmt(f),
            Self::Memory(seed, text) => write!(f, "seed {seed}: {text}"),
        }
    }
}

fn play_one(args: &Args, what: What, seed: u64) -> Result<RunReport, Found> {
    if let What::Scripts = what {
        return run(seed, &args.options).map_err(Found::Script);
    }
    let play::Report { seed, steps, schedule, commands, events, .. } =
        play::run(seed, args.daemon_steps).map_err(Found::Daemon)?;
    Ok(RunReport { seed, steps, schedule, tally: Tally { changes: commands, events, ..Tally::default() } })
}

/// Plays seeds on several threads, up to the first that fails.
fn series(args: &Args, what: What, first: u64, count: u64) -> bool {
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let totals = Mutex::new(Totals::default());
    let found = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                let mut own = Totals::default();
                while !is_over.load(Ordering::Relaxed) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        break;
                    }
                    let seed = first.wrapping_add(place);
                    let played =
                        memory::bounded(|| play_one(args, what, seed), |text| Found::Memory(seed, text));
                    match played {
                        Ok((report, bytes)) => {
                            own.memory_bytes = own.memory_bytes.max(bytes);
                            note(args, &mut own, &report);
                        }
                        Err(failure) if args.keeps_going => println!("FAILED {failure}"),
                        Err(failure) => {
                            is_over.store(true, Ordering::Relaxed);
                            keep_first(&found, failure);
                        }
                    }
                }
                totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).merge(&own);
            });
        }
    });
    print!("{}", totals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    match found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        None => true,
        Some(Found::Script(failure)) => show(args, Err(failure)),
        Some(failure) => {
            println!("FAILED {failure}");
            false
        }
    }
}

fn note(args: &Args, totals: &mut Totals, report: &RunReport) {
    totals.add(report.steps, report.schedule, &report.tally);
    if args.is_verbose {
        println!("{report}");
    }
}

/// Of several failures, the one with the lowest seed.
fn keep_first(found: &Mutex<Option<Found>>, failure: Found) {
    let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if found.as_ref().is_none_or(|known| failure.seed() < known.seed()) {
        *found = Some(failure);
    }
}

/// Prints how one run ended; whether well.
fn show(args: &Args, ended: Result<RunReport, Box<Failure>>) -> bool {
    match ended {
        Ok(report) => println!("{report}"),
        Err(failure) => {
            println!("FAILED {failure}\n\nThe script:\n{}", failure.script);
            if args.minimises {
                let least = minimise(&failure, RUNS_MAX);
                println!("FAILED {least}\n\nThe least that fails like this:\n{}", least.script);
            }
            return false;
        }
    }
    true
}
