//! [`Gs`]: the global state, lent to control tasks.

use std::any::Any;
use std::cell::{Cell, Ref, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};

use crate::backend::RootId;
use crate::control::rights::Rights;
use crate::control::step::{Demand, ask};
use crate::damage::Damages;
use crate::graph::node::{ChildKey, Node, NodeId};
use crate::graph::permission::Grant;
use crate::graph::role::Role;
use crate::graph::shape::{NodeShape, Parent, Place, Shape, Topology};
use crate::runtime::{LocalRef, StaysOnItsThread};
use crate::waits::Waits;

/// The global state: the right to look at the graph and to plan changes of it.
///
/// It belongs to the control thread, is lent to control tasks ([`crate::control::Task::gs`]) and cannot be kept, sent or
/// copied. What is in it is looked at in synchronous closures, so nothing borrowed from the graph is alive across an await.
pub struct Gs {
    pub(crate) inner: Rc<Inner>,
    _thread: PhantomData<StaysOnItsThread>,
}

/// What the control thread owns.
pub(crate) struct Inner {
    pub(crate) shape: RefCell<Shape>,
    pub(crate) rights: RefCell<Rights>,
    pub(crate) waits: Arc<Waits>,
    pub(crate) damages: Arc<Damages>,
    pub(crate) shards: u16,
    pub(crate) local: LocalRef,
    next_id: Cell<u64>,
}

impl Inner {
    pub(crate) fn new(local: LocalRef, shards: u16) -> Self {
        Self {
            shape: RefCell::default(),
            rights: RefCell::default(),
            waits: Arc::default(),
            damages: Arc::default(),
            shards,
            local,
            next_id: Cell::new(0),
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }
}

impl Gs {
    pub(crate) fn new(inner: Rc<Inner>) -> Self {
        Self { inner, _thread: PhantomData }
    }

    /// Looks at the graph. The closure cannot wait and returns nothing that borrows from it.
    pub fn with<T>(&self, look: impl FnOnce(&GraphView<'_>) -> T) -> T {
        look(&GraphView::of(&self.inner))
    }

    /// Who waits for what in this graph: see [`Waits`].
    #[must_use]
    pub fn waits(&self) -> &Arc<Waits> {
        &self.inner.waits
    }

    /// The node called `name`.
    pub fn find(&self, name: &str) -> Result<NodeId> {
        let found = self.inner.shape.borrow().names.get(name).copied();
        found.ok_or_else(|| Error::new(Kind::NotFound, "there is no such node").on_node(name))
    }
}

/// The graph, as it is between two commits.
pub struct GraphView<'g> {
    shape: Ref<'g, Shape>,
}

/// One node, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its identity.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its driver's name.
    pub format_name: &'static str,
    /// Length of its disk in bytes.
    pub len: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// This process may write and cache.
    pub active: bool,
    /// In how many quiet sections it is.
    pub quiet: u32,
    /// What its users want and share together.
    pub users: Grant,
    /// Its layers below cannot change now, and walks through it are remembered.
    pub settled: bool,
    /// It stays when its last user goes.
    pub owned: bool,
    /// Its edges.
    pub edges: Vec<EdgeInfo>,
}

/// One node with its place, borrowed from the graph: for reports of many, which copy what they need.
#[derive(Clone, Copy)]
pub struct NodeView<'v> {
    id: NodeId,
    shape: &'v NodeShape,
}

impl<'v> NodeView<'v> {
    /// Its identity.
    #[must_use]
    pub fn id(self) -> NodeId {
        self.id
    }

    /// The node itself, for its driver's facts.
    #[must_use]
    pub fn node(self) -> &'v Arc<Node> {
        &self.shape.node
    }

    /// Whether it stays when its last user goes.
    #[must_use]
    pub fn is_owned(self) -> bool {
        self.shape.owned
    }

    /// Its children, in the order in which they were attached.
    pub fn children(self) -> impl DoubleEndedIterator<Item = (ChildKey, NodeId)> + 'v {
        self.shape.edges.iter().map(|edge| (edge.key, edge.child))
    }

    /// One child.
    #[must_use]
    pub fn child(self, key: ChildKey) -> Option<NodeId> {
        Some(self.shape.edge(key)?.child)
    }

    /// What is remembered of it: see [`crate::control::Plan::remember`].
    #[must_use]
    pub fn memo(self) -> Option<&'v Rc<dyn Any>> {
        self.shape.memo.as_ref()
    }
}

/// One edge, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeInfo {
    /// Which child of its parent.
    pub key: ChildKey,
    /// What the child is for.
    pub role: Role,
    /// The child.
    pub child: NodeId,
    /// What the parent wants and shares.
    pub grant: Grant,
    /// It cannot be moved now.
    pub frozen: bool,
}

/// One root, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootInfo {
    /// Its identity.
    pub id: RootId,
    /// Its user's name.
    pub name: String,
    /// Its node.
    pub node: Option<NodeId>,
    /// What it wants and shares.
    pub grant: Grant,
    /// It stays where it is when its node is replaced: the user is a job.
    pub stays: bool,
    /// A drain keeps new requests out.
    pub closed: bool,
}

impl<'g> GraphView<'g> {
    pub(crate) fn of(inner: &'g Inner) -> Self {
        Self { shape: inner.shape.borrow() }
    }
}

impl GraphView<'_> {
    /// Every node, in the order in which they were opened.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeInfo> {
        self.shape.nodes.keys().filter_map(|id| self.node(*id)).collect()
    }

    /// Every node, in the order in which they were opened, without copying anything.
    pub fn views(&self) -> impl DoubleEndedIterator<Item = NodeView<'_>> {
        self.shape.nodes.iter().map(|(id, shape)| NodeView { id: *id, shape })
    }

    /// One node, without copying anything.
    #[must_use]
    pub fn view(&self, id: NodeId) -> Option<NodeView<'_>> {
        Some(NodeView { id, shape: self.shape.node(id)? })
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<NodeInfo> {
        let shape = self.shape.node(id)?;
        let edges = shape.edges.iter().map(|edge| EdgeInfo {
            key: edge.key,
            role: edge.role,
            child: edge.child,
            grant: edge.grant,
            frozen: !edge.frozen.is_empty(),
        });
        Some(NodeInfo {
            id,
            name: shape.node.name().to_owned(),
            format_name: shape.node.driver().format_name(),
            len: shape.node.len(),
            read_only: shape.read_only,
            active: shape.active,
            quiet: [Place::Node(id), Place::Everything]
                .iter()
                .filter_map(|place| self.shape.quiet.get(place))
                .sum(),
            users: shape.users,
            settled: shape.node.chain.is_settled(),
            owned: shape.owned,
            edges: edges.collect(),
        })
    }

    /// The node itself, for its driver's facts.
    #[must_use]
    pub fn node_handle(&self, id: NodeId) -> Option<Arc<Node>> {
        Some(Arc::clone(&self.shape.node(id)?.node))
    }

    /// The child of a node.
    #[must_use]
    pub fn child(&self, id: NodeId, key: ChildKey) -> Option<NodeId> {
        Some(self.shape.node(id)?.edge(key)?.child)
    }

    /// Whether a node is free in this way, now. A plan that depends on it demands it, too ([`Plan::demand`]).
    ///
    /// # Errors
    /// [`Kind::InUse`] naming who is in the way; [`Kind::NotFound`].
    ///
    /// [`Plan::demand`]: crate::control::Plan::demand
    pub fn demand(&self, id: NodeId, demand: Demand) -> Result<()> {
        ask(&*self.shape, id, demand)
    }

    /// The node called `name`.
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<NodeInfo> {
        self.node(*self.shape.names.get(name)?)
    }

    /// Every root.
    #[must_use]
    pub fn roots(&self) -> Vec<RootInfo> {
        let info = |(id, shape): (&RootId, &crate::graph::shape::RootShape)| RootInfo {
            id: *id,
            name: shape.root.name().to_owned(),
            node: shape.node,
            grant: shape.grant,
            stays: shape.stays,
            closed: shape.root.gate().is_closed(),
        };
        self.shape.roots.iter().map(info).collect()
    }

    /// The names of the nodes and roots that have an edge to `id`.
    #[must_use]
    pub fn parents_of(&self, id: NodeId) -> Vec<String> {
        let parents = self.shape.node(id).into_iter().flat_map(|shape| &shape.parents);
        parents
            .filter_map(|parent| match parent {
                Parent::Root(root) => self.shape.root(*root).map(|shape| shape.root.name().to_owned()),
                Parent::Node(node, _) => self.shape.node(*node).map(|shape| shape.node.name().to_owned()),
            })
            .collect()
    }
}
