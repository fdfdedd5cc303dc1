//! [`Export`]: one node on offer, and [`Registry`]: all that a server offers.
//!
//! The control thread adds and removes exports; I/O threads look them up, once per handshake. A connection keeps the
//! export that it entered, also after that was removed from the registry.
//!
//! A client may use several connections to one export (`CAN_MULTI_CONN`): all of them use one root, nothing is cached for
//! a connection, and a flush of the node covers every write that ended before it, whichever connection it came on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future as _;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_core::backend::{Backend, ReadOnly, ReadWrite};
use drystone_core::control::GraphView;
use drystone_core::graph::node::{ChildKey, Node, NodeId};
use drystone_core::lane::Lane;
use drystone_nbd::wire::context::BASE_ALLOCATION;
use drystone_nbd::{ExportInfo, TransmissionFlags};
use drystone_sys::ThreadHandle;

/// The context that tells how deep in a chain of backing images bytes are (as release 10.0 names it).
pub(super) const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";
/// What contexts of dirty bitmaps begin with, before the name of the bitmap (as release 10.0 names them).
const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// What a context tells about.
pub(super) enum About<'e> {
    /// `base:allocation`.
    Allocation,
    /// `qemu:allocation-depth`.
    Depth,
    /// `qemu:dirty-bitmap:NAME`.
    Bitmap(&'e OfferedBitmap),
}

/// A dirty bitmap that clients can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportBitmap {
    /// The name of its node; without it, the exported node or the first one behind it that has such a bitmap.
    pub node: Option<String>,
    /// Its name.
    pub name: String,
}

/// A bitmap on offer: nobody can change it while it is.
pub(super) struct OfferedBitmap {
    node: Arc<Node>,
    name: String,
}

impl OfferedBitmap {
    /// Takes hold of a bitmap.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::InUse`], [`Kind::InvalidInput`] for one that cannot be told about.
    pub(super) fn hold(
        graph: &GraphView<'_>,
        export: NodeId,
        wanted: &ExportBitmap,
        writable: bool,
    ) -> Result<Self> {
        let name = &wanted.name;
        let first = match &wanted.node {
            Some(node) => graph.node_named(node).map(|node| node.id),
            None => Some(export),
        };
        let behind = |id: &NodeId| {
            let view = graph.view(*id).filter(|_| wanted.node.is_none())?;
            view.child(ChildKey::Backing)
        };
        let nodes = std::iter::successors(first, behind).filter_map(|id| graph.node_handle(id));
        let missing =
            || Error::new(Kind::NotFound, format!("there is no bitmap '{name}'")).in_option("bitmaps");
        let found = nodes.filter_map(|node| node.bitmaps().info(name).map(|info| (node, info))).next();
        let (node, info) = found.ok_or_else(missing)?;
        if info.busy {
            let text = format!("bitmap '{name}' is in use by another operation");
            return Err(Error::new(Kind::InUse, text).in_option("bitmaps"));
        }
        let is_exported = graph.node_handle(export).is_some_and(|node| !node.is_read_only());
        if !writable && is_exported && info.recording {
            let text = format!("bitmap '{name}' is enabled, and clients that only read would see it change");
            return Err(Error::new(Kind::InvalidInput, text).in_option("bitmaps"));
        }
        node.bitmaps().set_busy(name, true).map_err(|error| error.in_option("bitmaps"))?;
        Ok(Self { node, name: name.clone() })
    }

    /// Whether the first byte of `range` is dirty, and for how many bytes that is so.
    pub(super) fn run(&self, range: GuestRange) -> Result<(bool, u64)> {
        self.node.bitmaps().run(&self.name, range)
    }
}

impl Drop for OfferedBitmap {
    fn drop(&mut self) {
        // It may have gone with its node.
        let _ = self.node.bitmaps().set_busy(&self.name, false);
    }
}

/// How a node is offered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportOptions {
    /// The node's name in the graph.
    pub node: String,
    /// The export's name, by which clients ask for it: at most 4096 bytes, no NUL.
    pub name: String,
    /// A text for people: at most 4096 bytes, no NUL.
    pub description: String,
    /// Clients may write.
    pub writable: bool,
    /// A write is answered when it is on stable storage, as if every client asked for that.
    pub writethrough: bool,
    /// Clients that ask for no export by name get this one. The last one that was added with it wins.
    pub is_default: bool,
    /// Offer the context `qemu:allocation-depth`.
    pub allocation_depth: bool,
    /// Dirty bitmaps that are offered as contexts `qemu:dirty-bitmap:NAME`.
    pub bitmaps: Vec<ExportBitmap>,
    /// Most connections to this export at a time; 0: as many as the server takes.
    pub connections_max: u32,
    /// The I/O threads that serve its connections; those of the server if there are none.
    pub threads: Vec<ThreadHandle>,
}

/// One node on offer.
pub(super) struct Export {
    id: u64,
    options: ExportOptions,
    /// Of the disk, when somebody last looked.
    len_bytes: AtomicU64,
    bitmaps: Vec<OfferedBitmap>,
    pub(super) reader: Backend<ReadOnly>,
    pub(super) writer: Option<Backend<ReadWrite>>,
}

impl Export {
    /// Fails if the protocol cannot carry the names or the length.
    pub(super) fn new(
        id: u64,
        options: ExportOptions,
        len_bytes: u64,
        bitmaps: Vec<OfferedBitmap>,
        (reader, writer): (Backend<ReadOnly>, Option<Backend<ReadWrite>>),
    ) -> Result<Self> {
        let export = Self { id, options, len_bytes: AtomicU64::new(len_bytes), bitmaps, reader, writer };
        export.info().map(|_| export)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn options(&self) -> &ExportOptions {
        &self.options
    }

    /// Looks at the length of the disk, unless a drain keeps `lane` out. Nobody can resize what is on offer, but a snapshot
    /// can put a longer image on it.
    fn refresh(&self, lane: &mut Lane) {
        let entering = pin!(lane.enter(&self.reader));
        if let Poll::Ready(ticket) = entering.poll(&mut Context::from_waker(Waker::noop())) {
            self.len_bytes.store(ticket.len(), Ordering::Relaxed);
        }
    }

    /// What clients learn before they enter.
    fn info(&self) -> Result<ExportInfo> {
        let info = ExportInfo::new(self.id, &*self.options.name, self.len_bytes.load(Ordering::Relaxed))?
            .with_description(&*self.options.description)?
            .with_flags(self.flags())
            .with_context(BASE_ALLOCATION)?;
        let info = if self.options.allocation_depth { info.with_context(ALLOCATION_DEPTH)? } else { info };
        let mut names = self.bitmaps.iter().map(|bitmap| format!("{DIRTY_BITMAP}{}", bitmap.name));
        names.try_fold(info, ExportInfo::with_context)
    }

    /// What a context tells about, by its position in [`ExportInfo::contexts`].
    pub(super) fn about(&self, context: u32) -> About<'_> {
        let first_bitmap = 1 + u32::from(self.options.allocation_depth);
        let bitmap = context.checked_sub(first_bitmap).and_then(|index| usize::try_from(index).ok());
        match bitmap.and_then(|index| self.bitmaps.get(index)) {
            Some(bitmap) => About::Bitmap(bitmap),
            None if context == 0 => About::Allocation,
            None => About::Depth,
        }
    }

    fn flags(&self) -> TransmissionFlags {
        use TransmissionFlags as F;
        let both = [F::SEND_FLUSH, F::SEND_FUA, F::SEND_CACHE, F::SEND_DF];
        let both = both.into_iter().fold(F::BLOCK_STATUS_PAYLOAD, F::with);
        let both = if self.options.connections_max == 1 { both } else { both.with(F::CAN_MULTI_CONN) };
        match self.writer {
            None => both.with(F::READ_ONLY),
            Some(_) => both.with(F::SEND_TRIM).with(F::SEND_WRITE_ZEROES).with(F::SEND_FAST_ZERO),
        }
    }
}

/// The exports of one server, by name. Any thread.
#[derive(Default)]
pub(super) struct Registry(Mutex<Offered>);

#[derive(Default)]
struct Offered {
    /// The server stops: nothing is offered any more.
    is_over: bool,
    by_name: BTreeMap<String, Arc<Export>>,
    default: Option<Arc<Export>>,
}

impl Registry {
    fn offered(&self) -> MutexGuard<'_, Offered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `name` can still be given to an export.
    pub(super) fn demand_free(&self, name: &str) -> Result<()> {
        if self.offered().by_name.contains_key(name) {
            let text = format!("there is an NBD export '{name}' already");
            return Err(Error::new(Kind::AlreadyExists, text).in_option("name"));
        }
        Ok(())
    }

    pub(super) fn add(&self, export: Arc<Export>) -> Result<()> {
        self.demand_free(&export.options.name)?;
        let mut offered = self.offered();
        if offered.is_over {
            return Err(Error::new(Kind::Cancelled, "the NBD server stops"));
        }
        if export.options.is_default {
            offered.default = Some(Arc::clone(&export));
        }
        offered.by_name.insert(export.options.name.clone(), export);
        Ok(())
    }

    /// Takes an export off the offer.
    pub(super) fn remove(&self, name: &str) -> Result<Arc<Export>> {
        let mut offered = self.offered();
        let Some(export) = offered.by_name.remove(name) else {
            return Err(Error::new(Kind::NotFound, format!("there is no NBD export '{name}'")));
        };
        offered.default.take_if(|default| default.id == export.id);
        Ok(export)
    }

    /// Takes everything off the offer, for good.
    pub(super) fn close(&self) -> Vec<Arc<Export>> {
        let mut offered = self.offered();
        offered.is_over = true;
        offered.default = None;
        std::mem::take(&mut offered.by_name).into_values().collect()
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Export>> {
        let offered = self.offered();
        let named = offered.by_name.get(name);
        let default = if name.is_empty() { offered.default.as_ref() } else { None };
        named.or(default).cloned()
    }

    pub(super) fn by_id(&self, id: u64) -> Option<Arc<Export>> {
        self.offered().by_name.values().find(|export| export.id == id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Export>> {
        self.offered().by_name.values().cloned().collect()
    }
}

/// The exports as one handshake sees them.
pub(super) struct View<'a> {
    pub(super) registry: &'a Registry,
    /// The handshake's lane.
    pub(super) lane: RefCell<Lane>,
    /// Whether an export takes one more connection.
    pub(super) has_room: &'a dyn Fn(&Export) -> bool,
}

impl View<'_> {
    fn describe(&self, export: &Export) -> Option<Arc<ExportInfo>> {
        export.refresh(&mut self.lane.borrow_mut());
        // A disk that has grown past what the protocol can carry is not on offer any more.
        export.info().ok().map(Arc::new)
    }
}

impl drystone_nbd::Exports for View<'_> {
    fn find(&self, name: &str) -> Option<Arc<ExportInfo>> {
        let export = self.registry.find(name).filter(|export| (self.has_room)(export))?;
        self.describe(&export)
    }

    fn list(&self) -> Vec<Arc<ExportInfo>> {
        self.registry.all().iter().filter_map(|export| self.describe(export)).collect()
    }
}
