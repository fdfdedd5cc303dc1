//! [`Node`]: one box of the graph, as requests see it. Usable from every I/O thread; it has no home and no lock for its
//! links.
//!
//! ```text
//!              roots (exports, jobs, tools)      each behind a gate
//!                 |  Edge
//!              [ node ]  length, alignment, mode, observers, range locks
//!                 |  Edge(key, permissions)      in a Slot: written by a change only
//!              [ node ] ...
//! ```
//! The control thread keeps the rest (parents, versions, quiet counts) in `graph::shape`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::bitmap::NodeBitmaps;
use crate::damage::Damages;
use crate::driver::{Driver, NodeFacts};
use crate::graph::activity::{Activity, Counters};
use crate::graph::grace::Grace;
use crate::graph::permission::Perm;
use crate::graph::policy::{DetectZeroes, NodePolicy};
use crate::graph::slot::{Excluded, Slot};
use crate::request::chain::ChainCache;
use crate::request::flush::FlushState;
use crate::request::observe::Observers;
use crate::request::presence::Presence;
use crate::request::serialise::RangeLocks;
use crate::waits::Waits;

/// Identifies a node within one graph; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u64);

/// Which child of its parent an edge leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKey {
    /// `file`: what the node stores things in, or what it filters.
    File,
    /// `backing`: what shows through where the node has no data of its own.
    Backing,
    /// `data-file`: guest data apart from metadata.
    DataFile,
    /// A numbered child of a driver with many (`children.N`).
    Numbered(u16),
}

impl fmt::Display for ChildKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            Self::Backing => f.write_str("backing"),
            Self::DataFile => f.write_str("data-file"),
            Self::Numbered(index) => write!(f, "children.{index}"),
        }
    }
}

/// An edge to a child, as requests see it.
pub(crate) struct Edge {
    pub(crate) key: ChildKey,
    pub(crate) child: Arc<Node>,
    /// What the parent may do; rewritten by commits while requests read it.
    perm: AtomicU8,
}

impl Edge {
    pub(crate) fn new(key: ChildKey, child: Arc<Node>, perm: Perm) -> Self {
        Self { key, child, perm: AtomicU8::new(perm.bits()) }
    }

    pub(crate) fn perm(&self) -> Perm {
        Perm::from_bits(self.perm.load(Ordering::Relaxed))
    }

    pub(crate) fn set_perm(&self, perm: Perm) {
        self.perm.store(perm.bits(), Ordering::Relaxed);
    }
}

/// The edges of a node to its children.
pub(crate) type Edges = SmallVec<[Arc<Edge>; 2]>;

/// One node of the graph: a driver with its place.
pub struct Node {
    id: NodeId,
    name: String,
    driver: Box<dyn Driver>,
    hears_events: bool,
    edges: Slot<Edges>,
    len: AtomicU64,
    alignment: AtomicU32,
    read_only: AtomicBool,
    active: AtomicBool,
    policy: AtomicU8,
    pub(crate) observers: Observers,
    pub(crate) ranges: RangeLocks,
    pub(crate) waits: Arc<Waits>,
    pub(crate) damages: Arc<Damages>,
    pub(crate) flush: FlushState,
    pub(crate) grace: Grace,
    pub(crate) chain: ChainCache,
    pub(crate) counters: Counters,
}

impl Node {
    pub(crate) fn new(
        id: NodeId,
        name: String,
        driver: Box<dyn Driver>,
        facts: NodeFacts,
        (waits, damages): (&Arc<Waits>, &Arc<Damages>),
    ) -> Self {
        assert!(facts.request_alignment.is_power_of_two());
        let observers = Observers::default();
        observers.bitmaps.set_read_only(facts.read_only);
        observers.bitmaps.load(facts.len, driver.take_loaded_bitmaps());
        Self {
            id,
            name,
            hears_events: driver.hears_events(),
            driver,
            edges: Slot::new(Edges::new()),
            len: AtomicU64::new(facts.len),
            alignment: AtomicU32::new(facts.request_alignment),
            read_only: AtomicBool::new(facts.read_only),
            active: AtomicBool::new(true),
            policy: AtomicU8::new(0),
            observers,
            ranges: RangeLocks::default(),
            waits: Arc::clone(waits),
            damages: Arc::clone(damages),
            flush: FlushState::default(),
            grace: Grace::default(),
            chain: ChainCache::default(),
            counters: Counters::default(),
        }
    }

    /// The node's identity.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The node's name, unique in its graph.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's driver.
    #[must_use]
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// The driver as `D`, if that is what it is.
    #[must_use]
    pub fn driver_as<D: Driver>(&self) -> Option<&D> {
        (&*self.driver as &dyn Any).downcast_ref()
    }

    /// Length of the disk that the node shows, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether the disk has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Release);
        self.observers.bitmaps.resize(len);
    }

    /// A write has ended at `end`: the disk is at least that long now.
    pub(crate) fn grow_len(&self, end: u64) {
        if self.len.fetch_max(end, Ordering::AcqRel) < end {
            self.observers.bitmaps.grow(end);
        }
    }

    /// Offset, length and memory of requests to the node's own device must be multiples of this; 1 if it does not care.
    #[must_use]
    pub fn request_alignment(&self) -> u32 {
        self.alignment.load(Ordering::Relaxed)
    }

    pub(crate) fn set_request_alignment(&self, alignment: u32) {
        assert!(alignment.is_power_of_two());
        self.alignment.store(alignment, Ordering::Relaxed);
    }

    /// Whether writes are refused whatever permissions a user has.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::Relaxed);
        self.observers.bitmaps.set_read_only(read_only);
    }

    /// Whether this process may write to the node and keep caches of it (see `blockdev-set-active`).
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn set_active(&self, active: bool) {
        if !active {
            // Another process may change what is stored.
            self.observers.bitmaps.forget_persistent();
        }
        self.active.store(active, Ordering::Relaxed);
    }

    /// What the node makes of zeroes and of discards.
    #[must_use]
    pub fn policy(&self) -> NodePolicy {
        NodePolicy::from_bits(self.policy.load(Ordering::Relaxed))
    }

    pub(crate) fn set_policy(&self, policy: NodePolicy) {
        self.policy.store(policy.to_bits(), Ordering::Relaxed);
    }

    /// What requests have done to the node since it was opened.
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.counters.now()
    }

    /// The node's dirty bitmaps.
    #[must_use]
    pub fn bitmaps(&self) -> &NodeBitmaps {
        &self.observers.bitmaps
    }

    pub(crate) fn hears_events(&self) -> bool {
        self.hears_events
    }

    pub(crate) fn detects_zeroes(&self) -> bool {
        self.policy().detect_zeroes != DetectZeroes::Off
    }

    pub(crate) fn child<'t>(&'t self, key: ChildKey, inside: &'t Presence) -> Option<&'t Edge> {
        self.edges.get(inside).iter().find(|edge| edge.key == key).map(|edge| &**edge)
    }

    pub(crate) fn replace_edges(&self, proof: &Excluded, edges: Edges) -> Edges {
        self.edges.replace(proof, edges)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} '{}' {})", self.id.0, self.name, self.driver.format_name())
    }
}
