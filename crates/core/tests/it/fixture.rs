//! A protocol driver on a simulated disk, and graphs of it and of overlays without a file format.

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::ReadWrite;
use drystone_core::control::{Control, ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::disk::Disk;
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, Place, WriteFlags};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;
use drystone_testkit::disk::SimDisk;
pub(crate) use drystone_testkit::overlay::BLOCK_BYTES as BLOCK;
use drystone_testkit::overlay::SimOverlay;
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
    opening.add(SimOverlay::node(name, LEN, file, backing))
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
