//! [`NbdServer`]: one listening socket, its exports and its connections.
//!
//! ```text
//!   control thread:  start ... add_export, remove_export ... stop
//!   I/O thread 0:    accept ──► each connection lives on the I/O thread that had the fewest
//! ```
//! Adding an export is a plan that attaches a root; removing one ends its connections first and takes the root out then.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use drystone_base::{Error, Kind, Result};
use drystone_buf::Pool;
use drystone_core::backend::{Backend, ReadWrite, RootId, Statistics};
use drystone_core::control::{Plan, RootSpec, Task};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::lane::Lane;
use drystone_core::runtime::Shard;
use drystone_nbd::uri;
use drystone_sys::{Address, Closer, Listener, ThreadHandle};

use super::connection;
use super::crowd::{Crowd, Of};
use super::export::{Export, ExportOptions, OfferedBitmap, Registry};
use super::load::Limits;
use super::peer::SocketSink;

/// Unused memory that one I/O thread keeps for each size of buffer.
const POOL_BYTES: usize = 8 << 20;

/// Where a server listens.
pub enum Listen {
    /// At an address; a unix socket's path is removed at the end.
    At(Address),
    /// With a socket that listens already.
    Inherited(OwnedFd),
    /// With a listener that somebody has made.
    With(Listener),
}

/// How a server treats its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerOptions {
    /// Most connections at a time; 0: any number. More wait until one has gone.
    pub connections_max: u32,
    /// How long a handshake may take, in nanoseconds.
    pub handshake_ns: u64,
    /// What one connection may occupy.
    pub limits: Limits,
}

impl Default for ServerOptions {
    /// 100 connections and ten seconds, as release 10.0 of the C tools.
    fn default() -> Self {
        Self { connections_max: 100, handshake_ns: 10_000_000_000, limits: Limits::default() }
    }
}

/// What a removal does to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Fails if there are any.
    Safe,
    /// Ends them: what has entered the graph is finished and answered, the rest is not.
    Hard,
}

/// What an export is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportStatistics {
    /// Connections now.
    pub connections: usize,
    /// Requests so far.
    pub requests: Statistics,
}

/// What all threads share of one server.
pub(super) struct Shared {
    address: Address,
    options: ServerOptions,
    pub(super) registry: Registry,
    pub(super) crowd: Arc<Crowd>,
    /// One for each thread that has served.
    pools: Mutex<BTreeMap<Shard, Pool>>,
    threads: Vec<ThreadHandle>,
    accepting: Mutex<Accepting>,
    exports: AtomicU64,
}

/// Whether connections are still taken.
#[derive(Default)]
struct Accepting {
    is_over: bool,
    waiting: Option<Waker>,
}

impl Shared {
    pub(super) fn options(&self) -> &ServerOptions {
        &self.options
    }

    pub(super) fn pool(&self, thread: Shard) -> Pool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.entry(thread).or_insert_with(|| Pool::new(POOL_BYTES)).clone()
    }

    fn accepting(&self) -> MutexGuard<'_, Accepting> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An NBD server. Lives until it is stopped; whoever drops it without [`NbdServer::stop`] leaves its exports in the graph
/// and its connections served, but no new ones are taken.
pub struct NbdServer {
    shared: Arc<Shared>,
    closer: Closer,
    /// Until connections are taken.
    listener: Mutex<Option<Listener>>,
}

impl NbdServer {
    /// Starts to listen. The first of `threads` takes connections and all of them serve.
    ///
    /// # Errors
    /// Those of [`Listener::bind`]; [`Kind::InvalidInput`] without a thread; [`Kind::Cancelled`] if the thread has ended.
    pub fn start(threads: &[ThreadHandle], listen: Listen, options: ServerOptions) -> Result<Self> {
        let server = Self::bind(threads, listen, options)?;
        server.open()?;
        Ok(server)
    }

    /// As [`Self::start`], but clients wait until [`Self::open`]: none finds a server whose exports are not there yet.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn bind(threads: &[ThreadHandle], listen: Listen, options: ServerOptions) -> Result<Self> {
        if threads.is_empty() {
            return Err(Error::new(Kind::InvalidInput, "an NBD server needs an I/O thread"));
        }
        let listener = match listen {
            Listen::At(address) => Listener::bind(&address)?,
            Listen::Inherited(fd) => Listener::from_fd(fd)?,
            Listen::With(listener) => listener,
        };
        let shared = Arc::new(Shared {
            address: listener.address().clone(),
            options,
            registry: Registry::default(),
            crowd: Arc::default(),
            pools: Mutex::default(),
            threads: threads.to_vec(),
            accepting: Mutex::default(),
            exports: AtomicU64::new(0),
        });
        Ok(Self { shared, closer: listener.closer(), listener: Mutex::new(Some(listener)) })
    }

    /// Takes connections from now on. Nothing if it does already.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if the first thread has ended.
    pub fn open(&self) -> Result<()> {
        let Some((listener, first)) = self.take_listener().zip(self.shared.threads.first()) else {
            return Ok(());
        };
        let shared = Arc::clone(&self.shared);
        first.spawn(move |local| accept(shared, listener, Lane::new(local)))
    }

    fn take_listener(&self) -> Option<Listener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Where the server listens, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// The URI of an export; the empty name stands for the default export.
    #[must_use]
    pub fn uri(&self, export: &str) -> uri::Uri {
        let address = match &self.shared.address {
            Address::Unix(path) => uri::Address::Unix { socket: path.clone() },
            Address::Tcp(address) if address.ip().is_unspecified() => {
                uri::Address::Tcp { host: "localhost".into(), port: address.port() }
            }
            Address::Tcp(address) => {
                uri::Address::Tcp { host: address.ip().to_string(), port: address.port() }
            }
        };
        uri::Uri { address, export: export.to_owned() }
    }

    /// Offers a node; the root by which the export uses it.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if there is an export of that name; [`Kind::NotFound`] if there is no such node; those of
    /// the plan: a conflict with another user of the node, a read-only node.
    pub async fn add_export(&self, task: &mut Task<'_>, options: ExportOptions) -> Result<RootId> {
        let registry = &self.shared.registry;
        registry.demand_free(&options.name)?;
        let node = task.gs().find(&options.node)?;
        let bitmaps = task.gs().with(|graph| {
            let hold = |wanted| OfferedBitmap::hold(graph, node, wanted, options.writable);
            options.bitmaps.iter().map(hold).collect::<Result<Vec<_>>>()
        })?;
        let (plan, export) = self.plan_export(task, node, options, bitmaps)?;
        task.apply(plan).await?;
        let export = Arc::new(export);
        if let Err(error) = registry.add(Arc::clone(&export)) {
            detach(task, &export).await?;
            return Err(error);
        }
        Ok(export.reader.id())
    }

    /// Semantics of the C tools: an export shares every permission but that to change the length of its disk, which its
    /// clients were told.
    fn plan_export(
        &self,
        task: &Task<'_>,
        node: NodeId,
        options: ExportOptions,
        bitmaps: Vec<OfferedBitmap>,
    ) -> Result<(Plan, Export)> {
        let gs = task.gs();
        let len_bytes = gs.with(|graph| graph.node(node)).map_or(0, |node| node.len);
        let perm =
            if options.writable { Perm::CONSISTENT_READ.with(Perm::WRITE) } else { Perm::CONSISTENT_READ };
        let name = format!("NBD export '{}'", options.name);
        let spec =
            RootSpec { name, grant: Grant { perm, shared: Perm::ALL.without(Perm::RESIZE) }, stays: false };
        let mut plan = Plan::new();
        let backends = if options.writable {
            let writer: Backend<ReadWrite> = plan.attach_root(gs, node, spec);
            (writer.reader(), Some(writer))
        } else {
            (plan.attach_root(gs, node, spec), None)
        };
        let id = self.shared.exports.fetch_add(1, Ordering::Relaxed);
        Ok((plan, Export::new(id, options, len_bytes, bitmaps, backends)?))
    }

    /// Takes an export off the offer, waits until its connections have ended, flushes its disk if it was writable, and
    /// takes it out of the graph. Not while the caller keeps its nodes quiet.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InUse`] if it has connections and `removal` is [`Removal::Safe`]; those of the last
    /// flush, after which the export is gone all the same.
    pub async fn remove_export(&self, task: &mut Task<'_>, name: &str, removal: Removal) -> Result<()> {
        let Shared { registry, crowd, .. } = &*self.shared;
        let export = registry.remove(name)?;
        let of = Of::Export(export.id());
        let connections = crowd.count(of);
        if removal == Removal::Safe && connections > 0 {
            registry.add(export)?;
            let text = format!("the NBD export '{name}' has {connections} connections");
            return Err(Error::new(Kind::InUse, text));
        }
        crowd.close(of);
        task.attend(&[export.reader.id()], crowd.fewer_than(of, 1)).await;
        retire(task, &export).await
    }

    /// Takes no more connections, waits until those that are there have ended, flushes, and takes all exports out of the
    /// graph. Not while the caller keeps their nodes quiet. To be called once.
    ///
    /// # Errors
    /// The first of those of the last flushes; everything is gone all the same.
    pub async fn stop(&self, task: &mut Task<'_>) -> Result<()> {
        let is_open = self.take_listener().is_none();
        let Shared { registry, crowd, .. } = &*self.shared;
        let exports = registry.close();
        self.closer.close();
        crowd.close(Of::Server);
        if is_open {
            self.accepted_last().await;
        }
        // One more may have come in between.
        crowd.close(Of::Server);
        let roots: Vec<_> = exports.iter().map(|export| export.reader.id()).collect();
        task.attend(&roots, crowd.fewer_than(Of::Server, 1)).await;
        let mut result = Ok(());
        for export in exports {
            result = result.and(retire(task, &export).await);
        }
        result
    }

    async fn accepted_last(&self) {
        poll_fn(|cx| {
            let mut accepting = self.shared.accepting();
            if accepting.is_over {
                return Poll::Ready(());
            }
            accepting.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The exports, by name.
    #[must_use]
    pub fn exports(&self) -> Vec<(ExportOptions, ExportStatistics)> {
        let crowd = &self.shared.crowd;
        let describe = |export: &Arc<Export>| {
            let connections = crowd.count(Of::Export(export.id()));
            let requests = export.reader.statistics();
            (export.options().clone(), ExportStatistics { connections, requests })
        };
        self.shared.registry.all().iter().map(describe).collect()
    }

    /// Waits until the last client goes: one that had entered an export, and left nobody behind.
    pub async fn deserted(&self) {
        self.shared.crowd.deserted().await;
    }

    /// Connections now, and since the server was started.
    #[must_use]
    pub fn connections(&self) -> (usize, u64) {
        (self.shared.crowd.count(Of::Server), self.shared.crowd.joined())
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.closer.close();
    }
}

/// Flushes an export that nobody uses any more and takes it out of the graph.
async fn retire(task: &mut Task<'_>, export: &Export) -> Result<()> {
    let flushed = match &export.writer {
        Some(writer) => task.flush(writer).await,
        None => Ok(()),
    };
    detach(task, export).await.and(flushed)
}

async fn detach(task: &mut Task<'_>, export: &Export) -> Result<()> {
    let mut plan = Plan::new();
    plan.detach_root(export.reader.id());
    task.apply(plan).await
}

/// Which threads they are.
pub(super) fn shards(threads: &[ThreadHandle]) -> Vec<Shard> {
    threads.iter().map(ThreadHandle::shard).collect()
}

/// Takes connections until the listener is closed.
async fn accept(shared: Arc<Shared>, listener: Listener, mut lane: Lane) {
    let max = usize::try_from(shared.options.connections_max).unwrap_or(usize::MAX);
    loop {
        if max != 0 {
            shared.crowd.fewer_than(Of::Server, max).await;
        }
        let Ok(stream) = listener.accept(&mut lane).await else { break };
        let (place, thread) = shared.crowd.join(&shards(&shared.threads));
        let Some(handle) = shared.threads.iter().find(|handle| handle.shard() == thread) else { continue };
        let (closer, shared) = (stream.closer(), Arc::clone(&shared));
        // A thread that has ended drops the connection.
        let _ = handle.spawn(move |local| {
            let (receiver, sender) = stream.split();
            connection::serve(local, (receiver, SocketSink { sender, closer }), shared, place)
        });
    }
    // The path goes before anybody is told that the end has come.
    drop(listener);
    let waiting = {
        let mut accepting = shared.accepting();
        accepting.is_over = true;
        accepting.waiting.take()
    };
    if let Some(waiting) = waiting {
        waiting.wake();
    }
}
