//! Whole copies while every operation of a device fails once: a copy that says it is done is the disk that was copied, sector
//! by sector but those that it said it could not read; and it ends, with an image that is whole.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use drystone_base::rng::Rng;
use drystone_base::{Error, Result};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::permission::Grant;
use drystone_core::lane::Lane;
use drystone_job::copy::Copy;
use drystone_job::copy::spec::{CopySource, CopySpec, Order, Own, Watch, Zeroes};
use drystone_testkit::client::{BackendClient, Target};
use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, OpKind, SimDisk};
use drystone_testkit::sim::Sim;

use crate::chain::{Chain, Images, demand_consistent};
use crate::world::World;

/// More than one piece of work.
const LEN: u64 = (1 << 20) + (96 << 10);
const WORKERS: u16 = 3;
const SECTOR_BYTES: usize = 512;

/// What could not be read.
#[derive(Default)]
struct Unreadable(Mutex<Vec<u64>>);

impl Watch for Unreadable {
    fn advanced(&self, done: u64, all: u64) {
        assert!(done <= all, "{done} of {all} bytes");
    }

    fn unreadable(&self, offset: u64, _error: &Error) {
        self.0.lock().unwrap().push(offset);
    }
}

/// A way of copying.
#[derive(Clone, Copy)]
struct Way {
    compressed: bool,
    order: Order,
    salvages: bool,
    /// Disks copy from one another where they can.
    offloads: bool,
    /// Only the source's top layer, to a target that lies on the same base.
    own_layer: bool,
    /// Workers are told to end after so many operations.
    stop: Option<u64>,
}

/// A source of two layers and a target, of two as well if it lies on something.
struct Case {
    way: Way,
    source: Images,
    target: Images,
    shows: Vec<u8>,
}

impl Case {
    fn new(way: Way, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let source = Images::drawn(&[LEN, LEN], &mut rng);
        let target = match way {
            Way { own_layer: true, .. } => Images::on(&source, LEN),
            // What has its place already can be copied there by whoever has it.
            Way { offloads: true, .. } => {
                Images { list: Images::full(LEN).list[..1].to_vec(), ..Images::full(LEN) }
            }
            _ => Images::empty(LEN),
        };
        let shows = source.contents();
        Self { way, source, target, shows }
    }

    fn disks(&self, seed: u64) -> (Vec<SimDisk>, Vec<SimDisk>) {
        let mut rng = Rng::new(seed);
        (self.source.disks(&mut rng), self.target.disks(&mut rng))
    }

    /// Copies; which sectors could not be read. How many operations there were is seen at the disks.
    fn copy(&self, source: &[SimDisk], target: &[SimDisk]) -> Result<Vec<u64>> {
        let sim = Sim::seeded(9);
        let (world, other) = (World::new(&sim), World::new(&sim));
        let from = Chain::open(&world, source, Grant::WRITER)?;
        let opened = Chain::open(&other, target, Grant::WRITER);
        let to = match opened {
            Ok(to) => to,
            Err(error) => return from.close(&world).and(Err(error)),
        };
        let watch = Arc::new(Unreadable::default());
        let way = self.way;
        let spec = CopySpec {
            sources: vec![CopySource { backend: from.guest.reader(), start: 0, len_bytes: LEN }],
            target: to.guest.clone(),
            unit_bytes: 4096,
            block_bytes: 4096,
            zeroes: Zeroes::Found { bytes_min: 4096 },
            zero_from: if way.own_layer || way.offloads { u64::MAX } else { 0 },
            own: Own { until: if way.own_layer { LEN } else { 0 }, layers_below: 0, is_cut: false },
            flags: WriteFlags { compressed: way.compressed, ..WriteFlags::default() },
            offloads: way.offloads,
            order: way.order,
            bytes_per_second: 0,
            salvages: way.salvages,
        };
        let copy = Rc::new(Copy::new(spec, Arc::<Unreadable>::clone(&watch) as Arc<dyn Watch>));
        let at_work = Rc::new(Cell::new(WORKERS));
        for worker in 0..WORKERS {
            let local = sim.io(1 + worker % sim.io_threads());
            let (copy, left) = (Rc::clone(&copy), Rc::clone(&at_work));
            sim.spawn(&local.clone(), format!("worker {worker}"), async move {
                copy.work(&mut Lane::new(local)).await;
                left.set(left.get() - 1);
            });
        }
        let ops = || target.iter().chain(source).map(|disk| disk.power().ops_begun()).sum::<u64>();
        sim.run_until(|| {
            if way.stop.is_some_and(|stop| ops() >= stop) {
                copy.stop();
            }
            at_work.get() == 0
        })
        .unwrap();
        let copied = copy.result();
        drop(copy);
        let flushed = {
            let mut client = BackendClient::new(&to.guest, &sim.io(1));
            sim.block_on(&sim.io(1), client.flush()).unwrap()
        };
        let closed = to.close(&other);
        from.close(&world)?;
        copied.and(flushed).and(closed)?;
        let unreadable = watch.0.lock().unwrap().clone();
        Ok(unreadable)
    }

    /// The target shows what the source did; sectors that could not be read are zeroes.
    fn check(&self, target: &[SimDisk], unreadable: &[u64]) {
        let found =
            Images { list: target.iter().map(SimDisk::image).collect(), ..self.target.clone() }.contents();
        for (n, (found, wanted)) in
            found.chunks(SECTOR_BYTES).zip(self.shows.chunks(SECTOR_BYTES)).enumerate()
        {
            let at = (n * SECTOR_BYTES) as u64;
            let is_lost = unreadable.contains(&at) && found.iter().all(|byte| *byte == 0);
            assert!(is_lost || found == wanted, "wrong bytes at {at}");
        }
    }

    /// Lets every read of the source, or write to the target, fail; how many copies were done all the same.
    fn sweep(&self, kind: OpKind, times: u64) -> u64 {
        let mut done = 0;
        for op in 0.. {
            let (source, target) = self.disks(op);
            let disks = if kind == OpKind::Read { &source } else { &target };
            for disk in disks {
                disk.inject(Fault::nth(op, OpFilter::of(kind), FaultEffect::Io).times(times));
            }
            let result = self.copy(&source, &target);
            let hits: u64 = disks.iter().map(SimDisk::faults_hit).sum();
            disks.iter().for_each(SimDisk::clear_faults);
            match &result {
                Ok(unreadable) => {
                    assert!(unreadable.is_empty() || self.way.salvages);
                    self.check(&target, unreadable);
                    done += 1;
                }
                Err(error) => assert!(hits > 0, "operation {op}: {}", error.report()),
            }
            target.iter().for_each(|disk| demand_consistent(&disk.image()));
            if hits == 0 {
                assert!(result.is_ok());
                break;
            }
        }
        done
    }
}

/// Each way, with several sources.
fn ways() -> impl Iterator<Item = (Way, u64)> {
    WAYS.into_iter().flat_map(|way| (0..2).map(move |seed| (way, seed)))
}

const PLAIN: Way = Way {
    compressed: false,
    order: Order::Free,
    salvages: false,
    offloads: false,
    own_layer: false,
    stop: None,
};

const WAYS: [Way; 6] = [
    PLAIN,
    Way { compressed: true, order: Order::Disk, ..PLAIN },
    Way { compressed: true, order: Order::Ready, ..PLAIN },
    Way { order: Order::Disk, own_layer: true, ..PLAIN },
    Way { offloads: true, ..PLAIN },
    Way { offloads: true, order: Order::Disk, own_layer: true, ..PLAIN },
];

#[test]
fn a_copy_whose_writes_fail_says_so() {
    for (way, seed) in ways() {
        let done = Case::new(way, seed).sweep(OpKind::Write, 1);
        assert!(done >= 1, "without a fault it is done");
    }
}

#[test]
fn a_copy_whose_reads_fail_says_so_or_salvages() {
    for (way, seed) in ways() {
        assert!(Case::new(way, seed).sweep(OpKind::Read, 1) >= 1);
        assert!(
            Case::new(Way { salvages: true, ..way }, seed).sweep(OpKind::Read, 2) > 1,
            "what can be read is copied"
        );
    }
}

#[test]
fn a_copy_that_is_stopped_ends() {
    for (way, seed) in ways() {
        for stop in [1, 7, 20, 45] {
            let case = Case::new(Way { stop: Some(stop), ..way }, seed);
            let (source, target) = case.disks(stop);
            case.copy(&source, &target).unwrap();
            target.iter().for_each(|disk| demand_consistent(&disk.image()));
        }
    }
}
