//! A graph with an NBD server, inside of a simulation.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_core::control::{Control, Opening, Plan, Task};
use drystone_core::runtime::LocalRef;
use drystone_export::nbd::{ExportOptions, Listen, NbdServer, Removal, ServerOptions};
use drystone_played::nbd::{Entry, NbdClient};
use drystone_sys::played::{PlayedNetwork, WireOptions, thread};
use drystone_sys::{Address, Network};
use drystone_testkit::client::SharedModel;
use drystone_testkit::disk::SimDisk;
use drystone_testkit::graph::{SimDriver, SimGraph};
use drystone_testkit::model::ByteModel;
use drystone_testkit::sim::Sim;

pub(crate) const DISK_BYTES: u64 = 256 << 10;
pub(crate) const WHOLE: GuestRange = GuestRange::new(GuestOffset::ZERO, DISK_BYTES);

/// A graph with one disk, and a server that offers it.
pub(crate) struct Served<'s> {
    pub(crate) sim: &'s Sim,
    graph: SimGraph<'s>,
    network: Network,
    server: Arc<NbdServer>,
    pub(crate) disk: SimDisk,
    pub(crate) model: SharedModel,
    connections_max: u32,
}

pub(crate) fn address() -> Address {
    Address::Unix(PathBuf::from("nbd.sock"))
}

impl<'s> Served<'s> {
    pub(crate) fn start(sim: &'s Sim, options: ServerOptions) -> Self {
        Self::start_for(sim, options, 0)
    }

    /// The export takes so many connections at a time; 0: any number.
    pub(crate) fn start_for(sim: &'s Sim, options: ServerOptions, connections_max: u32) -> Self {
        let graph = SimGraph::start(sim);
        let network = PlayedNetwork::new(WireOptions::seeded(sim.seed())).network();
        let threads: Vec<_> = (1..=sim.io_threads()).map(|index| thread(&sim.io(index))).collect();
        let listener = network.listen(&address()).unwrap();
        let server = Arc::new(NbdServer::start(&threads, Listen::With(listener), options).unwrap());
        let disk = SimDisk::zeroed(DISK_BYTES, sim.seed());
        let node = SimDriver::node("disk", &disk);
        let add = async move |task: &mut Task<'_>| {
            let mut opening = Opening::new(task);
            opening.add(node)?;
            let mut plan = Plan::new();
            plan.insert(opening);
            task.apply(plan).await
        };
        graph.call(add).unwrap();
        let model = Rc::new(RefCell::new(ByteModel::zeroed(DISK_BYTES)));
        let served = Self { sim, graph, network, server, disk, model, connections_max };
        sim.block_on(&sim.control(), served.user().export()).unwrap().unwrap();
        served
    }

    /// For the tasks of a test.
    pub(crate) fn user(&self) -> User {
        User {
            control: self.graph.control().clone(),
            server: Arc::clone(&self.server),
            network: self.network.clone(),
            connections_max: self.connections_max,
        }
    }

    /// Stops the server; nothing is left then.
    pub(crate) fn finish(self) {
        let Self { sim, graph, network, server, .. } = self;
        drop(network);
        let stop = {
            let control = graph.control().clone();
            async move { control.call(async move |task: &mut Task<'_>| server.stop(task).await).await }
        };
        sim.block_on(&sim.control(), stop).unwrap().unwrap().unwrap();
        graph.finish();
    }
}

/// What tasks of a test do. Clones do it to the same server.
#[derive(Clone)]
pub(crate) struct User {
    control: Control,
    pub(crate) server: Arc<NbdServer>,
    pub(crate) network: Network,
    connections_max: u32,
}

impl User {
    pub(crate) async fn client(&self, local: &LocalRef) -> Result<NbdClient> {
        NbdClient::enter(&self.network, &address(), &Entry::to("disk"), local).await
    }

    /// Offers the disk.
    pub(crate) async fn export(&self) -> Result<()> {
        let server = Arc::clone(&self.server);
        let options = ExportOptions {
            node: "disk".into(),
            name: "disk".into(),
            writable: true,
            connections_max: self.connections_max,
            ..Default::default()
        };
        self.call(async move |task: &mut Task<'_>| server.add_export(task, options).await.map(drop)).await
    }

    pub(crate) async fn remove(&self, removal: Removal) -> Result<()> {
        let server = Arc::clone(&self.server);
        self.call(async move |task: &mut Task<'_>| server.remove_export(task, "disk", removal).await).await
    }

    /// Makes the disk quiet for a moment.
    pub(crate) async fn drain(&self) {
        self.drain_node("disk").await;
    }

    /// Makes a node quiet for a moment.
    pub(crate) async fn drain_node(&self, name: &'static str) {
        let drain = async move |task: &mut Task<'_>| {
            let node = task.gs().find(name)?;
            let quiet = task.drain(&[node]).await;
            drystone_core::runtime::yield_now().await;
            drop(quiet);
            Ok(())
        };
        self.call(drain).await.unwrap();
    }

    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.control.call(work).await.and_then(|done| done)
    }
}
