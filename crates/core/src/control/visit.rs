//! [`Visit`]: I/O by the control thread itself on nodes that others may be using: flushing before a drain, reading the
//! header of an image that is being opened.
//!
//! A visit enters through a root of its own, which wants nothing and shares everything; so a drain waits for it like for
//! everybody else.

use std::future::Future;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};

use crate::backend::{Root, RootId};
use crate::control::gs::Inner;
use crate::control::opening::Opening;
use crate::control::patience::hurrying;
use crate::control::quiet::Sections;
use crate::graph::gate::Gate;
use crate::graph::node::{Node, NodeId};
use crate::graph::permission::{Grant, Perm};
use crate::graph::shape::{Parent, Place, RootShape};
use crate::request::io::{Io, Request};
use crate::request::presence::Presence;
use crate::request::run;

/// A visit of the control thread to a node. Ends when dropped. It borrows the opening that the node belongs to, which
/// cannot go into the graph meanwhile.
pub struct Visit<'o> {
    // Before `root`: the request leaves before its root goes.
    request: Request,
    node: Arc<Node>,
    root: VisitRoot,
    /// What of the opening is reached.
    detached: Vec<Arc<Node>>,
    _opening: PhantomData<&'o Opening>,
}

impl Visit<'_> {
    /// Enters `node`, of which the nodes `detached` and `boundary` are reached, the latter being of the graph. Fails if one of these has left the graph
    /// while the visit waited for the end of a drain, and if `sections` are what it would wait for.
    pub(crate) async fn begin(
        inner: &Rc<Inner>,
        node: Arc<Node>,
        (boundary, detached): (Vec<NodeId>, Vec<Arc<Node>>),
        sections: &Sections,
    ) -> Result<Self> {
        let root = VisitRoot::new(inner, boundary);
        sections.demand_open(inner, root.root.gate()).map_err(|error| error.on_node(node.name()))?;
        let presence = run::enter(&root.root, &inner.local).await;
        if !root.boundary_is_there() {
            return Err(Error::new(Kind::NotFound, "a child of it has left the graph").on_node(node.name()));
        }
        Ok(Self { detached, ..Self::inside(root, presence, inner, node) })
    }

    /// The same, unless that would have to wait.
    pub(crate) fn try_begin(inner: &Rc<Inner>, node: Arc<Node>, boundary: Vec<NodeId>) -> Option<Self> {
        let root = VisitRoot::new(inner, boundary);
        let shard = inner.local.shard();
        let side = root.root.gate().try_enter(shard)?;
        let presence = Presence::counted(Arc::clone(&root.root), shard, side);
        Some(Self::inside(root, presence, inner, node))
    }

    fn inside(root: VisitRoot, presence: Presence, inner: &Rc<Inner>, node: Arc<Node>) -> Self {
        let request = Request::new(presence, inner.local.clone());
        Self { request, node, root, detached: Vec::new(), _opening: PhantomData }
    }

    /// A request at the node.
    #[must_use]
    pub fn io(&self) -> Io<'_> {
        Io::new(&self.request, &self.node, Perm::CONSISTENT_READ)
    }

    /// Waits for `work`, which is I/O of this visit, with patience: see [`crate::driver::Driver::hurry`].
    pub async fn attend<T>(&self, work: impl Future<Output = T>) -> T {
        let VisitRoot { inner, boundary, .. } = &self.root;
        let reached = || {
            let mut nodes = inner.shape.borrow().nodes_below(boundary.iter().copied());
            nodes.extend(self.detached.iter().map(Arc::clone));
            nodes
        };
        hurrying(&inner.local, work, reached).await
    }
}

/// The root of one visit, known to the graph while it lives.
struct VisitRoot {
    inner: Rc<Inner>,
    id: RootId,
    root: Arc<Root>,
    boundary: Vec<NodeId>,
}

impl VisitRoot {
    fn new(inner: &Rc<Inner>, boundary: Vec<NodeId>) -> Self {
        let id = RootId(inner.next_id());
        let gate = Arc::new(Gate::new(inner.shards, 0));
        let root =
            Arc::new(Root::new(id, "a visit".to_owned(), gate, inner.shards, Arc::clone(&inner.waits)));
        let visit = Self { inner: Rc::clone(inner), id, root, boundary };
        if visit.boundary.is_empty() {
            // Of no concern to the graph and its drains.
            return visit;
        }
        let mut shape = inner.shape.borrow_mut();
        let entry =
            RootShape { root: Arc::clone(&visit.root), node: None, grant: Grant::PASSIVE, stays: true };
        shape.roots.insert(id, entry);
        for below in &visit.boundary {
            if let Some(node) = shape.nodes.get_mut(below) {
                node.parents.insert(Parent::Root(id));
            }
        }
        // Born closed if it reaches a node that is quiet now.
        shape.refresh_gates(&shape.gates_above([Place::Root(id)]));
        shape.publish_gates(visit.boundary.iter().copied());
        drop(shape);
        visit
    }

    fn boundary_is_there(&self) -> bool {
        let shape = self.inner.shape.borrow();
        self.boundary.iter().all(|id| shape.nodes.contains_key(id))
    }
}

impl Drop for VisitRoot {
    fn drop(&mut self) {
        let mut shape = self.inner.shape.borrow_mut();
        for id in &self.boundary {
            if let Some(node) = shape.nodes.get_mut(id) {
                node.parents.remove(&Parent::Root(self.id));
            }
        }
        shape.roots.remove(&self.id);
        shape.publish_gates(self.boundary.iter().copied());
    }
}
