//! Writes that shall be stored compressed: which drivers get them, and how; in one step or in two.

use std::sync::{Arc, Mutex};

use drystone_base::{GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Plan, Task};
use drystone_core::driver::{Access, BufResult, Driver, Extent, Place, WriteFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::request::press::Pressed;
use drystone_core::runtime::LocalFuture;

use crate::fixture::{LEN, node};
use crate::scripted::Script;
use crate::world::{World, add_device, at, attach_writer, filled, insert};

const COMPRESSED: WriteFlags = WriteFlags { fua: true, unchanged: false, compressed: true };

/// A write that a driver has seen: where, with which flags, the lengths of what was compressed before, and its first byte.
type Seen = (GuestRange, WriteFlags, Vec<u32>, u8);

/// Takes compressed writes, unless it is told not to, and remembers all of its writes. What it compresses beforehand are
/// sectors, whose bytes it inverts.
#[derive(Clone)]
struct Press {
    takes: bool,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Press {
    fn new(takes: bool) -> Self {
        Self { takes, seen: Arc::default() }
    }

    fn see(&self, at: GuestOffset, buf: &Buf, parts: &[u32], flags: WriteFlags) {
        let range = GuestRange::new(at, buf.len() as u64);
        self.seen.lock().unwrap().push((range, flags, parts.to_vec(), buf.as_slice()[0]));
    }
}

impl Driver for Press {
    fn format_name(&self) -> &'static str {
        "press"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len().min(512), place: Place::Ask })
    }

    fn takes_compressed(&self) -> bool {
        self.takes
    }

    fn write<'a>(
        &'a self,
        _io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        self.see(at, &buf, &[], flags);
        Box::pin(async move { (Ok(()), buf) })
    }

    fn press(&self, _at: GuestOffset, bytes: &mut [u8]) -> Vec<u32> {
        if !self.takes {
            return Vec::new();
        }
        let sectors = bytes.chunks_exact_mut(512);
        sectors.map(|sector| sector.iter_mut().for_each(|byte| *byte = !*byte)).map(|()| 9).collect()
    }

    fn unpress(&self, parts: &[u32], bytes: &mut [u8]) -> Result<()> {
        assert_eq!(parts.len(), bytes.len() / 512);
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        Ok(())
    }

    fn write_pressed<'a>(
        &'a self,
        _io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        parts: &'a [u32],
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        self.see(at, &buf, parts, flags);
        Box::pin(async move { (Ok(()), buf) })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }
}

fn press(world: &World, takes: bool) -> (Backend<ReadWrite>, Press) {
    let press = Press::new(takes);
    let driver = press.clone();
    let backend = world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "disk", &Script::default()).unwrap();
        let children = vec![(ChildKey::File, Role::FILTER_CHILD, disk)];
        let top = opening.add(node("top", driver, LEN, children)).unwrap();
        insert(task, opening).await.unwrap();
        attach_writer(task, top, "user").await.unwrap()
    });
    (backend, press)
}

#[test]
fn a_compressed_write_comes_to_its_driver_in_one_piece() {
    let world = World::new(1);
    let (backend, press) = press(&world, true);
    world.on_io(async |lane: &mut Lane| {
        lane.enter(&backend)
            .await
            .write(GuestOffset::new(1024), filled(4096, 1), COMPRESSED)
            .await
            .0
            .unwrap();
    });
    let seen = press.seen.lock().unwrap().clone();
    assert_eq!(seen, [(at(1024, 4096), WriteFlags { fua: false, ..COMPRESSED }, vec![], 1)]);
    assert_eq!(backend.statistics().writes, (1, 4096));
}

/// Two sectors of ones, compressed.
async fn pressed(lane: &mut Lane, backend: &Backend<ReadWrite>) -> (Option<Pressed>, Buf) {
    let mut buf = filled(1024, 1);
    let pressed = lane.enter(backend).await.press(GuestOffset::new(1024), buf.as_mut_slice());
    (pressed, buf)
}

#[test]
fn what_was_compressed_comes_to_its_driver_later() {
    let world = World::new(1);
    let (backend, press) = press(&world, true);
    world.on_io(async |lane: &mut Lane| {
        let (pressed, buf) = pressed(lane, &backend).await;
        assert_eq!(buf.as_slice(), [!1; 1024]);
        let flags = WriteFlags { compressed: false, ..COMPRESSED };
        let (result, buf) = lane.enter(&backend).await.write_pressed(pressed.unwrap(), buf, flags).await;
        result.unwrap();
        assert_eq!(buf.len(), 1024, "the buffer comes back");
    });
    let seen = press.seen.lock().unwrap().clone();
    assert_eq!(seen, [(at(1024, 1024), WriteFlags { fua: false, ..COMPRESSED }, vec![9, 9], !1)]);
    assert_eq!(backend.statistics().writes, (1, 1024));
}

#[test]
fn a_driver_that_does_not_compress_beforehand_leaves_the_bytes_alone() {
    let world = World::new(1);
    let (backend, _) = press(&world, false);
    world.on_io(async |lane: &mut Lane| {
        let (pressed, buf) = pressed(lane, &backend).await;
        assert!(pressed.is_none());
        assert_eq!(buf.as_slice(), [1; 1024]);
    });
}

#[test]
fn what_another_driver_has_compressed_is_written_as_it_was() {
    let world = World::new(1);
    let (backend, old) = press(&world, true);
    let (pressed, buf) = world.on_io(async |lane: &mut Lane| pressed(lane, &backend).await);
    let new = Press::new(true);
    let driver = new.clone();
    world.on_control(async move |task: &mut Task<'_>| {
        let mut opening = Opening::new(task);
        let disk = add_device(&mut opening, "other-disk", &Script::default()).unwrap();
        let children = vec![(ChildKey::File, Role::FILTER_CHILD, disk)];
        let other = opening.add(node("other", driver, LEN, children)).unwrap();
        let top = task.gs().find("top").unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(top, other);
        task.apply(plan).await.unwrap();
    });
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        ticket.write_pressed(pressed.unwrap(), buf, WriteFlags::default()).await.0.unwrap();
    });
    assert!(old.seen.lock().unwrap().is_empty());
    let flags = WriteFlags { compressed: true, ..WriteFlags::default() };
    assert_eq!(*new.seen.lock().unwrap(), [(at(1024, 1024), flags, vec![], 1)]);
}

#[test]
fn a_driver_that_does_not_compress_refuses_by_name_and_gets_nothing() {
    let world = World::new(1);
    let (backend, press) = press(&world, false);
    world.on_io(async |lane: &mut Lane| {
        let mut ticket = lane.enter(&backend).await;
        let (result, buf) = ticket.write(GuestOffset::ZERO, filled(512, 1), COMPRESSED).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("'press' cannot write compressed data"), "{error}");
        assert_eq!(buf.len(), 512, "the buffer comes back");
        let past = ticket.write(GuestOffset::new(LEN), filled(512, 1), COMPRESSED).await.0.unwrap_err();
        assert_eq!(past.kind(), Kind::OutOfRange);
    });
    assert!(press.seen.lock().unwrap().is_empty());
}
