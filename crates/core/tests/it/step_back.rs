//! Requests that step back: a driver lets them wait for something that is not a device, outside of the graph.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Task};
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{Access, BufResult, Driver, Extent, Place, WriteFlags, ZeroFlags};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef};
use drystone_testkit::sim::abandon_after;

use crate::fixture::{LEN, node};
use crate::scripted::Script;
use crate::world::{World, add_device, at, attach, detach, fill, filled, insert, load};

const WAIT_NS: u64 = 1_000_000;

/// Sends the next so many requests back, each for a while.
#[derive(Clone, Default)]
struct Throttle {
    back: Arc<AtomicU32>,
    seen: Arc<AtomicU32>,
}

impl Throttle {
    fn send_back(&self, times: u32) {
        self.back.store(times, Ordering::SeqCst);
    }

    fn seen(&self) -> u32 {
        self.seen.load(Ordering::SeqCst)
    }

    fn pass(&self, io: Io<'_>) -> Result<()> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let left = self.back.load(Ordering::SeqCst);
        if left == 0 {
            return Ok(());
        }
        self.back.store(left - 1, Ordering::SeqCst);
        Err(io.step_back(io.now_ns() + WAIT_NS))
    }
}

impl Driver for Throttle {
    fn format_name(&self) -> &'static str {
        "throttle"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Ask })
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            match self.pass(io).and_then(|()| io.file()) {
                Ok(file) => file.read(at, buf).await,
                Err(error) => (Err(error), buf),
            }
        })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            match self.pass(io).and_then(|()| io.file()) {
                Ok(file) => file.write(at, buf, flags).await,
                Err(error) => (Err(error), buf),
            }
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.pass(io)?;
            io.file()?.write_zeroes(range, flags).await
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            self.pass(io)?;
            io.file()?.flush().await
        })
    }
}

fn throttled_disk(world: &World) -> (NodeId, Backend<ReadWrite>, Throttle) {
    let throttle = Throttle::default();
    let driver = throttle.clone();
    let (top, backend) = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "disk", &Script::default()).unwrap();
        let children = vec![(ChildKey::File, Role::FILTER_CHILD, disk)];
        let top = opening.add(node("top", driver, LEN, children)).unwrap();
        insert(task, opening).await.unwrap();
        (top, attach(task, top, "client", Grant::WRITER).await.unwrap())
    });
    (top, backend, throttle)
}

#[test]
fn a_request_that_is_sent_back_comes_again_with_all_it_had() {
    let world = World::new(1);
    let (_, backend, throttle) = throttled_disk(&world);
    let start_ns = world.sim.now_ns();
    world.on_io(async |lane: &mut Lane| {
        throttle.send_back(3);
        fill(lane, &backend, at(0, 1000), 7).await.unwrap();
        assert_eq!((throttle.seen(), lane.local().now_ns()), (4, start_ns + 3 * WAIT_NS));
        throttle.send_back(1);
        assert_eq!(load(lane, &backend, at(0, 1000)).await.unwrap(), [7; 1000]);
        throttle.send_back(2);
        let mut ticket = lane.enter(&backend).await;
        ticket.write_zeroes(at(0, 500), ZeroFlags::default()).await.unwrap();
        throttle.send_back(1);
        ticket.flush().await.unwrap();
    });
    let statistics = backend.statistics();
    assert_eq!(
        (statistics.writes, statistics.reads, statistics.failed),
        ((1, 1000), (1, 1000), 0),
        "counted once"
    );
}

#[test]
fn a_drain_does_not_wait_for_a_request_that_was_sent_back() {
    let world = World::new(1);
    let (top, backend, throttle) = throttled_disk(&world);
    throttle.send_back(1);
    let user = backend.clone();
    world.spawn_io(1, "waits", async move |lane| fill(lane, &user, at(0, 512), 1).await.unwrap());
    world.sim.settle().unwrap();
    assert_eq!(throttle.seen(), 1);
    let start_ns = world.sim.now_ns();
    let local = world.sim.control();
    world.on_control(async move |task: &mut Task<'_>| {
        let quiet = task.drain(&[top]).await;
        assert_eq!(task.local().now_ns(), start_ns, "at once");
        task.sleep_until(start_ns + 10 * WAIT_NS).await;
        assert_eq!(throttle.seen(), 1, "its time has come, and the gate is closed");
        drop(quiet);
    });
    drop((local, backend));
    world.end();
}

#[test]
fn a_request_that_was_sent_back_hears_that_its_user_was_taken_out() {
    let world = World::new(1);
    let (_, backend, throttle) = throttled_disk(&world);
    throttle.send_back(1);
    let user = backend.clone();
    world.spawn_io(1, "waits", async move |lane| {
        let error = fill(lane, &user, at(0, 512), 1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    });
    world.sim.settle().unwrap();
    world.on_control(async move |task: &mut Task<'_>| detach(task, &backend).await.unwrap());
    world.end();
}

#[test]
fn a_request_that_was_sent_back_runs_to_its_end_whoever_waits_for_it() {
    let world = World::new(1);
    let (_, backend, throttle) = throttled_disk(&world);
    throttle.send_back(2);
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        let write = ticket.write(GuestOffset::ZERO, filled(512, 9), WriteFlags::default());
        assert!(abandon_after(1, write).await.is_none());
        drop(ticket);
        lane.local_ref().sleep_until(lane.local().now_ns() + 5 * WAIT_NS).await;
        assert_eq!(load(lane, &backend, at(0, 512)).await.unwrap(), [9; 512]);
    });
    drop(backend);
    world.end();
}

/// Half of a disk that takes buffers and never gives them back, and half that sends requests back.
struct Broken(Lost, Throttle);

struct Lost;

impl Disk for Lost {
    fn submit(&self, _local: &LocalRef, _op: DiskOp) -> Completion {
        Completion::ready(Err(Error::new(Kind::Io, "the device went away")), None)
    }
}

impl Driver for Broken {
    fn format_name(&self) -> &'static str {
        "broken"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        let half = LEN / 2;
        let start = range.start().get();
        Ok(match half.checked_sub(start).filter(|left| *left > 0) {
            Some(len) => Extent { len, place: Place::Device { at: start } },
            None => Extent { len: range.len(), place: Place::Ask },
        })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        _at: GuestOffset,
        buf: Buf,
        _flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move { (self.1.pass(io), buf) })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.0)
    }
}

/// One part of a write is lost with its device, another one is sent back: the rest alone must not be tried again and
/// acknowledged as if it were all.
#[test]
fn a_write_that_lost_a_part_is_not_tried_again_without_it() {
    let world = World::new(1);
    let throttle = Throttle::default();
    throttle.send_back(1);
    let driver = Broken(Lost, throttle);
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = opening.add(node("disk", driver, LEN, vec![])).unwrap();
        insert(task, opening).await.unwrap();
        attach::<ReadWrite>(task, disk, "client", Grant::WRITER).await.unwrap()
    });
    let result = world.on_io(async |lane| fill(lane, &backend, at(LEN / 2 - 512, 1024), 1).await);
    assert_eq!(result.unwrap_err().kind(), Kind::Io);
}
