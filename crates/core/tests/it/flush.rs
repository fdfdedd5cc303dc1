//! Flushes: what they reach, when they are left out, and what is there after a power cut.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use drystone_base::GuestOffset;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::lane::Lane;
use drystone_testkit::disk::{Fault, FaultEffect, OpFilter, OpKind, SimDisk};

use crate::fixture::{LEN, node, overlay};
use crate::scripted::{Script, Scripted};
use crate::world::{World, at, attach_writer, fill, filled, insert};

fn disk_with_writer(world: &World, disk: &SimDisk) -> Backend<ReadWrite> {
    let device = disk.clone();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let driver = Scripted::device("disk", &Script::default(), device);
        let id = opening.add(node("disk", driver, LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        attach_writer(task, id, "client").await.unwrap()
    })
}

fn flushes(disk: &SimDisk) -> usize {
    disk.trace().iter().filter(|op| op.kind == OpKind::Flush).count()
}

#[test]
fn a_flush_with_nothing_to_do_does_nothing() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let backend = disk_with_writer(&world, &disk);
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        ticket.flush().await.unwrap();
        assert_eq!(flushes(&disk), 1, "what was there before may not be durable");
        ticket.flush().await.unwrap();
        assert_eq!(flushes(&disk), 1);
        ticket.write(GuestOffset::ZERO, filled(512, 1), WriteFlags::default()).await.0.unwrap();
        ticket.flush().await.unwrap();
        ticket.flush().await.unwrap();
        assert_eq!(flushes(&disk), 2);
        ticket.discard(at(0, 4096)).await.unwrap();
        ticket.flush().await.unwrap();
        assert_eq!(flushes(&disk), 3);
        let fua = WriteFlags { fua: true, ..WriteFlags::default() };
        ticket.write(GuestOffset::ZERO, filled(512, 1), fua).await.0.unwrap();
        assert_eq!(flushes(&disk), 4);
        ticket.flush().await.unwrap();
        assert_eq!(flushes(&disk), 4);
    });
}

#[test]
fn a_flush_that_failed_is_not_taken_for_one_that_worked() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let backend = disk_with_writer(&world, &disk);
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &backend, at(0, 512), 1).await.unwrap();
        disk.inject(Fault::every(OpFilter::of(OpKind::Flush), FaultEffect::Io).times(2));
        let mut ticket = lane.enter(&backend).await;
        for expected in [false, false, true, true] {
            assert_eq!(ticket.flush().await.is_ok(), expected);
        }
    });
    assert_eq!(disk.durable_image().bytes(0..512), [1; 512]);
}

/// A write that failed may have reached the device: a flush after it is not left out.
#[test]
fn a_write_that_failed_is_flushed_too() {
    let world = World::new(1);
    let disk = SimDisk::zeroed(LEN, 1);
    let backend = disk_with_writer(&world, &disk);
    world.on_io(async |lane: &mut Lane| {
        lane.enter(&backend).await.flush().await.unwrap();
        disk.inject(Fault::every(OpFilter::of(OpKind::Write), FaultEffect::Io).times(1));
        assert!(fill(lane, &backend, at(0, 512), 1).await.is_err());
        lane.enter(&backend).await.flush().await.unwrap();
    });
    assert_eq!(flushes(&disk), 2);
}

#[test]
fn a_flush_reaches_every_file_that_was_written() {
    let world = World::new(1);
    let disks = [SimDisk::zeroed(LEN, 1), SimDisk::zeroed(LEN, 2)];
    let [one, two] = disks.clone();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let base = overlay(&mut opening, "base", one, None).unwrap();
        let top = overlay(&mut opening, "top", two, Some(base)).unwrap();
        insert(task, opening).await.unwrap();
        attach_writer(task, top, "client").await.unwrap()
    });
    world.on_io(async |lane: &mut Lane| {
        fill(lane, &backend, at(0, 512), 1).await.unwrap();
        lane.enter(&backend).await.flush().await.unwrap();
    });
    assert_eq!(disks[1].durable_image().bytes(0..512), [1; 512]);
}

/// What one block of the disk may hold after a power cut: everything that was written since the last value that was known
/// to be durable, and that value.
#[derive(Default, Clone, Copy)]
struct Promise {
    durable: u8,
    acknowledged: u8,
    issued: u8,
}

type Promises = Rc<RefCell<BTreeMap<u64, Promise>>>;

/// Writes growing values to the blocks of one thread, flushing now and then, until the power goes.
async fn write_and_flush(lane: &mut Lane, backend: &Backend<ReadWrite>, first: u64, promises: Promises) {
    for round in 1..=8_u8 {
        for block in [first, first + 1] {
            promises.borrow_mut().entry(block).or_default().issued = round;
            if fill(lane, backend, at(block * 4096, 512), round).await.is_err() {
                return;
            }
            promises.borrow_mut().entry(block).or_default().acknowledged = round;
        }
        if round % 2 == 0 {
            // Everybody's writes that were acknowledged when the flush began.
            let before: Vec<(u64, u8)> =
                promises.borrow().iter().map(|(block, promise)| (*block, promise.acknowledged)).collect();
            if lane.enter(backend).await.flush().await.is_err() {
                return;
            }
            for (block, value) in before {
                let mut promises = promises.borrow_mut();
                let promise = promises.entry(block).or_default();
                promise.durable = promise.durable.max(value);
            }
        }
    }
}

/// The power goes off at every operation in turn; whatever the device kept of what it had not flushed, an acknowledged
/// flush holds for what was acknowledged before it.
#[test]
fn what_was_flushed_survives_a_power_cut_at_any_operation() {
    for seed in 0..6 {
        for cut in 0.. {
            let world = World::new(seed);
            let disk = SimDisk::zeroed(LEN, seed);
            let backend = disk_with_writer(&world, &disk);
            disk.power().cut_at(cut);
            let promises = Promises::default();
            for thread in [1, 2] {
                let (user, promises) = (backend.clone(), Rc::clone(&promises));
                world.spawn_io(thread, "writes", async move |lane| {
                    write_and_flush(lane, &user, u64::from(thread) * 2, promises).await;
                });
            }
            drop(backend);
            world.end();
            let was_cut = disk.power().is_off();
            for survivor in disk.crash_state().survivors(40, seed) {
                for (block, promise) in promises.borrow().iter() {
                    for byte in survivor.image.bytes(block * 4096..block * 4096 + 512) {
                        assert!(
                            (promise.durable..=promise.issued).contains(&byte),
                            "block {block} holds {byte}, cut at {cut}, seed {seed}: {survivor}"
                        );
                    }
                }
            }
            if !was_cut {
                break;
            }
        }
    }
}
