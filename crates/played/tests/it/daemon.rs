//! The daemon under every order of steps that a seed finds: monitors change the graph below an export while clients of NBD
//! write and read, stall and go, devices fail and the power goes. What a client reads is what the model says, whatever is
//! below.

use std::collections::BTreeSet;

use drystone_base::Result;
use drystone_played::daemon::{DaemonOptions, SimDaemon};
use drystone_played::image::new_image;
use drystone_played::play::{Report, STEPS_DEFAULT, run};
use drystone_testkit::disk::{DiskOptions, Fault, FaultEffect, OpFilter, OpKind, SimDisk};
use drystone_testkit::sim::Sim;
use serde_json::json;

fn play(seed: u64) -> Report {
    run(seed, STEPS_DEFAULT).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn clients_read_what_was_written_whatever_monitors_do_below_them() {
    let schedules: BTreeSet<u64> = (0..60).map(|seed| play(seed).schedule).collect();
    assert_eq!(schedules.len(), 60);
}

#[test]
fn equal_seeds_give_equal_conversations() {
    for seed in 5000..5006 {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}

/// The user that `block_resize` attaches had to stay when the image could not be stored: its node was in use for ever, and
/// `quit` failed. Found by seed 37.
#[test]
fn a_resize_of_a_disk_that_fails_leaves_nobody_behind() {
    let sim = Sim::seeded(1);
    let disk = SimDisk::new(new_image(64 << 10, None), DiskOptions::seeded(1));
    let disks = vec![("file".to_owned(), disk.clone())];
    let daemon = SimDaemon::start(&sim, DaemonOptions { disks, ..DaemonOptions::seeded(1) });
    let (access, local) = (daemon.access(), sim.io(1));
    let resizes = async {
        let mut monitor = access.monitor(0, &local).await?;
        let node = json!({ "driver": "qcow2", "node-name": "disk", "file": "file" });
        monitor.ok("blockdev-add", node).await?;
        disk.inject(Fault::every(OpFilter::of(OpKind::Flush), FaultEffect::Io));
        let resize = json!({ "node-name": "disk", "size": 128 << 10 });
        assert!(monitor.call("block_resize", resize).await?.is_err());
        disk.clear_faults();
        monitor.ok("blockdev-del", json!({ "node-name": "disk" })).await?;
        monitor.ok("quit", json!({})).await.map(drop)
    };
    let ended: Result<()> = sim.block_on(&local, resizes).unwrap();
    ended.unwrap();
    assert_eq!(daemon.finish(), 0);
}
