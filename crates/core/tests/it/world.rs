//! [`World`]: a simulated process with a graph, and the few steps that most scenarios begin with.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, Mode, ReadOnly, ReadWrite};
use drystone_core::control::{Control, Opening, Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_testkit::disk::{DiskOptions, Image, SimDisk, Timing};
use drystone_testkit::sim::{Sim, SimOptions};

use crate::fixture::{LEN, facts, node, start};
use crate::scripted::{Script, Scripted};

/// Reads, writes and lets everybody do the same: users that know of each other.
pub(crate) const SHARING_WRITER: Grant =
    Grant { perm: Perm::CONSISTENT_READ.with(Perm::WRITE), shared: Perm::ALL };
/// Reads and lets everybody do anything.
pub(crate) const SHARING_READER: Grant = Grant { perm: Perm::CONSISTENT_READ, shared: Perm::ALL };

/// A simulated process and the graph in it.
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) control: Control,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(SimOptions::seeded(seed))
    }

    pub(crate) fn with(options: SimOptions) -> Self {
        let sim = Sim::new(options);
        let control = start(&sim);
        let world = Self { sim, control };
        let waits = world.on_control(async |task: &mut Task<'_>| task.gs().waits().clone());
        world.sim.explain_waits(move || waits.report());
        world
    }

    /// Runs a control task to its end, and whatever else can run meanwhile.
    #[track_caller]
    pub(crate) fn on_control<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> T + Send + 'static,
    {
        self.sim.block_on(&self.sim.control(), self.control.call(work)).unwrap().unwrap()
    }

    /// Runs a task of an I/O thread to its end, with a lane of its own.
    #[track_caller]
    pub(crate) fn on_io<T>(&self, work: impl AsyncFnOnce(&mut Lane) -> T) -> T {
        let local = self.sim.io(1);
        let mut lane = Lane::new(local.clone());
        self.sim.block_on(&local, work(&mut lane)).unwrap()
    }

    /// Starts a task on I/O thread `thread`, with a lane of its own.
    pub(crate) fn spawn_io<F>(&self, thread: u16, name: &str, work: F)
    where
        F: AsyncFnOnce(&mut Lane) + 'static,
    {
        let local = self.sim.io(thread);
        let mut lane = Lane::new(local.clone());
        self.sim.spawn(&local, name, async move { work(&mut lane).await });
    }

    /// Runs until every task has ended; the control thread ends with the last handle.
    #[track_caller]
    pub(crate) fn end(self) {
        drop(self.control);
        self.sim.run_to_end().unwrap();
    }
}

/// Something that happens once. Clones are the same event.
#[derive(Clone, Default)]
pub(crate) struct Event(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Event {
    /// It happens now.
    pub(crate) fn set(&self) {
        let mut state = self.0.lock().unwrap();
        state.0 = true;
        state.1.drain(..).for_each(Waker::wake);
    }

    /// Waits until it has happened.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock().unwrap();
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether it has happened.
    pub(crate) fn is_set(&self) -> bool {
        self.0.lock().unwrap().0
    }
}

/// A disk of [`LEN`] bytes whose operations end at once.
pub(crate) fn instant_disk() -> SimDisk {
    SimDisk::new(Image::new(LEN), DiskOptions { timing: Timing::Instant, ..DiskOptions::seeded(1) })
}

/// A disk of [`LEN`] bytes of `byte`, seeded.
pub(crate) fn disk_of(byte: u8, seed: u64) -> SimDisk {
    let bytes = vec![byte; usize::try_from(LEN).unwrap()];
    SimDisk::new(Image::from_bytes(&bytes), DiskOptions::seeded(seed))
}

/// A scripted device called `name`, with a fast disk.
pub(crate) fn add_device(opening: &mut Opening, name: &str, script: &Script) -> Result<NodeId> {
    opening.add(node(name, Scripted::device(name, script, instant_disk()), LEN, vec![]))
}

/// A scripted filter called `name` on `child`.
pub(crate) fn add_filter(
    opening: &mut Opening,
    name: &str,
    script: &Script,
    child: NodeId,
) -> Result<NodeId> {
    let children = vec![(ChildKey::File, Role::FILTER_CHILD, child)];
    opening.add(node(name, Scripted::filter(name, script), LEN, children))
}

/// A scripted device that is its own disk in the graph.
pub(crate) async fn insert_device(task: &mut Task<'_>, name: &str, script: &Script) -> Result<NodeId> {
    let mut opening = Opening::new(task);
    let id = add_device(&mut opening, name, script)?;
    insert(task, opening).await?;
    Ok(id)
}

/// A filter `top` on a device `bottom`, in the graph; returns (top, bottom).
pub(crate) async fn insert_pair(
    task: &mut Task<'_>,
    (top, bottom): (&str, &str),
    script: &Script,
) -> Result<(NodeId, NodeId)> {
    let mut opening = Opening::new(task);
    let below = add_device(&mut opening, bottom, script)?;
    let above = add_filter(&mut opening, top, script, below)?;
    insert(task, opening).await?;
    Ok((above, below))
}

pub(crate) async fn insert(task: &mut Task<'_>, opening: Opening) -> Result<()> {
    let mut plan = Plan::new();
    plan.insert(opening);
    task.apply(plan).await
}

pub(crate) async fn attach<M: Mode>(
    task: &mut Task<'_>,
    node: NodeId,
    name: &str,
    grant: Grant,
) -> Result<Backend<M>> {
    let mut plan = Plan::new();
    let spec = RootSpec { name: name.to_owned(), grant, stays: false };
    let backend = plan.attach_root(task.gs(), node, spec);
    task.apply(plan).await?;
    Ok(backend)
}

pub(crate) async fn attach_writer(
    task: &mut Task<'_>,
    node: NodeId,
    name: &str,
) -> Result<Backend<ReadWrite>> {
    attach(task, node, name, Grant::WRITER).await
}

pub(crate) async fn attach_reader(
    task: &mut Task<'_>,
    node: NodeId,
    name: &str,
) -> Result<Backend<ReadOnly>> {
    attach(task, node, name, Grant::READER).await
}

pub(crate) async fn detach<M: Mode>(task: &mut Task<'_>, backend: &Backend<M>) -> Result<()> {
    let mut plan = Plan::new();
    plan.detach_root(backend.id());
    task.apply(plan).await
}

pub(crate) async fn remove(task: &mut Task<'_>, node: NodeId) -> Result<()> {
    let mut plan = Plan::new();
    plan.remove(node);
    task.apply(plan).await
}

/// `len` bytes of `byte`.
pub(crate) fn filled(len: u64, byte: u8) -> Buf {
    let mut buf = Buf::zeroed(usize::try_from(len).unwrap());
    buf.as_mut_slice().fill(byte);
    buf
}

pub(crate) async fn fill(
    lane: &mut Lane,
    to: &Backend<ReadWrite>,
    range: GuestRange,
    byte: u8,
) -> Result<()> {
    let mut ticket = lane.enter(to).await;
    ticket.write(range.start(), filled(range.len(), byte), WriteFlags::default()).await.0
}

/// The bytes of `range`.
pub(crate) async fn load<M: Mode>(lane: &mut Lane, from: &Backend<M>, range: GuestRange) -> Result<Vec<u8>> {
    let mut ticket = lane.enter(from).await;
    let (result, buf) = ticket.read(range.start(), Buf::zeroed(usize::try_from(range.len()).unwrap())).await;
    result.map(|()| buf.as_slice().to_vec())
}

/// A range by start and length.
pub(crate) fn at(start: u64, len: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(start), len)
}

/// A node of the graph that is read-only, of scripted kind, with a fast disk.
pub(crate) fn read_only_device(name: &str, script: &Script) -> drystone_core::control::NewNode {
    let mut new = node(name, Scripted::device(name, script, instant_disk()), LEN, vec![]);
    new.facts = facts(LEN, true);
    new
}
