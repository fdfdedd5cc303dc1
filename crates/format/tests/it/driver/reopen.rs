//! Reopening: read-only and back, with other caches, of images that may not be written, that are damaged, that changed
//! on disk meanwhile.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::{Kind, Result};
use drystone_core::driver::Amendment;
use drystone_format::qcow2::driver::caches::CacheOptions;
use drystone_format::qcow2::driver::open::Qcow2Options;
use drystone_format::qcow2::feature::{CompatibleBit, IncompatibleBit};
use drystone_testkit::client::SharedModel;
use drystone_testkit::disk::{DiskClient, OpKind, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

use super::chain::{Chain, SMALL, demand_clean, header};
use super::script::run;
use super::state::{State, instant_disk, read_all};

/// Bytes of the header.
const INCOMPATIBLE: u64 = 79;
const AUTOCLEAR: u64 = 95;

/// An open image.
struct Open<'s> {
    sim: &'s Sim,
    graph: SimGraph<'s>,
    disk: SimDisk,
    chain: Chain,
    model: SharedModel,
}

impl<'s> Open<'s> {
    fn new(sim: &'s Sim, state: &State) -> Self {
        let disks: Vec<SimDisk> = state.images.iter().map(instant_disk).collect();
        let disk = disks.last().unwrap().clone();
        let graph = SimGraph::start(sim);
        let chain = Chain::open(&graph, &disks, state.options).unwrap();
        Self { sim, graph, disk, chain, model: Rc::new(RefCell::new(state.model.clone())) }
    }

    fn to_read(sim: &'s Sim, state: &State) -> Self {
        let disk = instant_disk(&state.images[0]);
        let graph = SimGraph::start(sim);
        let chain = Chain::open_to_read(&graph, &disk, state.options).unwrap();
        Self { sim, graph, disk, chain, model: Rc::new(RefCell::new(state.model.clone())) }
    }

    fn set_read_only(&self, read_only: bool) -> Result<()> {
        self.chain.set_read_only(&self.graph, read_only)
    }

    fn reopen(&self, options: Qcow2Options) {
        self.chain.reopen(&self.graph, options).unwrap();
    }

    fn run(&self, script: &str) -> Result<()> {
        run(self.sim, &self.chain, &self.model, script)
    }

    fn read_all(&self) {
        read_all(self.sim, &self.chain, &self.model).unwrap();
    }

    fn byte(&self, at: u64) -> u8 {
        self.disk.image().bytes(at..at + 1)[0]
    }

    /// Somebody else changes a byte of the file.
    fn put(&self, at: u64, byte: u8) {
        let client = DiskClient::new(self.disk.clone(), &self.sim.io(1));
        self.sim.block_on(&self.sim.io(1), client.write(at, &[byte])).unwrap().unwrap();
    }

    fn writes(&self) -> usize {
        self.disk.trace().iter().filter(|op| op.kind != OpKind::Read && op.kind != OpKind::Flush).count()
    }

    fn close_clean(self) {
        self.read_all();
        self.chain.close(&self.graph).unwrap();
        demand_clean(&self.disk.image());
    }
}

#[test]
fn read_only_and_back_keeps_everything() {
    let sim = Sim::seeded(1);
    let open = Open::new(&sim, &State::new("64K"));
    for round in 0..3 {
        open.run(&format!("write {}K..{}K; discard 0..4K; write 20K+700", round * 8, round * 8 + 6)).unwrap();
        open.set_read_only(true).unwrap();
        demand_clean(&open.disk.image());
        let writes = open.writes();
        open.read_all();
        assert_eq!(open.run("write 0..1K").unwrap_err().kind(), Kind::ReadOnly);
        assert_eq!(open.writes(), writes, "nothing is written while it is read-only");
        open.set_read_only(false).unwrap();
        assert_eq!(open.writes(), writes, "marks are made by the first write");
    }
    open.close_clean();
}

#[test]
fn a_reopening_with_other_caches_disturbs_nothing() {
    let sim = Sim::seeded(2);
    let open = Open::new(&sim, &State::new("c512 r64 256K"));
    for cache_bytes in [0, 1 << 20, 4096, 64 << 20, 0] {
        open.run("write 0..100K; unmap 30K..40K; write 200K..210K").unwrap();
        open.reopen(Qcow2Options { caches: CacheOptions::of_bytes(cache_bytes), ..SMALL });
        open.read_all();
    }
    open.close_clean();
}

#[test]
fn autoclear_features_go_with_the_first_write_only() {
    let sim = Sim::seeded(3);
    let open = Open::to_read(&sim, &State::new("64K").edit(|image| image.write(AUTOCLEAR, &[4])));
    open.set_read_only(false).unwrap();
    open.read_all();
    assert_eq!((open.byte(AUTOCLEAR), open.writes()), (4, 0));
    open.run("write 0..1K").unwrap();
    assert_eq!(open.byte(AUTOCLEAR), 0);
    open.close_clean();
}

#[test]
fn an_amendment_does_not_bring_autoclear_features_back() {
    let sim = Sim::seeded(3);
    let open = Open::new(&sim, &State::new("rawdata 64K").edit(|image| image.write(AUTOCLEAR, &[2 | 4])));
    let unraw = Amendment::DataFileRaw(false);
    open.chain.alone(&open.graph, async move |io| io.node().driver().amend(io, unraw).await).unwrap();
    assert_eq!(open.byte(AUTOCLEAR), 0);
    open.close_clean();
}

#[test]
fn an_image_that_is_marked_as_damaged_stays_read_only_until_it_is_repaired() {
    let sim = Sim::seeded(4);
    let state = State::new("64K").after("write 0..9K").edit(|image| image.write(INCOMPATIBLE, &[2]));
    let open = Open::to_read(&sim, &state);
    let refused = open.set_read_only(false).unwrap_err();
    assert_eq!(refused.kind(), Kind::ReadOnly, "{}", refused.report());
    open.read_all();
    assert_eq!((open.byte(INCOMPATIBLE), open.writes()), (2, 0));
    open.put(INCOMPATIBLE, 0);
    open.set_read_only(false).unwrap();
    open.run("write 8K..20K; flush").unwrap();
    assert!(!header(&open.disk.image()).incompatible().has(IncompatibleBit::Corrupt));
    open.close_clean();
}

/// Counts that were postponed when the power went off: too low, and of a cluster that nobody uses.
#[test]
fn the_counts_of_a_dirty_image_are_repaired_by_its_first_write() {
    let sim = Sim::seeded(4);
    let state = State::new("c4K 64K").after("write 0..20K").edit(|image| {
        image.write(INCOMPATIBLE, &[1]);
        image.write(2 * 4096 + 2 * 5, &[0; 6]);
        image.write(2 * 4096 + 2 * 30, &[0, 1]);
    });
    let open = Open::to_read(&sim, &state);
    open.read_all();
    open.set_read_only(false).unwrap();
    open.read_all();
    assert_eq!((open.byte(INCOMPATIBLE), open.writes()), (1, 0), "reading needs no counts");
    open.run("write 30K..50K; flush; write 2K..3K; flush").unwrap();
    assert_eq!(open.byte(INCOMPATIBLE), 0);
    open.read_all();
    open.close_clean();
}

#[test]
fn lazy_refcounts_are_permitted_and_not_used() {
    let sim = Sim::seeded(5);
    let open = Open::new(&sim, &State::new("64K").edit(|image| image.write(87, &[1])));
    assert!(header(&open.disk.image()).compatible().has(CompatibleBit::LazyRefcounts));
    open.run("write 0..20K; flush").unwrap();
    let image = open.disk.image();
    assert!(header(&image).compatible().has(CompatibleBit::LazyRefcounts));
    assert!(!header(&image).incompatible().has(IncompatibleBit::Dirty));
    demand_clean(&image);
    open.close_clean();
}

/// What could not be stored of a damaged image is not stored later, when somebody made it whole: version 2 has no mark
/// that keeps it from being opened.
#[test]
fn changes_of_a_damaged_image_are_forgotten() {
    let sim = Sim::seeded(6);
    let open = Open::new(&sim, &State::new("v2 64K").after("write 0..4K; write 40K..44K"));
    let image = open.disk.image();
    let l1 = header(&image).l1().at.get();
    let l2 = u64::from_be_bytes(image.bytes(l1..l1 + 8).try_into().unwrap()) & !(1 << 63);
    // The L2 entry at 40K is not aligned.
    let place = l2 + 10 * 8 + 6;
    let good = open.byte(place);
    open.put(place, good | 2);
    let client = |script: &str| {
        let free: SharedModel = Rc::new(RefCell::new(ByteModel::zeroed(64 << 10)));
        run(&sim, &open.chain, &free, script)
    };
    client("write 8K..12K").unwrap();
    assert_eq!(client("write 40K..41K").unwrap_err().kind(), Kind::Corrupt);
    let before = open.disk.image();
    open.set_read_only(true).unwrap();
    assert!(open.disk.image() == before);
    open.put(place, good);
    open.set_read_only(false).unwrap();
    client("write 12K..16K; flush").unwrap();
    open.chain.close(&open.graph).unwrap();
    demand_clean(&open.disk.image());
}
