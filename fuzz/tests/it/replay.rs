//! The targets on stable, without libFuzzer.
//!
//! ```text
//!   seeds + corpus/TARGET/* + findings/TARGET/*   as they are
//!   mutations 0 .. N of those                     N: Target::mutations, or DRYSTONE_MUTATIONS
//! ```
//! An input that panics is printed with its name, or with the number of its mutation.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drystone_fuzz::mutate::mutate;
use drystone_fuzz::{TARGETS, Target, find};

/// The longest that one input may take, in processor time of a build without optimisation.
const TIME_MAX: Duration = Duration::from_secs(2);
/// The most memory that a target's process may have used.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// The inputs of a target in `folder` of this package, by their names.
fn stored(folder: &str, target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target.name);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Says which input it was if it panics.
struct Name<'n>(&'n str, &'n [u8]);

impl Drop for Name<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the input: {}, {} bytes: {}", self.0, self.1.len(), self.1.escape_ascii());
        }
    }
}

/// How long this thread has run, also on a machine that is busy with something else.
fn busy_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

fn survive(target: &Target, name: &str, bytes: &[u8]) {
    let _name = Name(name, bytes);
    let start = busy_time();
    (target.run)(bytes);
    let took = busy_time().saturating_sub(start);
    assert!(took < TIME_MAX, "it took {took:?}");
}

fn demand_little_memory() {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib << 10 < MEMORY_BYTES_MAX, "{kib} KiB");
}

fn replay(name: &str) {
    let target = find(name).unwrap();
    let mut inputs = (target.seeds)();
    for (index, seed) in inputs.iter().enumerate() {
        assert!(seed.len() <= target.len_max, "seed {index} of {name} has {} bytes", seed.len());
        survive(target, &format!("seed {index}"), seed);
    }
    for (path, bytes) in [stored("corpus", target), stored("findings", target)].concat() {
        survive(target, &path.display().to_string(), &bytes);
        inputs.push(bytes);
    }
    let count = std::env::var("DRYSTONE_MUTATIONS").map_or(target.mutations, |count| count.parse().unwrap());
    for seed in 0..count {
        survive(target, &format!("mutation {seed}"), &mutate(target, &inputs, seed));
    }
    demand_little_memory();
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replays! {
    qcow2_header qcow2_tables qcow2_compressed qcow2_pressed qcow2_create qcow2_image
    raw_window
    probe name luks blkdebug_rules
    nbd_server nbd_client
    qmp_session json
    keyval number
}
