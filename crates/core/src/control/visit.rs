//! [`Visit`]: I/O by the control thread itself on nodes that others may be using: flushing before a drain, reading the
//! header of an image that is being opened.
//!
//! A visit enters through a root of its own, which wants nothing and shares everything; so a drain waits for it like for
//! everybody else.

use std::rc::Rc;
use std::sync::Arc;

use crate::backend::{Root, RootId};
use crate::control::gs::Inner;
use crate::graph::gate::Gate;
use crate::graph::node::{Node, NodeId};
use crate::graph::permission::{Grant, Perm};
use crate::graph::shape::{Parent, RootShape};
use crate::request::io::{Io, Request};
use crate::request::run;

/// A visit of the control thread to a node. Ends when dropped.
pub struct Visit {
    // Before `root`: the request leaves before its root goes.
    request: Request,
    node: Arc<Node>,
    _root: VisitRoot,
}

impl Visit {
    /// Enters `node`, of which the nodes `boundary` of the graph are reached.
    pub(crate) async fn begin(inner: &Rc<Inner>, node: Arc<Node>, boundary: Vec<NodeId>) -> Self {
        let root = VisitRoot::new(inner, boundary);
        let presence = run::enter(&root.root, &inner.local).await;
        Self { request: Request::new(presence, inner.local.clone()), node, _root: root }
    }

    /// A request at the node.
    #[must_use]
    pub fn io(&self) -> Io<'_> {
        Io::new(&self.request, &self.node, Perm::CONSISTENT_READ)
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
        let mut shape = inner.shape.borrow_mut();
        let entry = RootShape { root: Arc::clone(&root), node: None, grant: Grant::PASSIVE, stays: true };
        shape.roots.insert(id, entry);
        for below in &boundary {
            if let Some(node) = shape.nodes.get_mut(below) {
                node.parents.insert(Parent::Root(id));
            }
        }
        // Born closed if it reaches a node that is quiet now.
        shape.refresh_gates();
        shape.publish_gates(boundary.iter().copied());
        drop(shape);
        Self { inner: Rc::clone(inner), id, root, boundary }
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
