//! Overlays with subclusters, used by both sides in the same way: the same bytes, and the same subclusters allocated. So
//! copy-on-write copies as little here as there.

use std::path::Path;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk, Timing};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use crate::chain::{Chain, SMALL, demand_clean};
use crate::tools::{Scratch, io, run_ok};

/// Length of the disks.
const LEN: u64 = 1 << 20;
/// Changes to each disk.
const CHANGES: u64 = 40;

/// A request that both sides do in the same way.
#[derive(Clone, Copy)]
enum Change {
    Write(GuestRange, u8),
    Zero(GuestRange),
}

fn drawn(rng: &mut Rng, subcluster_bytes: u64) -> Change {
    let unit = [512, subcluster_bytes][rng.index(2)];
    let at = rng.below(LEN / unit) * unit;
    let longest = if rng.one_in(4) { 100 << 10 } else { 3 * subcluster_bytes };
    let len = (1 + rng.below(longest)).next_multiple_of(unit).min(LEN - at);
    let range = GuestRange::new(GuestOffset::new(at), len);
    // The C tool fills the ends of a range of zeroes in units of its own: whole subclusters only.
    if unit == subcluster_bytes && rng.one_in(3) {
        return Change::Zero(range);
    }
    Change::Write(range, u8::try_from(1 + rng.below(250)).unwrap())
}

fn in_words(change: Change) -> String {
    match change {
        Change::Write(range, byte) => format!("write -P {byte} {} {}", range.start().get(), range.len()),
        Change::Zero(range) => format!("write -z {} {}", range.start().get(), range.len()),
    }
}

fn disk(path: &Path) -> SimDisk {
    let image = Image::from_bytes(&std::fs::read(path).unwrap());
    SimDisk::new(image, DiskOptions { timing: Timing::Instant, ..DiskOptions::seeded(0) })
}

/// Does the same here.
fn use_here(base: &Path, overlay: &Path, changes: &[Change]) {
    let sim = Sim::seeded(0);
    let graph = SimGraph::start(&sim);
    let disks = [disk(base), disk(overlay)];
    let chain = Chain::open(&graph, &disks, SMALL).unwrap();
    let work = async {
        let mut client = BackendClient::new(&chain.backend, &sim.io(1));
        for change in changes {
            match *change {
                Change::Write(range, byte) => {
                    let bytes = vec![byte; usize::try_from(range.len()).unwrap()];
                    client.write(range.start().get(), &bytes, false).await.unwrap();
                }
                Change::Zero(range) => client.write_zeroes(range, false).await.unwrap(),
            }
        }
    };
    sim.block_on(&sim.io(1), work).unwrap();
    chain.close(&graph).unwrap();
    demand_clean(&disks[1].image());
    std::fs::write(overlay, disks[1].image().to_vec()).unwrap();
}

/// What the C tool says is where, less offsets in files.
fn map(path: &Path) -> Vec<String> {
    let map = run_ok("qemu-img", "map --output=json", path);
    map.lines()
        .map(|line| line.split(", \"offset\"").next().unwrap().trim_end_matches("},").to_owned())
        .collect()
}

fn raw(scratch: &Scratch, path: &Path) -> Vec<u8> {
    let raw = scratch.path("raw");
    run_ok("qemu-img", &format!("convert -O raw {}", path.display()), &raw);
    std::fs::read(raw).unwrap()
}

fn compare(scratch: &Scratch, cluster_bytes: u64, snapshot: bool, seed: u64) {
    let [base, there, here] = ["base", "there", "here"].map(|name| scratch.path(name));
    let mut rng = Rng::new(seed);
    let mut draw = || -> Vec<Change> { (0..CHANGES).map(|_| drawn(&mut rng, cluster_bytes / 32)).collect() };
    run_ok("qemu-img", &format!("create -q -f qcow2 -o cluster_size=4k,size={LEN}"), &base);
    io(
        &base,
        &draw()
            .iter()
            .map(|change| in_words(*change))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
    let options = format!("cluster_size={cluster_bytes},extended_l2=on");
    run_ok("qemu-img", &format!("create -q -f qcow2 -o {options} -F qcow2 -b {}", base.display()), &there);
    if snapshot {
        io(&there, &["write -P 1 3k 20k", "write -c -P 2 64k 64k", "write -P 3 300k 1k"]);
        run_ok("qemu-img", "snapshot -c one", &there);
    }
    std::fs::copy(&there, &here).unwrap();
    let changes = draw();
    use_here(&base, &here, &changes);
    let words: Vec<String> = changes.iter().map(|change| in_words(*change)).collect();
    io(&there, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let about = format!("{options}, seed {seed}: {words:#?}");
    assert!(raw(scratch, &here) == raw(scratch, &there), "{about}");
    // Out of a cluster that a snapshot shares, the C tool takes along what lies between a write and the cluster's data.
    assert!(snapshot || map(&here) == map(&there), "{about}");
    run_ok("qemu-img", "check", &here);
}

#[test]
fn oracle_the_same_subclusters_are_allocated() {
    let scratch = Scratch::new("subclusters");
    for seed in 0..6 {
        for cluster_bytes in [16 << 10, 64 << 10] {
            compare(&scratch, cluster_bytes, false, seed);
        }
        compare(&scratch, 64 << 10, true, seed);
    }
}
