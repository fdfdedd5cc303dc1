//! The storm, with the daemon killed (SIGKILL) in the middle of it, again and again on the same images.
//!
//! ```text
//!   start ─► every byte is one that may be there ─► storm ─► kill ─► every layer is whole, or leaks at worst ─┐
//!     ▲                                                                                                       │
//!     └───────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! The kernel outlives the process: what a raw disk has acknowledged is there. A qcow2 image keeps its tables in memory
//! until a flush, so of it what was flushed is there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use drystone_base::rng::Rng;

use super::{Alarm, Author, DISKS, Storm, finish, publish, setting, settings, under_load};
use crate::common::Scratch;
use crate::common::daemon::{Daemon, Monitor};
use crate::common::nbd::Client;

const ROUNDS_MIN: u64 = 10;
/// A round ends after so many writes to one of the disks, at most.
const WRITES_MAX: u64 = 300;
/// Layers of each disk that are looked at after each kill; all of them at the end.
const LAYERS_CHECKED: usize = 2;

/// Compares every disk with what may be there, through the daemon itself.
fn recover(storm: &Storm, round: u64) {
    for (number, disk) in storm.disks.iter().enumerate() {
        let mut client = Client::connect(&storm.dir.join("nbd.sock"), &format!("d{number}")).unwrap();
        disk.load.recover(
            &mut client,
            disk.safe(),
            &format!("seed {}, round {round}, disk {number}", storm.seed),
        );
    }
}

/// One monitor, until the daemon is killed.
fn command(storm: &Storm, monitor: Monitor, number: u64) {
    let _alarm = Alarm(storm);
    let mut author = Author::new(storm, monitor, number);
    let work = AssertUnwindSafe(|| {
        while !storm.is_killed.load(Ordering::SeqCst) {
            author.turn();
        }
    });
    if let Err(panic) = catch_unwind(work)
        && !storm.is_killed.load(Ordering::SeqCst)
    {
        std::panic::resume_unwind(panic);
    }
}

fn play_and_kill(storm: &Storm, daemon: &mut Daemon, round: u64) {
    let mut rng = Rng::new(storm.seed * 31 + round);
    let monitors = [daemon.connect(false), daemon.connect(true)];
    under_load(storm, round, || {
        thread::scope(|scope| {
            for (number, monitor) in (1..).zip(monitors) {
                scope.spawn(move || command(storm, monitor, round * 2 + number));
            }
            storm.disks[rng.index(DISKS)].load.progress(rng.below(WRITES_MAX));
            storm.is_killed.store(true, Ordering::SeqCst);
            daemon.kill();
        });
    });
    storm.is_killed.store(false, Ordering::SeqCst);
}

#[test]
fn kills_lose_nothing_that_was_safe() {
    let (length, seed) = settings();
    let until = Instant::now() + setting("DRYSTONE_SOAK_SECS").map_or(Duration::ZERO, |_| length);
    let scratch = Scratch::in_memory("killed");
    let storm = Storm::new(scratch.path(), seed, true);
    let _alarm = Alarm(&storm);
    let mut round = 0;
    let mut daemon = storm.start();
    while round < ROUNDS_MIN || Instant::now() < until {
        recover(&storm, round);
        play_and_kill(&storm, &mut daemon, round);
        for disk in &storm.disks {
            disk.settle_top(&storm.dir);
            disk.demand_consistent(&storm.dir, LAYERS_CHECKED);
        }
        round += 1;
        daemon = storm.start();
    }
    recover(&storm, round);
    let monitor = daemon.connect(false);
    finish(&storm, &mut daemon, monitor);
    storm.examine();
    publish("killed", &format!("{round} kills.\n\n{}", storm.report()));
}
