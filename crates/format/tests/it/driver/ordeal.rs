//! Damaged images under the driver: opened, read, written, closed. Not here: which damage (`damage`).
//!
//! Whatever the image says, each request ends with data or an error, soon; and
//! * data of the guest is nowhere in the header or in a table that is active at the end,
//! * once damage was found by a request, nothing is written but the mark of it, and that mark is there (version 3).

use std::time::Duration;

use drystone_base::{GuestOffset, GuestRange, Kind, Result};
use drystone_format::qcow2::Header;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_format::qcow2::entry::parse_l1;
use drystone_format::qcow2::feature::IncompatibleBit;
use drystone_format::qcow2::header::Version;
use drystone_format::qcow2::refcount::parse_table_entry;
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{Image, OpKind, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, SMALL};
use super::state::instant_disk;

/// The longest that opening, using and closing an image may take.
const TIME_MAX: Duration = Duration::from_secs(1);
/// The most memory that a process of these tests may have used.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// So many tables are looked into afterwards.
const TABLES_MAX: usize = 300;
/// What the guest writes. No image has a word of these bytes before.
const DATA: u8 = 0xd7;

/// What became of images.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Outcomes {
    pub(crate) images: u64,
    pub(crate) not_opened: u64,
    pub(crate) not_writable: u64,
    pub(crate) damage_found: u64,
    pub(crate) failed_requests: u64,
}

/// Says which image it was if a test panics.
struct Name<'n>(&'n str);

impl Drop for Name<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the image: {}", self.0);
        }
    }
}

/// Opens the image to read and to write, and uses it.
pub(crate) fn endure(image: &Image, name: &str, outcomes: &mut Outcomes) {
    let _name = Name(name);
    outcomes.images += 1;
    let start = busy_time();
    read_only(image, outcomes);
    writable(image, outcomes);
    let took = busy_time().saturating_sub(start);
    assert!(took < TIME_MAX, "it took {took:?}");
}

/// How long this thread has run, also on a machine that is busy with something else.
fn busy_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// The most memory that this process has used.
pub(crate) fn demand_little_memory() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    println!("{} MiB", kib >> 10);
    assert!(kib << 10 < MEMORY_BYTES_MAX, "{kib} KiB");
}

/// Where the images of these tests have something, and the ends of the disk.
fn places(len: u64) -> Vec<GuestRange> {
    let starts =
        [0, 98 << 10, 1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20, 7 << 20, len.saturating_sub(8192)];
    let inside = starts.into_iter().filter(|start| *start < len);
    inside.map(|start| GuestRange::new(GuestOffset::new(start), (len - start).min(12 << 10))).collect()
}

fn read_only(image: &Image, outcomes: &mut Outcomes) {
    let sim = Sim::seeded(0);
    let disk = instant_disk(image);
    let graph = SimGraph::start(&sim);
    let options = Qcow2Options { read_only: true, ..SMALL };
    let Ok(chain) = Chain::open_to_read(&graph, &disk, options) else {
        outcomes.not_opened += 1;
        return;
    };
    let reader = chain.backend.clone();
    let failed = sim.block_on(&sim.io(1), async {
        let mut client = BackendClient::new(&reader, &sim.io(1));
        let mut failed = 0;
        for place in places(len_of(&disk)) {
            failed += u64::from(client.read(place).await.is_err());
        }
        failed
    });
    outcomes.failed_requests += failed.unwrap();
    drop(reader);
    let _ = chain.close(&graph);
    assert!(disk.trace().iter().all(|op| op.kind == OpKind::Read || op.kind == OpKind::Flush));
}

fn len_of(disk: &SimDisk) -> u64 {
    header(&disk.image()).map_or(0, |header| header.len_guest())
}

fn header(image: &Image) -> Option<Header> {
    let area = Header::area_len_bytes(&image.bytes(0..512)).ok()?;
    Header::parse(&image.bytes(0..area as u64)).ok()
}

/// Writes to everything, until the image is found damaged and once more then.
async fn use_all(client: &mut BackendClient, len: u64) -> (Vec<Result<()>>, bool) {
    let mut results = Vec::new();
    let data = vec![DATA; 6000];
    for (n, place) in places(len).into_iter().enumerate() {
        let start = place.start().get();
        let end = place.end().get();
        let at = start + 512.min(place.len() / 2);
        let count = usize::try_from((end - at).min([512, 6000, 3000][n % 3])).unwrap();
        results.push(client.write(at, &data[..count], n % 4 == 0).await);
        let upper = place.skip(place.len() / 2).take(4096 * (1 + n as u64 % 2));
        results.push(match n % 3 {
            0 => client.write_zeroes(upper, false).await,
            1 => client.write_zeroes(upper, true).await,
            _ => client.discard(upper).await,
        });
        results.push(client.read(place).await.map(drop));
    }
    results.push(client.flush().await);
    results.push(client.resize(len.next_multiple_of(512).saturating_add(1 << 20)).await);
    for place in places(len) {
        let count = usize::try_from(place.len().min(4000)).unwrap();
        results.push(client.write(place.start().get(), &data[..count], false).await);
    }
    results.push(client.flush().await);
    let is_damaged = |result: &Result<()>| result.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt);
    let found = results.iter().any(is_damaged);
    (results, found)
}

fn writable(image: &Image, outcomes: &mut Outcomes) {
    let sim = Sim::seeded(0);
    let disk = instant_disk(image);
    let graph = SimGraph::start(&sim);
    let options = SMALL;
    let Ok(chain) = Chain::open(&graph, std::slice::from_ref(&disk), options) else {
        outcomes.not_writable += 1;
        return;
    };
    let len = len_of(&disk);
    let user = chain.backend.clone();
    let (results, found) = sim
        .block_on(&sim.io(1), async {
            let mut client = BackendClient::new(&user, &sim.io(1));
            use_all(&mut client, len).await
        })
        .unwrap();
    outcomes.failed_requests += results.iter().filter(|result| result.is_err()).count() as u64;
    outcomes.damage_found += u64::from(found);
    if found {
        demand_nothing_written(&sim, &disk, &user);
    }
    drop(user);
    let _ = chain.close(&graph);
    demand_tables_without_data(image, &disk.image());
}

/// Nothing is written any more, and the image says that it is damaged.
fn demand_nothing_written(
    sim: &Sim,
    disk: &SimDisk,
    user: &drystone_core::backend::Backend<drystone_core::backend::ReadWrite>,
) {
    let before = disk.image();
    let header = header(&before).unwrap();
    let is_marked = header.incompatible().has(IncompatibleBit::Corrupt);
    assert!(is_marked || header.version() == Version::V2, "the image is damaged and does not say so");
    let len = header.len_guest();
    let refused = sim.block_on(&sim.io(1), async {
        let mut client = BackendClient::new(user, &sim.io(1));
        let mut results = vec![client.resize(len.saturating_add(1 << 20)).await];
        for place in places(len) {
            let bytes = vec![DATA; usize::try_from(place.len()).unwrap()];
            results.push(client.write(place.start().get(), &bytes, false).await);
            let _ = client.write_zeroes(place, true).await;
            let _ = client.discard(place).await;
        }
        let _ = client.flush().await;
        results
    });
    assert!(refused.unwrap().iter().all(Result::is_err), "a damaged image was written");
    assert!(disk.image() == before, "a damaged image was changed");
}

/// No word of the guest's data is in the header or in a table that is in use.
fn demand_tables_without_data(before: &Image, after: &Image) {
    let Some(now) = header(after) else { panic!("the header is gone") };
    let was = header(before).unwrap();
    let cluster = now.cluster();
    let word = |at: u64| u64::from_be_bytes(after.bytes(at..at + 8).try_into().unwrap());
    let mut tables = vec![(0, cluster.bytes())];
    let l1 = (now.l1().at.get(), u64::from(now.l1().entries) * 8);
    let refcounts = (now.refcounts().at.get(), u64::from(now.refcounts().clusters) * cluster.bytes());
    let inside = |(at, len): (u64, u64)| (at, len.min(after.len().saturating_sub(at)));
    let (l1, refcounts) = (inside(l1), inside(refcounts));
    tables.extend([l1, refcounts]);
    for at in (l1.0..l1.0 + l1.1 / 8 * 8).step_by(8) {
        if let Ok(Some(table)) = parse_l1(word(at), cluster) {
            tables.push((table.at.get(), cluster.bytes()));
        }
    }
    for at in (refcounts.0..refcounts.0 + refcounts.1).step_by(8) {
        if let Ok(Some(block)) = parse_table_entry(word(at), cluster) {
            tables.push((block.get(), cluster.bytes()));
        }
    }
    if was.snapshots().count > 0 && was.snapshots().at.get() < before.len() {
        tables.push((was.snapshots().at.get(), 40));
    }
    tables.sort_unstable();
    tables.dedup();
    for (at, len) in tables.into_iter().map(inside).filter(|(_, len)| *len > 0).take(TABLES_MAX) {
        let bytes = after.bytes(at..at + len);
        let found = bytes.as_chunks::<8>().0.iter().position(|word| *word == [DATA; 8]);
        assert_eq!(found, None, "data of the guest is in the table at {at}");
    }
}
