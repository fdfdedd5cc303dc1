//! The control thread's picture of the graph: every node with its parents, roles, permissions and versions.
//!
//! ```text
//!   Shape        what is            (changed by commits only)
//!   View         what would be      (a Shape and the nodes and roots that a plan changes)
//! ```
//! Requests never look here; what they need is in `Node` and `Root`, rewritten by commits (`graph::publish`).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use crate::backend::{Root, RootId};
use crate::driver::NodeMode;
use crate::graph::node::{ChildKey, Node, NodeId};
use crate::graph::permission::Grant;
use crate::graph::role::Role;

/// Something that is remembered of a node and means nothing to the core.
pub(crate) type Memo = Rc<dyn Any>;

/// A node as the control thread sees it.
#[derive(Clone)]
pub(crate) struct NodeShape {
    pub(crate) node: Arc<Node>,
    pub(crate) edges: Vec<EdgeShape>,
    /// Who has an edge to it. Kept in step with the edges by `View`.
    pub(crate) parents: BTreeSet<Parent>,
    pub(crate) read_only: bool,
    pub(crate) active: bool,
    /// Every edge to it shares everything.
    pub(crate) force_share: bool,
    /// Somebody asked for it by name; otherwise it goes when its last parent goes.
    pub(crate) owned: bool,
    /// What its users want and share together, as of the last commit.
    pub(crate) users: Grant,
    /// Moves with every commit that changes the node.
    pub(crate) version: u64,
    /// What whoever opened or reopened it wants to remember of it.
    pub(crate) memo: Option<Memo>,
}

impl NodeShape {
    pub(crate) fn mode(&self) -> NodeMode {
        NodeMode { users: self.users, read_only: self.read_only, active: self.active }
    }

    pub(crate) fn edge(&self, key: ChildKey) -> Option<&EdgeShape> {
        self.edges.iter().find(|edge| edge.key == key)
    }
}

/// An edge to a child.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EdgeShape {
    pub(crate) key: ChildKey,
    pub(crate) role: Role,
    pub(crate) child: NodeId,
    pub(crate) grant: Grant,
    /// By whom the edge is frozen: it cannot be moved or removed while there is somebody.
    pub(crate) frozen: Vec<Arc<str>>,
}

/// The other end of an edge to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Parent {
    Root(RootId),
    Node(NodeId, ChildKey),
}

/// A root as the control thread sees it.
#[derive(Clone)]
pub(crate) struct RootShape {
    pub(crate) root: Arc<Root>,
    pub(crate) node: Option<NodeId>,
    pub(crate) grant: Grant,
    /// Stays where it is when its node is replaced (the edges of a job).
    pub(crate) stays: bool,
}

/// Something that can be quiet: a change is kept from others by what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Node(NodeId),
    Root(RootId),
    /// Whatever there is, and whatever comes meanwhile.
    Everything,
}

impl Place {
    pub(crate) fn node(self) -> Option<NodeId> {
        match self {
            Self::Node(id) => Some(id),
            Self::Root(_) | Self::Everything => None,
        }
    }
}

/// The graph as it is.
#[derive(Default)]
pub(crate) struct Shape {
    pub(crate) nodes: BTreeMap<NodeId, NodeShape>,
    pub(crate) names: BTreeMap<String, NodeId>,
    pub(crate) roots: BTreeMap<RootId, RootShape>,
    /// How many quiet sections each quiet place is in.
    pub(crate) quiet: BTreeMap<Place, u32>,
}

/// Reads a graph, as it is or as it would be.
pub(crate) trait Topology {
    fn node(&self, id: NodeId) -> Option<&NodeShape>;
    fn root(&self, id: RootId) -> Option<&RootShape>;

    /// What the edge from `parent` wants and shares.
    fn grant_of(&self, parent: Parent) -> Option<Grant> {
        match parent {
            Parent::Root(id) => self.root(id).map(|root| root.grant),
            Parent::Node(id, key) => self.node(id)?.edge(key).map(|edge| edge.grant),
        }
    }

    /// What all parents of a node want and share together.
    fn users_of(&self, node: &NodeShape) -> Grant {
        let mut users = Grant::PASSIVE;
        for grant in node.parents.iter().filter_map(|parent| self.grant_of(*parent)) {
            users = Grant { perm: users.perm.with(grant.perm), shared: users.shared.and(grant.shared) };
        }
        users
    }

    /// Whether a parent uses the node, rather than being a visit of the control thread.
    fn is_user(&self, parent: Parent) -> bool {
        match parent {
            Parent::Root(id) => self.root(id).is_some_and(|root| root.node.is_some()),
            Parent::Node(..) => true,
        }
    }

    /// How error texts call the other end of an edge.
    fn describe(&self, parent: Parent) -> String {
        match parent {
            Parent::Root(id) => {
                self.root(id).map_or_else(|| "a user".to_owned(), |root| format!("'{}'", root.root.name()))
            }
            Parent::Node(id, key) => self.node(id).map_or_else(
                || "a node".to_owned(),
                |parent| format!("node '{}' (child '{key}')", parent.node.name()),
            ),
        }
    }

    /// The nodes that are reached from `start` downwards, itself included, every parent before its children.
    fn below(&self, start: impl IntoIterator<Item = NodeId>) -> Vec<NodeId>
    where
        Self: Sized,
    {
        let mut seen = BTreeSet::new();
        let mut postorder = Vec::new();
        // An explicit stack: chains are as long as users make them.
        let mut stack: Vec<(NodeId, usize)> = Vec::new();
        for top in start {
            if seen.insert(top) {
                stack.push((top, 0));
            }
            while let Some((id, next)) = stack.pop() {
                match self.node(id).and_then(|node| node.edges.get(next)) {
                    Some(edge) => {
                        stack.push((id, next + 1));
                        if seen.insert(edge.child) {
                            stack.push((edge.child, 0));
                        }
                    }
                    None => postorder.push(id),
                }
            }
        }
        postorder.reverse();
        postorder
    }

    /// The nodes and roots from which any of `start` is reached, `start` included.
    fn above(&self, start: impl IntoIterator<Item = NodeId>) -> (BTreeSet<NodeId>, BTreeSet<RootId>)
    where
        Self: Sized,
    {
        let (mut nodes, mut roots) = (BTreeSet::new(), BTreeSet::new());
        let mut todo: Vec<NodeId> = start.into_iter().collect();
        while let Some(id) = todo.pop() {
            if !nodes.insert(id) {
                continue;
            }
            for parent in self.node(id).into_iter().flat_map(|node| &node.parents) {
                match parent {
                    Parent::Root(root) => {
                        roots.insert(*root);
                    }
                    Parent::Node(parent, _) => todo.push(*parent),
                }
            }
        }
        (nodes, roots)
    }
}

impl Topology for Shape {
    fn node(&self, id: NodeId) -> Option<&NodeShape> {
        self.nodes.get(&id)
    }

    fn root(&self, id: RootId) -> Option<&RootShape> {
        self.roots.get(&id)
    }
}

/// A graph with changes on top: copies only what is changed.
pub(crate) struct View<'g> {
    base: &'g Shape,
    pub(crate) nodes: BTreeMap<NodeId, Option<NodeShape>>,
    pub(crate) roots: BTreeMap<RootId, Option<RootShape>>,
    /// Names of the nodes that were brought in.
    brought: BTreeSet<String>,
}

impl Topology for View<'_> {
    fn node(&self, id: NodeId) -> Option<&NodeShape> {
        match self.nodes.get(&id) {
            Some(changed) => changed.as_ref(),
            None => self.base.node(id),
        }
    }

    fn root(&self, id: RootId) -> Option<&RootShape> {
        match self.roots.get(&id) {
            Some(changed) => changed.as_ref(),
            None => self.base.root(id),
        }
    }
}

impl<'g> View<'g> {
    pub(crate) fn new(base: &'g Shape) -> Self {
        Self { base, nodes: BTreeMap::new(), roots: BTreeMap::new(), brought: BTreeSet::new() }
    }

    pub(crate) fn base(&self) -> &'g Shape {
        self.base
    }

    /// Takes a name for a node that is brought in; whether it was free.
    pub(crate) fn take_name(&mut self, name: &str) -> bool {
        !self.base.names.contains_key(name) && self.brought.insert(name.to_owned())
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Option<&mut NodeShape> {
        let base = self.base;
        self.nodes.entry(id).or_insert_with(|| base.node(id).cloned()).as_mut()
    }

    pub(crate) fn root_mut(&mut self, id: RootId) -> Option<&mut RootShape> {
        let base = self.base;
        self.roots.entry(id).or_insert_with(|| base.root(id).cloned()).as_mut()
    }

    fn unlink(&mut self, child: Option<NodeId>, parent: Parent) {
        if let Some(shape) = child.and_then(|id| self.node_mut(id)) {
            shape.parents.remove(&parent);
        }
    }

    fn link(&mut self, child: Option<NodeId>, parent: Parent) {
        if let Some(shape) = child.and_then(|id| self.node_mut(id)) {
            shape.parents.insert(parent);
        }
    }

    /// Points a root at a node, or at none.
    pub(crate) fn aim_root(&mut self, id: RootId, to: Option<NodeId>) {
        let Some(root) = self.root_mut(id) else { return };
        let from = std::mem::replace(&mut root.node, to);
        self.unlink(from, Parent::Root(id));
        self.link(to, Parent::Root(id));
    }

    /// Sets, moves or removes (`to: None`) an edge between nodes. A moved edge keeps its role.
    pub(crate) fn aim_edge(&mut self, from: NodeId, key: ChildKey, to: Option<(NodeId, Role)>) {
        let Some(node) = self.node_mut(from) else { return };
        let before = node.edges.iter().find(|edge| edge.key == key).map(|edge| edge.child);
        node.edges.retain(|edge| edge.key != key || to.is_some());
        if let Some((child, role)) = to {
            match node.edges.iter_mut().find(|edge| edge.key == key) {
                Some(edge) => edge.child = child,
                None => {
                    node.edges.push(EdgeShape { key, role, child, grant: Grant::PASSIVE, frozen: Vec::new() })
                }
            }
        }
        self.unlink(before, Parent::Node(from, key));
        self.link(to.map(|(child, _)| child), Parent::Node(from, key));
    }
}
