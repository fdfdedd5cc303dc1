//! [`Exports`]: the NBD server and what is on offer.
//!
//! ```text
//!   nbd-server-start ─► server ─ block-export-add ─► export ─ block-export-del ─► gone, BLOCK_EXPORT_DELETED
//!                         └───────────── nbd-server-stop: the same for all exports, the last one first
//! ```
//! Invariants: commands on exports take turns; an export is in the list from the moment at which it holds its node until
//! it has given it up; whoever hears that an export is gone can delete its node.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_core::backend::RootId;
use drystone_core::control::Task;
use drystone_export::nbd::{ExportOptions, Listen, NbdServer, Removal, ServerOptions};
use drystone_filter::copy_on_read::entry;
use drystone_qmp::schema::events::{BlockExportDeleted, Event};
use drystone_sys::{Address, Network, ThreadHandle};

use crate::daemon::Daemon;
use crate::objects::is_identifier;
use crate::turn::Turn;

/// The NBD server and the exports.
pub(crate) struct Exports {
    /// Serve what names no thread of its own.
    threads: Vec<ThreadHandle>,
    turn: Turn,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    server: Option<Arc<NbdServer>>,
    /// In the order in which they were added.
    exports: Vec<Export>,
}

/// An export.
#[derive(Clone)]
struct Export {
    id: String,
    name: String,
    root: RootId,
    /// The I/O thread that it named.
    iothread: Option<String>,
    is_ending: bool,
    /// Whoever takes it away has it; taking it waits for that.
    end: Rc<Turn>,
}

/// An export to be added.
pub(crate) struct NewExport {
    /// By which commands know it.
    pub(crate) id: String,
    /// What is offered; its threads are filled in.
    pub(crate) options: ExportOptions,
    /// The object whose thread serves it.
    pub(crate) iothread: Option<String>,
}

/// The name of the node at which clients of `node` write: a filter of a job above it must see what they do.
fn entry_of(task: &Task<'_>, node: String) -> String {
    let Ok(id) = task.gs().find(&node) else { return node };
    let entry = task.gs().with(|graph| graph.node(entry(graph, id)));
    entry.map_or(node, |entry| entry.name)
}

/// An export, for reports.
pub(crate) struct ExportReport {
    /// By which commands know it.
    pub(crate) id: String,
    /// The name of its node.
    pub(crate) node: String,
    /// It is being removed.
    pub(crate) is_ending: bool,
}

impl Exports {
    /// No server, no exports.
    pub(crate) fn new(threads: Vec<ThreadHandle>) -> Self {
        Self { threads, turn: Turn::default(), state: RefCell::default() }
    }

    /// Starts the server.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`]; those of listening.
    pub(crate) async fn start(
        &self,
        network: &Network,
        addresses: Vec<Address>,
        options: ServerOptions,
    ) -> Result<()> {
        let _turn = self.turn.take().await;
        if self.state.borrow().server.is_some() {
            return Err(Error::new(Kind::AlreadyExists, "the NBD server is running already"));
        }
        let mut result = Err(Error::new(Kind::InvalidInput, "there is no address to listen at"));
        for address in addresses {
            let listening = network.listen(&address);
            result = listening
                .and_then(|listener| NbdServer::start(&self.threads, Listen::With(listener), options));
            if result.is_ok() {
                break;
            }
        }
        self.state.borrow_mut().server = Some(Arc::new(result?));
        Ok(())
    }

    /// Ends all exports and the server.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no server; the first of those of the last flushes, after which all is gone.
    pub(crate) async fn stop(&self, daemon: &Daemon) -> Result<()> {
        let _turn = self.turn.take().await;
        self.server()?;
        self.stop_in_turn(daemon).await
    }

    /// The same at the end, whether there is a server or not.
    ///
    /// # Errors
    /// As for [`Self::stop`].
    pub(crate) async fn stop_all(&self, daemon: &Daemon) -> Result<()> {
        let _turn = self.turn.take().await;
        self.stop_in_turn(daemon).await
    }

    async fn stop_in_turn(&self, daemon: &Daemon) -> Result<()> {
        let Some(server) = self.state.borrow_mut().server.take() else { return Ok(()) };
        let mut result = Ok(());
        let exports: Vec<Export> = self.state.borrow().exports.iter().rev().cloned().collect();
        for export in exports {
            // It may be on its way out already, and waits for nobody who waits for us.
            let _end = export.end.take().await;
            if self.find(|other| Rc::ptr_eq(&other.end, &export.end)).is_some() {
                result = result.and(self.end(daemon, &server, &export, Removal::Hard).await);
            }
        }
        result.and(daemon.on_control(async move |task: &mut Task<'_>| server.stop(task).await).await)
    }

    fn server(&self) -> Result<Arc<NbdServer>> {
        let server = self.state.borrow().server.clone();
        server.ok_or_else(|| Error::new(Kind::NotFound, "the NBD server is not running"))
    }

    /// Offers a node.
    ///
    /// # Errors
    /// [`Kind::InvalidInput`] for an id that is none; [`Kind::AlreadyExists`]; [`Kind::NotFound`] without a server, node or
    /// thread; those of [`NbdServer::add_export`].
    pub(crate) async fn add(&self, daemon: &Daemon, new: NewExport) -> Result<()> {
        let _turn = self.turn.take().await;
        let NewExport { id, mut options, iothread } = new;
        if !is_identifier(&id) {
            return Err(Error::new(Kind::InvalidInput, "this is no identifier").in_option("id"));
        }
        if self.find(|export| export.id == id).is_some() {
            return Err(Error::new(Kind::AlreadyExists, format!("there is an export '{id}' already")));
        }
        let server = self.server()?;
        if let Some(iothread) = &iothread {
            options.threads = vec![daemon.objects.thread(iothread)?];
        }
        let name = options.name.clone();
        let added = daemon.on_control(async move |task: &mut Task<'_>| {
            if options.writable {
                options.node = entry_of(task, options.node);
            }
            server.add_export(task, options).await
        });
        let root = added.await?;
        let end = Rc::default();
        self.state.borrow_mut().exports.push(Export { id, name, root, iothread, is_ending: false, end });
        Ok(())
    }

    /// Takes the export with this id off the offer, and waits until it is gone.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InUse`] if it has clients and `removal` is [`Removal::Safe`]; those of the last flush,
    /// after which it is gone.
    pub(crate) async fn remove(&self, daemon: &Daemon, id: &str, removal: Removal) -> Result<()> {
        let text = || format!("there is no export '{id}'");
        self.remove_one(daemon, (|export| export.id == id, text), removal).await
    }

    /// The same, by the name that clients know.
    ///
    /// # Errors
    /// As for [`Self::remove`].
    pub(crate) async fn remove_named(&self, daemon: &Daemon, name: &str, removal: Removal) -> Result<()> {
        // One of that name may have come while another is on its way out.
        let is_it = |export: &Export| export.name == name && !export.is_ending;
        let text = || format!("there is no NBD export '{name}'");
        self.remove_one(daemon, (is_it, text), removal).await
    }

    /// Its last requests may take long, so that is nobody else's turn.
    async fn remove_one(
        &self,
        daemon: &Daemon,
        (is_it, text): (impl Fn(&Export) -> bool, impl Fn() -> String),
        removal: Removal,
    ) -> Result<()> {
        let turn = self.turn.take().await;
        let export = self.find(is_it).ok_or_else(|| Error::new(Kind::NotFound, text()))?;
        let server = self.server()?;
        if export.is_ending {
            let text = format!("the export '{}' is being removed already", export.id);
            return Err(Error::new(Kind::InUse, text));
        }
        let _end = export.end.take().await;
        self.mark(&export.id, true);
        drop(turn);
        self.end(daemon, &server, &export, removal).await
    }

    async fn end(
        &self,
        daemon: &Daemon,
        server: &Arc<NbdServer>,
        export: &Export,
        removal: Removal,
    ) -> Result<()> {
        self.mark(&export.id, true);
        let (server, name) = (Arc::clone(server), export.name.clone());
        let removed = daemon
            .on_control(async move |task: &mut Task<'_>| server.remove_export(task, &name, removal).await)
            .await;
        if removal == Removal::Safe && removed.as_ref().is_err_and(|error| error.kind() == Kind::InUse) {
            self.mark(&export.id, false);
            return removed;
        }
        self.state.borrow_mut().exports.retain(|other| other.id != export.id);
        daemon.events.emit(Event::BlockExportDeleted(BlockExportDeleted { id: export.id.clone() }));
        removed
    }

    fn mark(&self, id: &str, is_ending: bool) {
        if let Some(export) = self.state.borrow_mut().exports.iter_mut().find(|export| export.id == id) {
            export.is_ending = is_ending;
        }
    }

    fn find(&self, is_meant: impl Fn(&Export) -> bool) -> Option<Export> {
        self.state.borrow().exports.iter().find(|export| is_meant(export)).cloned()
    }

    /// Whether an export is served by the thread of this object.
    pub(crate) fn uses(&self, iothread: &str) -> bool {
        self.find(|export| export.iothread.as_deref() == Some(iothread)).is_some()
    }

    /// The exports, the newest one first.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] at the very end.
    pub(crate) async fn report(&self, daemon: &Daemon) -> Result<Vec<ExportReport>> {
        let listed = |export: &Export| (export.root, export.id.clone(), export.is_ending);
        let exports: Vec<_> = self.state.borrow().exports.iter().rev().map(listed).collect();
        let work = async move |task: &mut Task<'_>| {
            Ok(task.gs().with(|graph| {
                let roots = graph.roots();
                let node_of = |root| {
                    let info = roots.iter().find(|info| info.id == root)?;
                    graph.node(info.node?).map(|node| node.name)
                };
                let report = |(root, id, is_ending)| {
                    let node = node_of(root).unwrap_or_default();
                    ExportReport { id, node, is_ending }
                };
                exports.into_iter().map(report).collect()
            }))
        };
        daemon.on_control(work).await
    }
}
