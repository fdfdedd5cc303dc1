//! Range locks: overlapping requests of one node, one after the other, first come, first served.

use std::cell::RefCell;
use std::rc::Rc;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Task};
use drystone_core::driver::{Access, BufResult, Driver, Extent, Place, WriteFlags};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, yield_now};
use drystone_testkit::notation::range;
use drystone_testkit::sim::abandon_after;

use crate::fixture::{LEN, node};
use crate::world::{Event, World, at, attach_writer, fill, filled, insert};

/// A write holds its range until the byte that it writes may go; then it is noted.
#[derive(Clone, Default)]
struct Locked(std::sync::Arc<std::sync::Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    inside: Vec<GuestRange>,
    done: Vec<u8>,
    gates: std::collections::BTreeMap<u8, Event>,
}

impl Locked {
    fn gate(&self, byte: u8) -> Event {
        self.0.lock().unwrap().gates.entry(byte).or_default().clone()
    }

    fn done(&self) -> Vec<u8> {
        self.0.lock().unwrap().done.clone()
    }
}

impl Driver for Locked {
    fn format_name(&self) -> &'static str {
        "locked"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Ask })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        _flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let guard = io.lock_range(GuestRange::new(at, buf.len() as u64)).await;
            let byte = buf.as_slice()[0];
            {
                let mut notes = self.0.lock().unwrap();
                assert!(
                    notes.inside.iter().all(|other| !other.overlaps(guard.range())),
                    "two at once in {at}"
                );
                notes.inside.push(guard.range());
            }
            self.gate(byte).wait().await;
            let mut notes = self.0.lock().unwrap();
            notes.inside.retain(|range| *range != guard.range());
            notes.done.push(byte);
            drop(notes);
            (Ok(()), buf)
        })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

fn locked_disk(seed: u64) -> (World, Backend<ReadWrite>, Locked) {
    let world = World::new(seed);
    let locked = Locked::default();
    let driver = locked.clone();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = opening.add(node("disk", driver, LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        attach_writer(task, disk, "client").await.unwrap()
    });
    (world, backend, locked)
}

/// Starts writes of the bytes 1, 2, … to `ranges`, one after the other.
fn start_writes(world: &World, backend: &Backend<ReadWrite>, ranges: &str) {
    for (byte, text) in (1..).zip(ranges.split_whitespace()) {
        let (user, range) = (backend.clone(), range(text));
        world.spawn_io(1 + u16::from(byte % 2), &format!("writes {byte}"), async move |lane| {
            fill(lane, &user, range, byte).await.unwrap();
        });
        world.sim.settle().unwrap();
    }
}

#[test]
fn requests_that_do_not_overlap_do_not_wait() {
    let (world, backend, locked) = locked_disk(1);
    start_writes(&world, &backend, "0..4K 4K..8K 8K..12K");
    for byte in [3, 1, 2] {
        locked.gate(byte).set();
        world.sim.settle().unwrap();
    }
    assert_eq!(locked.done(), [3, 1, 2]);
    drop(backend);
    world.end();
}

#[test]
fn requests_that_overlap_come_in_their_order() {
    let (world, backend, locked) = locked_disk(1);
    start_writes(&world, &backend, "0..4K 0..4K 1K..2K 3K..5K");
    for byte in [4, 3, 2] {
        locked.gate(byte).set();
    }
    world.sim.settle().unwrap();
    assert!(locked.done().is_empty());
    locked.gate(1).set();
    drop(backend);
    world.end();
    let done = locked.done();
    assert_eq!(done[..2], [1, 2]);
}

/// A wide request waits for all that were there before, and those that come later wait for it, though the bytes that they
/// want are free.
#[test]
fn a_wide_request_is_not_overtaken_for_ever() {
    let (world, backend, locked) = locked_disk(1);
    start_writes(&world, &backend, "0..4K 0..16K 12K..16K");
    locked.gate(3).set();
    world.sim.settle().unwrap();
    assert!(locked.done().is_empty());
    locked.gate(1).set();
    locked.gate(2).set();
    drop(backend);
    world.end();
    assert_eq!(locked.done(), [1, 2, 3]);
}

/// A change's private request gives up waiting for a range: those behind it go on.
#[test]
fn whoever_gives_up_waiting_for_a_range_holds_up_nobody() {
    for seed in 0..50 {
        let (world, backend, locked) = locked_disk(seed);
        start_writes(&world, &backend, "0..4K");
        let gave_up = Event::default();
        let says = gave_up.clone();
        world.control.spawn(async move |task: &mut Task<'_>| {
            let opening = Opening::new(task);
            let disk = task.gs().find("disk").unwrap();
            let visit = opening.visit(disk).await.unwrap();
            assert!(abandon_after(1, visit.io().lock_range(at(0, LEN))).await.is_none());
            says.set();
        });
        world.sim.run_until(|| gave_up.is_set()).unwrap();
        start_writes(&world, &backend, "8K..12K");
        locked.gate(1).set();
        drop(backend);
        world.end();
        assert_eq!(locked.done(), [1, 1]);
    }
}

#[test]
fn random_requests_never_overlap_and_all_end() {
    for seed in 0..100 {
        let (world, backend, locked) = locked_disk(seed);
        let mut rng = world.sim.rng();
        let count = Rc::new(RefCell::new(0));
        for byte in 1..=12 {
            locked.gate(byte).set();
            let user = backend.clone();
            let start = rng.below(8) * 512;
            let len = 512 * (1 + rng.below(8));
            let count = Rc::clone(&count);
            world.spawn_io(1 + u16::from(byte % 2), "writes", async move |lane| {
                let mut ticket = lane.enter(&user).await;
                yield_now().await;
                let result =
                    ticket.write(GuestOffset::new(start), filled(len, byte), WriteFlags::default()).await;
                result.0.unwrap();
                *count.borrow_mut() += 1;
            });
        }
        drop(backend);
        world.end();
        assert_eq!(*count.borrow(), 12);
    }
}

#[test]
fn a_stuck_run_says_who_holds_the_range() {
    let (world, backend, _locked) = locked_disk(1);
    start_writes(&world, &backend, "0..4K 0..4K");
    let report = world.on_control(async |task: &mut Task<'_>| task.gs().waits().report());
    // The other line is that of this very call.
    let line = "client waits for range 0x0+0x1000 of node 'disk' (Resource), held by client\n";
    assert!(report.starts_with(line) && report.lines().count() == 2, "{report}");
}
