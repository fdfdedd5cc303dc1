//! Whether the simulation finds mistakes: `--planted` plants one after the other, and plays seeds until one fails.
//!
//! ```text
//!   --planted ──► one process per mistake:  --plant NAME ──► seeds 1, 2, ... ──► "FAILED seed N: what was found"
//!       '── a table: mistake, seeds it took, what found it
//! ```
//! A process of its own, because a panic in a commit ends the process, and because the switch is there once.
//!
//! Invariant: a mistake counts as found only if the message is one that it has to have (`signs`): a script that cannot be
//! played finds everything, and says nothing.

use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use drystone_base::planted::Mistake;

/// How many seeds may be needed.
pub(crate) const SEEDS_MAX: u64 = 3000;

/// How much is printed of what was found.
const MESSAGE_CHARS_MAX: usize = 150;

/// A mistake, what it is called, and what is said of it when it is found.
pub(crate) struct Planted {
    pub(crate) mistake: Mistake,
    pub(crate) name: &'static str,
    /// One of these is in the message.
    signs: &'static [&'static str],
}

/// The run came to a standstill.
const STUCK: &str = "nothing can run";
/// A guest got something that it had not written there.
const BYTES: &str = "wrong bytes";
/// The check of an image after a power cut.
const CORRUPT: &str = "is corrupt";
/// An image is longer, or shorter, than it was ever made.
const LENGTH: &str = "was never set";
/// An image that is on nobody's way any more, or on which nobody may be.
const LEFT: &[&str] = &[QUIET, "is read-only", "is closed", BYTES];
const QUIET: &str = "is quiet";

/// All of them, in the order of the table in `drystone_base::planted`.
const ALL: &[Planted] = &[
    Planted { mistake: Mistake::ForgottenUndrain, name: "forgotten-undrain", signs: &[STUCK] },
    Planted { mistake: Mistake::CountAfterWake, name: "count-after-wake", signs: &[STUCK] },
    Planted {
        mistake: Mistake::RootBornOpen,
        name: "root-born-open",
        signs: &[QUIET, "an open gate reaches"],
    },
    Planted { mistake: Mistake::EdgeReused, name: "edge-reused", signs: LEFT },
    Planted { mistake: Mistake::TicketHeldOutside, name: "ticket-held-outside", signs: &[STUCK] },
    Planted { mistake: Mistake::FreedReused, name: "freed-reused", signs: &[BYTES] },
    Planted {
        mistake: Mistake::MappingBeforeData,
        name: "mapping-before-data",
        signs: &[BYTES, CORRUPT, "compressed data is damaged"],
    },
    Planted {
        mistake: Mistake::CountsBeforeMapping,
        name: "counts-before-mapping",
        signs: &[BYTES, CORRUPT],
    },
    Planted { mistake: Mistake::ZeroesResurrected, name: "zeroes-resurrected", signs: &[BYTES] },
    Planted {
        mistake: Mistake::SnapshotMissesWrite,
        name: "snapshot-misses-write",
        signs: &[QUIET, STUCK, BYTES],
    },
    Planted { mistake: Mistake::SnapshotKeepsFlags, name: "snapshot-keeps-flags", signs: &[BYTES, CORRUPT] },
    Planted { mistake: Mistake::ShrinkBesideWrites, name: "shrink-beside-writes", signs: &[BYTES, LENGTH] },
];

/// The mistake called `name`.
pub(crate) fn find(name: &str) -> Option<Mistake> {
    ALL.iter().find(|planted| planted.name == name).map(|planted| planted.mistake)
}

/// What became of one mistake.
struct Verdict {
    seed: Option<u64>,
    message: String,
}

/// Plants every mistake and prints the table; whether all were found.
pub(crate) fn find_all(jobs: usize) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(planted) = ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut command = Command::new(&program);
            command.args(["--plant", planted.name, "--jobs", "1", "--seeds", &SEEDS_MAX.to_string()]);
            let verdict =
                command.output().map_err(|error| error.to_string()).map(|output| judge(planted, &output));
            if let Ok(verdict) = &verdict {
                println!("{}", line(planted, verdict));
            }
            verdicts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(verdict);
        }
    };
    println!("{:<24}{:>6}  found by", "mistake", "seeds");
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let verdicts = verdicts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let verdicts = verdicts.into_iter().collect::<Result<Vec<_>, _>>()?;
    let count = verdicts.iter().filter(|verdict| verdict.seed.is_some()).count();
    println!("{count} of {} mistakes found", ALL.len());
    Ok(count == ALL.len())
}

/// What a process has found, if it is what its mistake does.
fn judge(planted: &Planted, output: &Output) -> Verdict {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A process that ends in a commit has said only what its panic was.
    let Some((seed, message)) = found(&out, "FAILED seed ").or_else(|| found(&err, "seed ")) else {
        return Verdict { seed: None, message: "nothing".to_owned() };
    };
    let is_it = planted.signs.iter().any(|sign| message.contains(sign));
    Verdict { seed: Some(seed).filter(|_| is_it), message }
}

/// The seed and the message, on one line, behind `mark` in what a process has printed.
fn found(text: &str, mark: &str) -> Option<(u64, String)> {
    let start = text.find(mark)? + mark.len();
    let (seed, message) = text.get(start..)?.split_once(": ")?;
    let lines = message.lines().take_while(|line| !line.is_empty());
    let telling = lines.filter(|line| !line.starts_with("panicked at") && !line.starts_with("  thread"));
    let words = telling.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    Some((seed.parse().ok()?, words))
}

fn line(planted: &Planted, verdict: &Verdict) -> String {
    let seed = verdict.seed.map_or_else(|| "-".to_owned(), |seed| seed.to_string());
    let message: String = verdict.message.chars().take(MESSAGE_CHARS_MAX).collect();
    format!("{:<24}{seed:>6}  {message}", planted.name)
}
