//! Images of the C tool under our driver, and back: the same bytes in the disk and in its snapshots, clean for both sides.

use std::path::Path;

use drystone_base::rng::Rng;
use drystone_base::{GuestOffset, GuestRange};
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{DiskOptions, Image, SimDisk, Timing};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use crate::chain::{Chain, SMALL, demand_consistent};
use crate::check::{MATRIX, make, make_with_bitmaps};
use crate::tools::{Scratch, io, run, run_ok};

/// Length of the disks.
const LEN: u64 = 8 << 20;
/// Changes to each disk.
const CHANGES: u64 = 40;

fn disk(path: &Path) -> SimDisk {
    let image = Image::from_bytes(&std::fs::read(path).unwrap());
    SimDisk::new(image, DiskOptions { timing: Timing::Instant, ..DiskOptions::seeded(0) })
}

/// What the C tool sees: the disk, or the snapshot of that name.
fn theirs(scratch: &Scratch, image: &Path, snapshot: Option<&str>) -> Vec<u8> {
    let raw = scratch.path("raw");
    let from = snapshot.map(|name| format!("-l snapshot.name={name} ")).unwrap_or_default();
    let image = image.display();
    run_ok("qemu-img", &format!("convert -f qcow2 -O raw {from}{image}"), &raw);
    std::fs::read(raw).unwrap()
}

/// What our driver reads.
fn ours(image: &Path) -> Vec<u8> {
    let sim = Sim::seeded(0);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open_to_read(&graph, &disk(image), SMALL).unwrap();
    let read = async {
        let mut client = BackendClient::new(&chain.backend, &sim.io(1));
        let mut bytes = Vec::new();
        for at in (0..LEN).step_by(1 << 18) {
            bytes.extend(client.read(GuestRange::new(GuestOffset::new(at), 1 << 18)).await.unwrap());
        }
        bytes
    };
    let bytes = sim.block_on(&sim.io(1), read).unwrap();
    chain.close(&graph).unwrap();
    bytes
}

/// Writes, zeroes, and discards what was zeroed before.
async fn change(client: &mut BackendClient, expected: &mut [u8], rng: &mut Rng) {
    let near = [0, 64 << 10, 300 << 10, 512 << 10, 700 << 10, 1 << 20, 2 << 20, 2112 << 10, 4 << 20, 7 << 20];
    let unit = [1, 512][rng.index(2)];
    let at = (near[rng.index(near.len())] + rng.below(80 << 10)) / unit * unit;
    let range = GuestRange::new(GuestOffset::new(at), (1 + rng.below(100 << 10)).min(LEN - at));
    let place = usize::try_from(at).unwrap()..usize::try_from(range.end().get()).unwrap();
    match rng.below(5) {
        0 => {
            client.write_zeroes(range, rng.one_in(2)).await.unwrap();
            client.discard(range).await.unwrap();
            expected[place].fill(0);
        }
        1 => client.flush().await.unwrap(),
        _ => {
            rng.fill(&mut expected[place.clone()]);
            client.write(at, &expected[place], false).await.unwrap();
        }
    }
}

/// Uses the image by our driver; `expected` is what it holds afterwards.
fn use_it(image: &Path, expected: &mut [u8], options: Qcow2Options, seed: u64) {
    let sim = Sim::seeded(seed);
    let disk = disk(image);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&graph, std::slice::from_ref(&disk), options).unwrap();
    let work = async {
        let mut client = BackendClient::new(&chain.backend, &sim.io(1));
        let mut rng = sim.rng();
        for _ in 0..CHANGES {
            change(&mut client, expected, &mut rng).await;
        }
    };
    sim.block_on(&sim.io(1), work).unwrap();
    chain.close(&graph).unwrap();
    demand_consistent(&disk.image());
    std::fs::write(image, disk.image().to_vec()).unwrap();
}

#[test]
fn oracle_their_images_are_read_and_written() {
    let scratch = Scratch::new("driver");
    let path = scratch.path("image");
    for (seed, options) in (0..).zip(MATRIX) {
        make(&path, options, "8M");
        let mut expected = theirs(&scratch, &path, None);
        assert!(ours(&path) == expected, "{options}");
        let list = run_ok("qemu-img", "snapshot -l", &path);
        let names: Vec<&str> = ["one", "two"].into_iter().filter(|name| list.contains(name)).collect();
        let held: Vec<_> = names.iter().map(|name| theirs(&scratch, &path, Some(name))).collect();
        use_it(&path, &mut expected, SMALL, seed);
        assert!(ours(&path) == expected, "{options}");
        assert!(theirs(&scratch, &path, None) == expected, "{options}");
        let check = run("qemu-img", "check -f qcow2", &path);
        assert!(check.status.success(), "{options}: {}", String::from_utf8_lossy(&check.stdout));
        for (name, held) in names.iter().zip(held) {
            assert!(theirs(&scratch, &path, Some(name)) == held, "{options}: snapshot {name}");
        }
    }
}

#[test]
fn oracle_bitmaps_of_images_that_are_used_here_are_good_there() {
    let scratch = Scratch::new("bitmaps");
    let path = scratch.path("image");
    make_with_bitmaps(&path, "cluster_size=4k", "8M");
    let listed = run_ok("qemu-img", "info -f qcow2", &path);
    let mut expected = theirs(&scratch, &path, None);
    assert!(ours(&path) == expected);
    use_it(&path, &mut expected, SMALL, 1);
    assert!(theirs(&scratch, &path, None) == expected);
    let info = run_ok("qemu-img", "info -f qcow2", &path);
    let bitmaps =
        |info: &str| info[info.find("bitmaps:").unwrap()..info.find("refcount bits").unwrap()].to_owned();
    assert_eq!(bitmaps(&info), bitmaps(&listed));
    let check = run("qemu-img", "check -f qcow2", &path);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

/// Data in a file of its own, as the C tool leaves it and finds it again.
#[test]
fn oracle_their_data_files_are_read_and_written() {
    let scratch = Scratch::new("data");
    let [path, data] = ["image", "data"].map(|name| scratch.path(name));
    for (seed, options) in (0..).zip([
        "cluster_size=4k",
        "cluster_size=4k,data_file_raw=on",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=64k,data_file_raw=on,extended_l2=on",
    ]) {
        run_ok(
            "qemu-img",
            &format!("create -q -f qcow2 -o size=8M,{options},data_file={}", data.display()),
            &path,
        );
        io(&path, &["write -P 1 0 40k", "write -P 3 1M 70k", "write -P 6 300k 4k", "write -z 512k 64k"]);
        io(&path, &["write -P 7 700k 128k", "write -z 700k 64k", "discard 720k 64k", "write -P 8 701k 1k"]);
        let mut expected = theirs(&scratch, &path, None);
        let disks = [disk(&data), disk(&path)];
        let sim = Sim::seeded(seed);
        let graph = SimGraph::start(&sim);
        let chain = Chain::open(&graph, &disks, SMALL).unwrap();
        let work = async {
            let mut client = BackendClient::new(&chain.backend, &sim.io(1));
            let whole = GuestRange::new(GuestOffset::ZERO, LEN);
            assert!(client.read(whole).await.unwrap() == expected, "{options}");
            let mut rng = sim.rng();
            for _ in 0..CHANGES {
                change(&mut client, &mut expected, &mut rng).await;
            }
        };
        sim.block_on(&sim.io(1), work).unwrap();
        chain.close(&graph).unwrap();
        demand_consistent(&disks[1].image());
        std::fs::write(&path, disks[1].image().to_vec()).unwrap();
        std::fs::write(&data, disks[0].image().to_vec()).unwrap();
        assert!(theirs(&scratch, &path, None) == expected, "{options}");
        if options.contains("raw") {
            assert!(std::fs::read(&data).unwrap() == expected, "{options}: the raw file says otherwise");
        }
        run_ok("qemu-img", "check -f qcow2", &path);
    }
}
