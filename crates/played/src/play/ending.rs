//! The end of a run: what must be so when the daemon is gone or the power is, and what is in the images then.

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_core::runtime::LocalRef;
use drystone_nbd::{Command, CommandFlags};
use drystone_sys::played::WireOptions;
use drystone_testkit::disk::{DiskOptions, Image, Power, SimDisk, Timing};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;
use serde_json::json;

use super::{Disk, Run};
use crate::daemon::{Access, DaemonOptions, SimDaemon, address};
use crate::image::{demand_sound, recorded_backing};
use crate::nbd::{Entry, NbdClient};

/// So many of the things that could be found after a power cut are looked at.
const SURVIVORS: usize = 2;
/// Of what could be on a device, so many are neither all nor nothing nor all but one change.
const SURVIVORS_DRAWN: usize = 16;

/// What was left of a disk.
struct Left {
    images: Vec<(String, Image)>,
    /// The image on top.
    top: String,
    /// What it must show.
    model: ByteModel,
}

/// Waits for the daemon's end, unless the power has gone, and looks at what is left.
pub(super) fn end(sim: &Sim, daemon: SimDaemon<'_>, run: &Run, power: &Power) {
    let trace = daemon.trace().clone();
    let status = if power.is_off() { None } else { Some(daemon.finish()) };
    // It can also go while the daemon ends.
    let Some(status) = status.filter(|_| !power.is_off()) else {
        run.counts.event("power cuts", 1);
        let mut rng = Rng::new(sim.seed());
        // What requests do without power, in caches, is nobody's business.
        for _ in 0..SURVIVORS {
            let left = run.disks.iter().map(|disk| survivors(disk, &mut rng)).collect();
            reopen(sim.seed(), left, true);
        }
        return;
    };
    let is_troubled = run.story.is_troubled;
    let shown = trace.to_string();
    let has_stranger = trace.to_string().contains("far-1");
    assert!(status == 0 || is_troubled || has_stranger, "the exit status is {status}\n{shown}");
    assert!(!shown.contains("still in use at the end"), "not everything was taken down\n{shown}");
    run.counts.event("ends that were told to have failed", u64::from(status != 0));
    let left = |disk: &Disk| {
        let mut model = disk.model.borrow().clone();
        if status != 0 {
            // What no flush covered may be lost, as it was said.
            model.crash();
        }
        left_of(disk, model, |image| image.image())
    };
    reopen(sim.seed(), run.disks.iter().map(left).collect(), is_troubled);
}

fn left_of(disk: &Disk, model: ByteModel, mut found: impl FnMut(&SimDisk) -> Image) -> Left {
    let images = disk.images.iter().enumerate().map(|(index, image)| (disk.node(index), found(image)));
    Left { images: images.collect(), top: disk.node(disk.top.get()), model }
}

/// What could be on the devices after the power went off: one of many for each.
fn survivors(disk: &Disk, rng: &mut Rng) -> Left {
    let mut model = disk.model.borrow().clone();
    model.crash();
    left_of(disk, model, |image| {
        let state = image.crash_state();
        let (place, seed) = (rng.index(2 * state.change_count() + SURVIVORS_DRAWN), rng.next_u64());
        let limit = place.saturating_add(1).max(SURVIVORS_DRAWN);
        let survivor = state.survivors(limit, seed).take(place + 1).last();
        survivor.map_or_else(|| image.durable_image(), |survivor| survivor.image)
    })
}

/// Checks images, opens them in a new daemon as they say themselves, and compares what they show.
fn reopen(seed: u64, mut left: Vec<Left>, may_leak: bool) {
    for (name, image) in left.iter().flat_map(|left| &left.images) {
        demand_sound(name, image, may_leak);
    }
    let sim = Sim::seeded(seed);
    let disk = |(name, image): &(String, Image)| {
        let seeded = DiskOptions::seeded(seed);
        let options = DiskOptions { name: name.clone(), timing: Timing::Instant, ..seeded };
        (format!("{name}-file"), SimDisk::new(image.clone(), options))
    };
    let disks = left.iter().flat_map(|left| &left.images).map(disk).collect();
    let wires = WireOptions { again_one_in: 0, part_one_in: 0, ..WireOptions::seeded(seed) };
    let options = DaemonOptions { monitors: 1, disks, wires, ..DaemonOptions::seeded(seed) };
    let daemon = SimDaemon::start(&sim, options);
    let (access, local) = (daemon.access(), sim.io(1));
    match sim.block_on(&local, look(&access, &local, &mut left)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("images cannot be opened again: {}\n{}", error.report(), daemon.trace()),
        Err(stuck) => panic!("{stuck}\n{}", daemon.trace()),
    }
    assert_eq!(daemon.finish(), 0, "the exit status of the daemon that looks");
}

async fn look(access: &Access, local: &LocalRef, left: &mut [Left]) -> Result<()> {
    let mut monitor = access.monitor(0, local).await?;
    let at = json!({ "addr": { "type": "unix", "data": { "path": "nbd" } } });
    monitor.ok("nbd-server-start", at).await?;
    for disk in left {
        for (name, below) in chain(disk)? {
            let file = format!("{name}-file");
            let node = json!({ "driver": "qcow2", "node-name": name, "file": file, "backing": below });
            monitor.ok("blockdev-add", node).await?;
        }
        let export = json!({ "type": "nbd", "id": disk.top, "name": disk.top, "node-name": disk.top });
        monitor.ok("block-export-add", export).await?;
        let client = NbdClient::enter(&access.network, &address("nbd"), &Entry::to(&disk.top), local).await?;
        let whole = GuestRange::new(GuestOffset::ZERO, client.len_bytes());
        disk.model.found_len(whole.len());
        let read = client.request(Command::Read, whole, CommandFlags::NONE, &[]).await;
        let read = read.unwrap_or_else(|fault| panic!("'{}' cannot be read: {fault:?}", disk.top));
        if let Err(wrong) = disk.model.check(whole, &read.data) {
            panic!("'{}' after the end: {wrong}", disk.top);
        }
        let _ = client.leave().await;
    }
    monitor.ok("quit", json!({})).await.map(drop)
}

/// The images that the one on top needs, each with the one behind it, from the lowest one on.
fn chain(disk: &Left) -> Result<Vec<(String, Option<String>)>> {
    let mut chain = Vec::new();
    let mut next = Some(disk.top.clone());
    while let Some(name) = next {
        let image = disk.images.iter().find(|(own, _)| *own == name);
        let Some((_, image)) = image else { panic!("'{name}' is behind an image and nowhere else") };
        next = recorded_backing(image)?;
        chain.push((name, next.clone()));
    }
    chain.reverse();
    Ok(chain)
}
