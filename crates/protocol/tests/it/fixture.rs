//! One protocol node with one writer, on the simulated scheduler.

use std::future::Future;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::{Driver, NodeFacts, Status, WriteFlags, ZeroFlags};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::lane::Lane;
use drystone_core::runtime::LocalRef;
use drystone_testkit::sim::Sim;

/// A user that reads, writes and resizes.
pub(crate) const RESIZER: Grant =
    Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), shared: Grant::WRITER.shared };

pub(crate) fn new_node(driver: impl Driver, facts: NodeFacts) -> NewNode {
    NewNode {
        name: Some("disk".to_owned()),
        driver: Box::new(driver),
        facts,
        children: Vec::new(),
        owned: true,
        force_share: false,
    }
}

/// Runs `test` as a user of a node with this driver.
pub(crate) fn as_user<F: Future<Output = ()>>(
    (driver, facts): (impl Driver, NodeFacts),
    test: impl FnOnce(User) -> F,
) {
    let sim = Sim::seeded(1);
    let local = sim.control();
    let (thread, control) = ControlThread::new(local.clone(), sim.io_threads() + 1);
    sim.spawn(&local, "control", thread.run());
    let done = sim.block_on(&sim.control(), async {
        let backend = control
            .call(async move |task: &mut Task<'_>| {
                let mut opening = Opening::new(task);
                let node = opening.add(new_node(driver, facts))?;
                let mut plan = Plan::new();
                plan.insert(opening);
                let spec = RootSpec { name: "user".to_owned(), grant: RESIZER, stays: false };
                let backend = plan.attach_root(task.gs(), node, spec);
                task.apply(plan).await?;
                Ok::<_, drystone_base::Error>(backend)
            })
            .await;
        test(User { lane: Lane::new(local.clone()), backend: backend.unwrap().unwrap(), local }).await;
    });
    done.unwrap();
}

/// Somebody who reads and writes the disk.
pub(crate) struct User {
    lane: Lane,
    backend: Backend<ReadWrite>,
    pub(crate) local: LocalRef,
}

impl User {
    pub(crate) async fn read(&mut self, at: u64, len: usize) -> Vec<u8> {
        let dirty = Buf::copy_of(&vec![0xee; len]);
        let (result, buf) = self.lane.enter(&self.backend).await.read(GuestOffset::new(at), dirty).await;
        result.unwrap();
        buf.as_slice().to_vec()
    }

    pub(crate) async fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut ticket = self.lane.enter(&self.backend).await;
        ticket.write(GuestOffset::new(at), Buf::copy_of(bytes), WriteFlags::default()).await.0
    }

    pub(crate) async fn zero(&mut self, at: u64, len: u64) -> Result<()> {
        self.lane.enter(&self.backend).await.write_zeroes(range(at, len), ZeroFlags::default()).await
    }

    pub(crate) async fn discard(&mut self, at: u64, len: u64) -> Result<()> {
        self.lane.enter(&self.backend).await.discard(range(at, len)).await
    }

    pub(crate) async fn flush(&mut self) -> Result<()> {
        self.lane.enter(&self.backend).await.flush().await
    }

    pub(crate) async fn resize(&mut self, len: u64) -> Result<()> {
        self.lane.enter(&self.backend).await.resize(len, Default::default()).await
    }

    pub(crate) async fn len(&mut self) -> u64 {
        self.lane.enter(&self.backend).await.len()
    }

    pub(crate) async fn status(&mut self, at: u64, len: u64) -> Status {
        self.lane.enter(&self.backend).await.status(range(at, len), u32::MAX).await.unwrap()
    }
}

pub(crate) fn range(at: u64, len: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(at), len)
}
