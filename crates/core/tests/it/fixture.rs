//! A protocol driver on a simulated disk, a copy-on-write driver without a file format, and a graph of them.

use std::collections::BTreeSet;
use std::sync::Mutex;

use drystone_base::{GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;
use drystone_core::backend::ReadWrite;
use drystone_core::control::{Control, ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::disk::Disk;
use drystone_core::driver::{Access, BufResult, Driver, Extent, NodeFacts, Place, Tail, WriteFlags};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_testkit::disk::SimDisk;
use drystone_testkit::sim::Sim;

/// A protocol node.
pub(crate) struct Device(pub(crate) SimDisk);

impl Driver for Device {
    fn format_name(&self) -> &'static str {
        "device"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.0)
    }
}

pub(crate) const BLOCK: u64 = 4096;

/// Copy on write by blocks, at the same offsets of its file; which blocks are its own is kept in memory only.
#[derive(Default)]
pub(crate) struct Overlay(Mutex<BTreeSet<u64>>);

impl Driver for Overlay {
    fn format_name(&self) -> &'static str {
        "overlay"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        let at = range.start().get();
        let len = BLOCK - at % BLOCK;
        let own = self.0.lock().unwrap().contains(&(at / BLOCK));
        let place = match (own, access) {
            (true, _) => Place::Child {
                child: ChildKey::File,
                at: HostOffset::new(at),
                tail: Tail::Zeroes,
                transparent: false,
            },
            (false, Access::Write) => Place::Ask,
            (false, _) => Place::Backing,
        };
        Ok(Extent { len, place })
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let block = at.align_down(BLOCK);
            let _range = io.lock_range(GuestRange::new(block, BLOCK)).await;
            let mut whole = Buf::zeroed(usize::try_from(BLOCK).unwrap());
            if self.0.lock().unwrap().contains(&(block.get() / BLOCK)) {
                return io.file().unwrap().write(at, buf, flags).await;
            }
            if let Some(backing) = io.child(ChildKey::Backing) {
                let (result, filled) = backing.read(block, whole).await;
                whole = filled;
                if let Err(error) = result {
                    return (Err(error), buf);
                }
            }
            let from = usize::try_from(at.get() - block.get()).unwrap();
            whole.as_mut_slice()[from..from + buf.len()].copy_from_slice(buf.as_slice());
            let (result, _) = io.file().unwrap().write(block, whole, flags).await;
            if result.is_ok() {
                self.0.lock().unwrap().insert(block.get() / BLOCK);
            }
            (result, buf)
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }
}

pub(crate) fn facts(len: u64, read_only: bool) -> NodeFacts {
    NodeFacts { len, request_alignment: 1, read_only }
}

pub(crate) fn node(
    name: &str,
    driver: impl Driver,
    len: u64,
    children: Vec<(ChildKey, Role, NodeId)>,
) -> NewNode {
    NewNode {
        name: Some(name.to_owned()),
        driver: Box::new(driver),
        facts: facts(len, false),
        children,
        owned: true,
        force_share: false,
    }
}

/// A graph on a simulator; the control thread runs until the returned handle is dropped.
pub(crate) fn start(sim: &Sim) -> Control {
    let local = sim.control();
    let (thread, control) = ControlThread::new(local.clone(), sim.io_threads() + 1);
    sim.spawn(&local, "control", thread.run());
    control
}

pub(crate) const LEN: u64 = 64 * BLOCK;

/// An overlay called `name` with a file of its own, on `backing`.
pub(crate) fn overlay(
    opening: &mut Opening,
    name: &str,
    disk: SimDisk,
    backing: Option<NodeId>,
) -> Result<NodeId> {
    let file = opening.add(node(&format!("{name}-file"), Device(disk), LEN, vec![]))?;
    let mut children = vec![(ChildKey::File, Role::IMAGE, file)];
    children.extend(backing.map(|id| (ChildKey::Backing, Role::COW, id)));
    opening.add(node(name, Overlay::default(), LEN, children))
}

/// Attaches a writer to `node`.
pub(crate) async fn attach_writer(
    task: &mut Task<'_>,
    node: NodeId,
    name: &str,
) -> Result<drystone_core::backend::Backend<ReadWrite>> {
    let mut plan = Plan::new();
    let spec = RootSpec { name: name.to_owned(), grant: Grant::WRITER, stays: false };
    let backend = plan.attach_root(task.gs(), node, spec);
    task.apply(plan).await?;
    Ok(backend)
}

pub(crate) async fn write(
    lane: &mut Lane,
    to: &drystone_core::backend::Backend<ReadWrite>,
    at: u64,
    byte: u8,
) -> Result<()> {
    let mut buf = Buf::zeroed(512);
    buf.as_mut_slice().fill(byte);
    let mut ticket = lane.enter(to).await;
    ticket.write(GuestOffset::new(at), buf, WriteFlags::default()).await.0
}

pub(crate) async fn read(
    lane: &mut Lane,
    from: &drystone_core::backend::Backend<ReadWrite>,
    at: u64,
) -> Result<u8> {
    let mut ticket = lane.enter(from).await;
    let (result, buf) = ticket.read(GuestOffset::new(at), Buf::zeroed(512)).await;
    result?;
    assert!(buf.as_slice().iter().all(|byte| *byte == buf.as_slice()[0]), "a torn read");
    Ok(buf.as_slice()[0])
}

#[allow(dead_code)]
pub(crate) fn is_kind<T>(result: &Result<T>, kind: Kind) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == kind)
}
