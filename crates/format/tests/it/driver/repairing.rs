//! Repairs: of what power cuts leave, and cut themselves. Wherever one is cut, the image can be repaired again, and what it
//! held is there.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::{Error, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::disk::{Disk, DiskOp};
use drystone_core::runtime::LocalRef;
use drystone_format::qcow2::check::repair::{Repair, Repaired, Target, repair};
use drystone_format::qcow2::check::{CheckError, Source, check};
use drystone_format::qcow2::feature::IncompatibleBit;
use drystone_testkit::crash::{CrashPoints, Subject};
use drystone_testkit::disk::{Image, SimDisk};
use drystone_testkit::graph::SimGraph;
use drystone_testkit::sim::Sim;

use super::chain::{Bytes, Chain, SMALL, demand_clean, header};
use super::script::run;
use super::scripted::{Known, Scripted};
use super::state::{State, instant_disk, read_all};
use crate::common::block_on;

/// An image in memory, to be repaired.
struct Edited(RefCell<Image>);

impl Source for Edited {
    fn len_bytes(&self) -> u64 {
        self.0.borrow().len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.borrow().bytes(at.get()..at.get() + len_bytes as u64))
    }
}

impl Target for Edited {
    async fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> Result<()> {
        let mut image = self.0.borrow_mut();
        let end = at.get() + bytes.len() as u64;
        if image.len() < end {
            image.set_len(end);
        }
        image.write(at.get(), &bytes);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// The image after a repair of everything.
pub(crate) fn repaired(image: &Image) -> Image {
    let target = Edited(RefCell::new(image.clone()));
    block_on(repair(&target, &header(image), Repair::All, |_| {})).unwrap();
    target.0.into_inner()
}

/// A repair leaves nothing to find, and what it did is all that there was to do.
pub(crate) fn demand_repairable(image: &Image) {
    let image = repaired(image);
    let outcome = block_on(check(&Bytes(&image), &header(&image), |_| {})).unwrap();
    assert_eq!((outcome.corruptions, outcome.leaks, outcome.check_errors), (0, 0, 0));
    assert!(repaired(&image) == image, "a second repair finds something to do");
}

/// A simulated disk, to be repaired.
struct OnDisk {
    disk: SimDisk,
    local: LocalRef,
}

impl Source for OnDisk {
    fn len_bytes(&self) -> u64 {
        self.disk.len()
    }

    async fn read_at(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        let op = DiskOp::Read { at: at.get(), buf: Buf::zeroed(len_bytes) };
        let done = self.disk.submit(&self.local, op).await;
        done.result?;
        done.buf.map(|buf| buf.as_slice().to_vec()).ok_or_else(|| Error::new(Kind::Io, "no buffer"))
    }
}

impl Target for OnDisk {
    async fn write_at(&self, at: HostOffset, bytes: Vec<u8>) -> Result<()> {
        let op = DiskOp::Write { at: at.get(), buf: Buf::copy_of(&bytes), fua: false };
        self.disk.submit(&self.local, op).await.result
    }

    async fn flush(&self) -> Result<()> {
        self.disk.submit(&self.local, DiskOp::Flush).await.result
    }
}

/// A damaged image that a repair makes whole, with these contents.
struct Repairing {
    contents: Image,
}

impl Repairing {
    fn repair(&self, sim: &Sim, disks: &[SimDisk]) {
        let target = OnDisk { disk: disks[0].clone(), local: sim.io(1) };
        let header = header(&disks[0].image());
        let ended: Result<Repaired, CheckError> =
            sim.block_on(&sim.io(1), repair(&target, &header, Repair::All, |_| {})).unwrap();
        if let Err(error) = ended {
            assert!(disks[0].power().is_off(), "{error}");
        }
    }
}

impl Subject for Repairing {
    type Known = ();

    fn change(&self, sim: &Sim, disks: &[SimDisk]) {
        self.repair(sim, disks);
    }

    fn verify(&self, _sim: &Sim, disks: &[SimDisk], (): &()) {
        let image = disks[0].image();
        demand_repairable(&image);
        assert!(contents(&repaired(&image)) == self.contents, "the disk has changed");
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], (): ()) {
        self.repair(sim, disks);
    }
}

/// What a guest sees.
fn contents(image: &Image) -> Image {
    State::new("64K").with_top(|_| image.clone()).contents()
}

/// An image of 64 KiB with clusters of 4 KiB, a snapshot and something in it; where its tables are.
struct Places {
    table: u64,
    block: u64,
    l2: u64,
}

fn cut(name: &str, damage: impl FnOnce(&mut Image, &Places)) {
    let state = State::new("64K")
        .after("write 0..12K; press 20K..28K; zero 40K..44K")
        .snapshot()
        .after("write 0..4K");
    let whole = state.images[0].clone();
    let word = |at: u64| u64::from_be_bytes(whole.bytes(at..at + 8).try_into().unwrap()) & !(1 << 63);
    let header = header(&whole);
    let table = header.refcounts().at.get();
    let places = Places { table, block: word(table), l2: word(header.l1().at.get()) };
    let mut image = whole.clone();
    damage(&mut image, &places);
    CrashPoints::of(name, vec![image]).look_at(&Repairing { contents: contents(&whole) });
}

#[test]
fn leaks_and_wrong_flags_are_repaired() {
    cut("leaks and wrong flags are repaired", |image, places| {
        image.write(places.block + 2 * 60, &[0, 3]);
        image.write(places.block + 2 * 5 + 1, &[9]);
        let flags = image.bytes(places.l2..places.l2 + 1)[0];
        image.write(places.l2, &[flags ^ 0x80]);
    });
}

#[test]
fn counts_are_repaired_in_place_and_bits_cleared() {
    cut("counts are repaired in place and bits cleared", |image, places| {
        let counts = image.bytes(places.block..places.block + 64);
        for (slot, count) in (0_u64..).zip(counts.chunks(2)) {
            if count[1] > 1 {
                image.write(places.block + 2 * slot, &[0, 1]);
            }
        }
        image.write(79, &[3]);
    });
}

#[test]
fn refcounts_are_made_anew() {
    cut("refcounts are made anew", |image, places| {
        image.write(places.block, &[0; 32]);
        image.write(79, &[2]);
    });
}

#[test]
fn a_lost_refcount_block_is_made_anew() {
    cut("a lost refcount block is made anew", |image, places| image.write(places.table, &[0; 8]));
}

#[test]
fn a_refcount_block_on_a_table_is_made_anew() {
    cut("a refcount block on a table is made anew", |image, places| {
        image.write(places.table, &places.l2.to_be_bytes());
    });
}

#[test]
fn a_snapshot_table_is_written_anew() {
    cut("a snapshot table is written anew", |image, _| {
        let table = header(image).snapshots().at.get();
        // One byte of extra data is missing: the entry says 15 bytes, and its names begin there.
        let entry = image.bytes(table..table + 72);
        image.write(table + 39, &[15]);
        image.write(table + 55, &entry[56..72]);
    });
}

/// An image that says that its counts may be wrong, opened and written.
struct Unclosed<'s>(Scripted<'s>);

impl Subject for Unclosed<'_> {
    type Known = Known;

    fn change(&self, sim: &Sim, disks: &[SimDisk]) -> Known {
        self.0.change(sim, disks)
    }

    fn verify(&self, _sim: &Sim, disks: &[SimDisk], known: &Known) -> Known {
        let image = disks[0].image();
        demand_repairable(&image);
        let fixed = repaired(&image);
        let sim = Sim::seeded(0);
        let graph = SimGraph::start(&sim);
        let chain = Chain::open(&graph, &[instant_disk(&fixed)], SMALL).unwrap();
        let model = Rc::new(RefCell::new(known.model.clone()));
        read_all(&sim, &chain, &model).unwrap();
        chain.close(&graph).unwrap();
        let model = model.borrow().clone();
        known.with_model(model)
    }

    fn go_on(&self, sim: &Sim, disks: &[SimDisk], known: Known) -> Known {
        self.0.go_on(sim, disks, known)
    }
}

/// Without the counts of what was written since the last clean close, as lazy refcounts leave it.
fn unclosed(kind: &str) -> State {
    State::new(kind).after("write 0..12K; press 20K..28K; zero 40K..44K").edit(|image| {
        let table = header(image).refcounts().at.get();
        let word = |at: u64| u64::from_be_bytes(image.bytes(at..at + 8).try_into().unwrap());
        let block = word(table);
        // Of the clusters behind the tables that a new image has, none is counted.
        image.write(block + 2 * 4, &[0; 64]);
        image.write(79, &[1]);
    })
}

#[test]
fn an_unclosed_image_is_repaired_by_the_first_write() {
    let state = unclosed("64K");
    let disk = instant_disk(&state.images[0]);
    let sim = Sim::seeded(0);
    let graph = SimGraph::start(&sim);
    let chain = Chain::open(&graph, std::slice::from_ref(&disk), SMALL).unwrap();
    let model = Rc::new(RefCell::new(state.model));
    read_all(&sim, &chain, &model).unwrap();
    assert!(disk.image() == state.images[0], "reading changes nothing");
    run(&sim, &chain, &model, "write 1K..2K & read 0..64K & write 30K..31K & discard 8K..12K; read 0..64K")
        .unwrap();
    chain.close(&graph).unwrap();
    demand_clean(&disk.image());
    assert!(!header(&disk.image()).incompatible().has(IncompatibleBit::Dirty));
}

#[test]
fn an_unclosed_image_is_cut_while_it_is_repaired() {
    let state = unclosed("64K");
    let subject =
        Unclosed(Scripted { state: &state, script: "write 1K..2K; flush; write 30K..31K & discard 8K..12K" });
    CrashPoints::of("an unclosed image is repaired by the first write", state.images.clone())
        .look_at(&subject);
}
