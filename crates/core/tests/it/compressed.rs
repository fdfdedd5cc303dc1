//! Writes that shall be stored compressed: which drivers get them, and how.

use std::sync::{Arc, Mutex};

use drystone_base::{GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Opening, Task};
use drystone_core::driver::{Access, BufResult, Driver, Extent, Place, WriteFlags};
use drystone_core::graph::node::ChildKey;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

use crate::fixture::{LEN, node};
use crate::scripted::Script;
use crate::world::{World, add_device, at, attach_writer, filled, insert};

const COMPRESSED: WriteFlags = WriteFlags { fua: true, unchanged: false, compressed: true };

/// Takes compressed writes, unless it is told not to, and remembers all of its writes.
#[derive(Clone)]
struct Press {
    takes: bool,
    seen: Arc<Mutex<Vec<(GuestRange, WriteFlags)>>>,
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
        self.seen.lock().unwrap().push((GuestRange::new(at, buf.len() as u64), flags));
        Box::pin(async move { (Ok(()), buf) })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }
}

fn press(world: &World, takes: bool) -> (Backend<ReadWrite>, Press) {
    let press = Press { takes, seen: Arc::default() };
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
    assert_eq!(seen, [(at(1024, 4096), WriteFlags { fua: false, ..COMPRESSED })]);
    assert_eq!(backend.statistics().writes, (1, 4096));
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
