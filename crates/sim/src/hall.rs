//! [`Hall`]: where NBD clients come in: the server, on all threads of a run, and the network between.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drystone_base::Result;
use drystone_core::control::Task;
use drystone_core::runtime::LocalRef;
use drystone_export::nbd::{Listen, NbdServer, ServerOptions};
use drystone_played::nbd::{Entry, NbdClient};
use drystone_sys::played::{PlayedNetwork, WireOptions, thread};
use drystone_sys::{Address, Network};
use drystone_testkit::sim::Sim;

use crate::stage::Stage;

/// A server, and the way to it.
pub(crate) struct Hall {
    pub(crate) server: Arc<NbdServer>,
    network: Network,
    exports: AtomicU64,
}

impl Hall {
    /// A server without exports.
    pub(crate) fn start(sim: &Sim) -> Result<Self> {
        let network = PlayedNetwork::new(WireOptions::seeded(sim.seed())).network();
        let threads: Vec<_> = (1..=sim.io_threads()).map(|index| thread(&sim.io(index))).collect();
        let listener = network.listen(&address())?;
        let server = NbdServer::start(&threads, Listen::With(listener), ServerOptions::default())?;
        Ok(Self { server: Arc::new(server), network, exports: AtomicU64::new(0) })
    }

    /// A name for an export that no other one has.
    pub(crate) fn next_name(&self) -> String {
        format!("n{}", self.exports.fetch_add(1, Ordering::SeqCst))
    }

    /// A client of an export, on the thread `local`.
    pub(crate) async fn enter(&self, export: &str, local: &LocalRef) -> Result<NbdClient> {
        NbdClient::enter(&self.network, &address(), &Entry::to(export), local).await
    }
}

impl Stage {
    /// Nobody comes in any more, and nothing of the server is left.
    pub(crate) async fn close_hall(&self) -> Result<()> {
        let Some(hall) = &self.hall else { return Ok(()) };
        let server = Arc::clone(&hall.server);
        self.on_control(async move |task: &mut Task<'_>| server.stop(task).await).await
    }
}

fn address() -> Address {
    Address::Unix(PathBuf::from("nbd.sock"))
}
