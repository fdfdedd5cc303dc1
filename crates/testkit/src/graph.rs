//! [`SimGraph`]: a block graph on simulated threads, and [`SimDriver`]: its protocol nodes on simulated disks.
//!
//! ```text
//!   SimGraph::start(&sim)            the control thread of a graph runs as a task of shard 0
//!     .call(async |task| ...)        a control task, run to its end
//!     .disk_node(task, "disk", d)    a protocol node on the SimDisk d
//!     .attach(task, node, "guest")   a user that reads and writes: a Backend for BackendClient
//! ```
//! A stuck run prints what each wait in the graph is for and who holds it.

use drystone_base::{GuestRange, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{Control, ControlThread, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::disk::Disk;
use drystone_core::driver::{Access, Driver, Extent, NodeFacts, Place, Status};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::request::io::Io;
use drystone_core::runtime::{LocalFuture, LocalRef};

use crate::disk::SimDisk;
use crate::sim::Sim;

/// A protocol driver whose bytes are on a [`SimDisk`].
pub struct SimDriver(SimDisk);

impl SimDriver {
    /// A node called `name` on `disk`, to be added to an [`Opening`].
    #[must_use]
    pub fn node(name: &str, disk: &SimDisk) -> NewNode {
        NewNode {
            name: Some(name.to_owned()),
            driver: Box::new(Self(disk.clone())),
            facts: NodeFacts { len: disk.len(), request_alignment: disk.align_bytes(), read_only: false },
            children: Vec::new(),
            owned: true,
            force_share: false,
        }
    }
}

impl Driver for SimDriver {
    fn format_name(&self) -> &'static str {
        "sim"
    }

    fn locate(&self, _io: Io<'_>, range: GuestRange, _access: Access) -> Result<Extent> {
        Ok(Extent { len: range.len(), place: Place::Device { at: range.start().get() } })
    }

    fn flush<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) }) // the core flushes the device
    }

    fn disk(&self) -> Option<&dyn Disk> {
        Some(&self.0)
    }

    fn device_status<'a>(
        &'a self,
        _io: Io<'a>,
        _local: &'a LocalRef,
        range: GuestRange,
    ) -> LocalFuture<'a, Result<Status>> {
        let at = range.start().get();
        let (is_allocated, len) = self.0.image().is_allocated(at);
        let status = Status {
            len: len.clamp(1, range.len()),
            data: is_allocated,
            zero: !is_allocated,
            allocated: true,
            compressed: false,
            offset: Some(at),
            depth: 0,
        };
        Box::pin(async move { Ok(status) })
    }
}

/// A graph whose threads are those of a [`Sim`]. Dropping it lets its control thread end.
pub struct SimGraph<'s> {
    sim: &'s Sim,
    control: Control,
}

impl<'s> SimGraph<'s> {
    /// An empty graph.
    #[must_use]
    pub fn start(sim: &'s Sim) -> Self {
        let local = sim.control();
        let (thread, control) = ControlThread::new(local.clone(), sim.io_threads() + 1);
        sim.spawn(&local, "control thread", thread.run());
        let graph = Self { sim, control };
        let waits = graph.call(async |task: &mut Task<'_>| task.gs().waits().clone());
        sim.explain_waits(move || waits.report());
        graph
    }

    /// The handle for sending work to the control thread.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Runs `work` as a control task, to its end; other tasks run meanwhile.
    ///
    /// # Panics
    /// If the simulation gets stuck.
    pub fn call<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> T + Send + 'static,
    {
        match self.sim.block_on(&self.sim.control(), self.control.call(work)) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => panic!("the control thread of a simulated graph has ended: {}", error.report()),
            Err(stuck) => panic!("{stuck}"),
        }
    }

    /// Opens a node called `name` on `disk` and attaches a user to it.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn open_disk(&self, name: &str, disk: &SimDisk) -> (NodeId, Backend<ReadWrite>) {
        let (node, user) = (SimDriver::node(name, disk), format!("user of {name}"));
        let opened = self.call(async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            let node = opening.add(node)?;
            let backend = insert_with_user(task, opening, node, user).await?;
            Ok::<_, drystone_base::Error>((node, backend))
        });
        opened.unwrap_or_else(|error| panic!("cannot open a simulated disk: {}", error.report()))
    }

    /// Lets the control thread end and all tasks with it.
    ///
    /// # Panics
    /// If tasks wait for ever.
    pub fn finish(self) {
        let Self { sim, control } = self;
        drop(control);
        if let Err(stuck) = sim.run_to_end() {
            panic!("{stuck}");
        }
    }
}

/// Brings `opening` into the graph, with a user of its node `top` who reads, writes and resizes.
pub async fn insert_with_user(
    task: &mut Task<'_>,
    opening: Opening,
    top: NodeId,
    user: String,
) -> Result<Backend<ReadWrite>> {
    let mut plan = Plan::new();
    plan.insert(opening);
    let grant = Grant { perm: Grant::WRITER.perm.with(Perm::RESIZE), ..Grant::WRITER };
    let backend = plan.attach_root(task.gs(), top, RootSpec { name: user, grant, stays: false });
    task.apply(plan).await?;
    Ok(backend)
}
