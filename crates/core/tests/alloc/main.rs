//! The budget of the request path: a mapped read or overwrite allocates nothing in the core, through any number of
//! layers. Counted around single requests on the thread that makes them, once everything has been used.
//!
//! The device answers at once or later; the cell of a later answer is the device's (`Completion::pending`), and the one
//! allocation that a request may cost there.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the tests themselves")]

use std::sync::Mutex;

use drystone_base::{GuestOffset, GuestRange, HostOffset, Result};
use drystone_buf::{Buf, Pool};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::disk::{Completion, Disk, DiskOp};
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, Place, Tail, WriteFlags};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::Grant;
use drystone_core::graph::role::Role;
use drystone_core::lane::Lane;
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef, yield_now};
use drystone_testkit::allocations::{CountingAllocator, made_here};
use drystone_testkit::sim::{Sim, SimOptions};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const LEN: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// The last one is counted: what is made once is made by then.
const ROUNDS: u32 = 20;

/// When a device answers.
#[derive(Clone, Copy)]
enum Answer {
    AtOnce,
    Later,
}

/// Memory that reads as whatever was in the buffer.
struct Device(Answer);

impl Disk for Device {
    fn submit(&self, local: &LocalRef, op: DiskOp) -> Completion {
        let buf = match op {
            DiskOp::Read { buf, .. } | DiskOp::Write { buf, .. } => Some(buf),
            _ => None,
        };
        if matches!(self.0, Answer::AtOnce) {
            return Completion::ready(Ok(()), buf);
        }
        let (completion, finisher) = Completion::pending();
        local.spawn(Box::pin(async move {
            yield_now().await;
            finisher.finish(Ok(()), buf);
        }));
        completion
    }
}

/// A layer without a cache miss: every second block is in its file, the rest shows through.
struct Layer {
    disk: Option<Device>,
    /// What a driver looks up under a lock of its own.
    lookups: Mutex<u64>,
}

impl Driver for Layer {
    fn format_name(&self) -> &'static str {
        "layer"
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        *self.lookups.lock().unwrap() += 1;
        let at = range.start().get();
        if self.disk.is_some() {
            return Ok(Extent { len: range.len(), place: Place::Device { at } });
        }
        let is_own = (at / BLOCK).is_multiple_of(2) || access == Access::Write;
        let place = match is_own || io.child(ChildKey::Backing).is_none() {
            true => Place::Child {
                child: ChildKey::File,
                at: HostOffset::new(at),
                tail: Tail::Zeroes,
                transparent: false,
            },
            false => Place::Backing,
        };
        Ok(Extent { len: BLOCK - at % BLOCK, place })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn disk(&self) -> Option<&dyn Disk> {
        self.disk.as_ref().map(|disk| disk as &dyn Disk)
    }
}

fn node(disk: Option<Device>, children: Vec<(ChildKey, Role, NodeId)>) -> NewNode {
    NewNode {
        name: None,
        driver: Box::new(Layer { disk, lookups: Mutex::new(0) }),
        facts: NodeFacts { len: LEN, request_alignment: 1, read_only: false },
        children,
        owned: true,
        force_share: false,
    }
}

/// A chain of `layers` layers, each with a file; a writer on the top one.
async fn open_chain(task: &mut Task<'_>, layers: u32, answer: Answer) -> Result<Backend<ReadWrite>> {
    let mut opening = Opening::new(task);
    let mut top = None;
    for _ in 0..layers {
        let file = opening.add(node(Some(Device(answer)), vec![]))?;
        let mut children = vec![(ChildKey::File, Role::IMAGE, file)];
        children.extend(top.map(|below| (ChildKey::Backing, Role::COW, below)));
        top = Some(opening.add(node(None, children))?);
    }
    let mut plan = Plan::new();
    plan.insert(opening);
    let spec = RootSpec { name: "client".to_owned(), grant: Grant::WRITER, stays: false };
    let backend = plan.attach_root(task.gs(), top.unwrap(), spec);
    task.apply(plan).await?;
    Ok(backend)
}

/// Allocations of single requests to a chain.
#[derive(Debug, PartialEq, Eq)]
struct Costs {
    /// A read of what the top layer has.
    read: u64,
    /// A read of what shows through from further down.
    inherited: u64,
    /// An overwrite of what the top layer has.
    write: u64,
}

/// Runs `work` on an I/O thread of a simulation, with a chain of `layers` layers.
fn with_chain<T>(
    layers: u32,
    answer: Answer,
    work: impl AsyncFnOnce(Backend<ReadWrite>, LocalRef) -> T,
) -> T {
    let sim = Sim::new(SimOptions { yield_one_in: 0, ..SimOptions::seeded(1) });
    let (thread, control) = ControlThread::new(sim.control(), 2);
    sim.spawn(&sim.control(), "control", thread.run());
    let call = control.call(async move |task: &mut Task<'_>| open_chain(task, layers, answer).await.unwrap());
    let backend = sim.block_on(&sim.control(), call).unwrap().unwrap();
    let io = sim.io(1);
    sim.block_on(&io.clone(), work(backend, io)).unwrap()
}

fn costs(layers: u32, answer: Answer) -> Costs {
    with_chain(layers, answer, async |backend, local| {
        let mut lane = Lane::new(local);
        let pool = Pool::new(1 << 20);
        let mut costs = Costs { read: 0, inherited: 0, write: 0 };
        for _ in 0..ROUNDS {
            costs.read = read(&mut lane, &backend, 0, pool.take(4096)).await;
            costs.inherited = read(&mut lane, &backend, BLOCK, pool.take(4096)).await;
            costs.write = write(&mut lane, &backend, pool.take(4096)).await;
        }
        costs
    })
}

async fn read(lane: &mut Lane, backend: &Backend<ReadWrite>, at: u64, buf: Buf) -> u64 {
    let before = made_here();
    let mut ticket = lane.enter(backend).await;
    ticket.read(GuestOffset::new(at), buf).await.0.unwrap();
    drop(ticket);
    made_here() - before
}

async fn write(lane: &mut Lane, backend: &Backend<ReadWrite>, buf: Buf) -> u64 {
    let before = made_here();
    let mut ticket = lane.enter(backend).await;
    ticket.write(GuestOffset::ZERO, buf, WriteFlags::default()).await.0.unwrap();
    drop(ticket);
    made_here() - before
}

#[test]
fn requests_that_a_device_answers_at_once_allocate_nothing() {
    for layers in [1, 3, 30] {
        let none = Costs { read: 0, inherited: 0, write: 0 };
        assert_eq!(costs(layers, Answer::AtOnce), none, "{layers} layers");
    }
}

#[test]
fn requests_that_a_device_answers_later_allocate_what_the_device_does() {
    let device = with_chain(1, Answer::Later, async |_, local| {
        let pool = Pool::new(1 << 20);
        let mut made = 0;
        for _ in 0..ROUNDS {
            let buf = pool.take(4096);
            let before = made_here();
            let done = Device(Answer::Later).submit(&local, DiskOp::Read { at: 0, buf }).await;
            made = made_here() - before;
            done.result.unwrap();
        }
        made
    });
    assert!(device > 0, "the allocator does not count");
    for layers in [1, 3, 30] {
        let own = Costs { read: device, inherited: device, write: device };
        assert_eq!(costs(layers, Answer::Later), own, "{layers} layers");
    }
}
