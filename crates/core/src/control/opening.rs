//! [`Opening`]: a subgraph that is being built and is not part of the graph yet.
//!
//! Opening a node is not a change of the graph. Protocol nodes are added first and *claimed* (their files opened for the
//! right purpose, their image locks taken) before anything is read from them; then formats read their headers through a
//! [`Visit`] and are added on top. A plan takes the finished subgraph in; an opening that is dropped closes what it has.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};

use crate::control::gs::Inner;
use crate::control::quiet::Sections;
use crate::control::task::Task;
use crate::control::visit::Visit;
use crate::driver::{Driver, NodeFacts, NodeMode, Publish, StageRequest};
use crate::graph::node::{ChildKey, Edge, Node, NodeId};
use crate::graph::permission::{Grant, Perm};
use crate::graph::policy::NodePolicy;
use crate::graph::role::Role;
use crate::graph::shape::{EdgeShape, NodeShape};
use crate::graph::slot::Excluded;

/// A node to be added to an opening.
pub struct NewNode {
    /// Its name: letters, digits, `-`, `.`, `_`, beginning with a letter; generated (`#blockN`) if there is none.
    pub name: Option<String>,
    /// Its driver.
    pub driver: Box<dyn Driver>,
    /// What the driver found when it opened.
    pub facts: NodeFacts,
    /// Its children: nodes of the same opening, or of the graph.
    pub children: Vec<(ChildKey, Role, NodeId)>,
    /// Stays when its last user goes; otherwise it goes with its last parent.
    pub owned: bool,
    /// Every edge to it shares everything (only for nodes that are read-only).
    pub force_share: bool,
}

/// A detached subgraph. Dropping it closes its nodes.
pub struct Opening {
    inner: Rc<Inner>,
    nodes: Detached,
    /// Of the nodes.
    names: BTreeSet<String>,
    /// Of the task that builds it.
    sections: Sections,
}

/// Nodes that are in no graph: of an opening, or of a plan before its commit. Dropping them closes them.
#[derive(Default)]
pub(crate) struct Detached {
    nodes: BTreeMap<NodeId, NodeShape>,
    /// There as soon as there are nodes.
    inner: Option<Rc<Inner>>,
}

impl Detached {
    fn new(inner: &Rc<Inner>) -> Self {
        Self { nodes: BTreeMap::new(), inner: Some(Rc::clone(inner)) }
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&NodeShape> {
        self.nodes.get(&id)
    }

    /// Adds the nodes of `other`, and returns their identities.
    pub(crate) fn take_in(&mut self, mut other: Self) -> Vec<NodeId> {
        let nodes = std::mem::take(&mut other.nodes);
        let ids = nodes.keys().copied().collect();
        self.nodes.extend(nodes);
        if self.inner.is_none() {
            self.inner = other.inner.take();
        }
        ids
    }

    /// The nodes, which are somebody else's to close now.
    pub(crate) fn into_nodes(mut self) -> BTreeMap<NodeId, NodeShape> {
        std::mem::take(&mut self.nodes)
    }

    /// Closes the nodes, and waits for it.
    pub(crate) async fn close(mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        if let Some(inner) = self.inner.take() {
            close_nodes(&inner, nodes).await;
        }
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        if let Some(inner) = self.inner.take().filter(|_| !nodes.is_empty()) {
            let local = inner.local.clone();
            local.spawn(Box::pin(async move { close_nodes(&inner, nodes).await }));
        }
    }
}

impl Opening {
    /// An empty one.
    #[must_use]
    pub fn new(task: &Task<'_>) -> Self {
        let inner = &task.gs().inner;
        Self {
            inner: Rc::clone(inner),
            nodes: Detached::new(inner),
            names: BTreeSet::new(),
            sections: task.sections.clone(),
        }
    }

    /// Adds a node. Fails if its name is malformed or taken, or a child does not exist.
    pub fn add(&mut self, new: NewNode) -> Result<NodeId> {
        let id = NodeId(self.inner.next_id());
        let name = self.name_for(id, new.name)?;
        if new.force_share && !new.facts.read_only {
            return Err(Error::new(Kind::InvalidInput, "it can only be set for a read-only node")
                .on_node(name)
                .in_option("force-share"));
        }
        let node =
            Arc::new(Node::new(id, name, new.driver, new.facts, (&self.inner.waits, &self.inner.damages)));
        let mut edges: Vec<EdgeShape> = Vec::new();
        for (key, role, child) in new.children {
            if edges.iter().any(|edge| edge.key == key) {
                return Err(
                    Error::new(Kind::InvalidInput, format!("two children '{key}'")).on_node(node.name())
                );
            }
            edges.push(EdgeShape { key, role, child, grant: Grant::PASSIVE, frozen: Vec::new() });
        }
        let live = edges.iter().map(|edge| {
            let child = self.node(edge.child)?;
            Ok(Arc::new(Edge::new(edge.key, child, Perm::CONSISTENT_READ)))
        });
        let live = live.collect::<Result<_>>()?;
        // Nobody reaches a detached node: there are no gates to look at.
        node.replace_edges(&Excluded::assert([]), live);
        self.names.insert(node.name().to_owned());
        self.nodes.nodes.insert(
            id,
            NodeShape {
                node,
                edges,
                parents: BTreeSet::new(),
                read_only: new.facts.read_only,
                active: true,
                force_share: new.force_share,
                owned: new.owned,
                users: Grant::PASSIVE,
                version: 0,
                memo: None,
            },
        );
        Ok(id)
    }

    fn name_for(&self, id: NodeId, wanted: Option<String>) -> Result<String> {
        let Some(name) = wanted else { return Ok(format!("#block{}", id.0)) };
        let mut chars = name.chars();
        let well_formed = chars.next().is_some_and(|first| first.is_ascii_alphabetic())
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
        if !well_formed || name.len() > 31 {
            return Err(Error::new(
                Kind::InvalidInput,
                format!(
                    "'{name}' is no node name: a letter, then at most 30 letters, digits, '-', '.' and '_'"
                ),
            )
            .in_option("node-name"));
        }
        let taken = self.inner.shape.borrow().names.contains_key(&name) || self.names.contains(&name);
        if taken {
            return Err(Error::new(Kind::AlreadyExists, "there is a node of that name already").on_node(name));
        }
        Ok(name)
    }

    /// The node called `name`, of the opening or of the graph.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn find(&self, name: &str) -> Result<NodeId> {
        let brought = self.nodes.nodes.iter().find(|(_, shape)| shape.node.name() == name);
        let found = brought.map(|(id, _)| *id).or_else(|| self.inner.shape.borrow().names.get(name).copied());
        found.ok_or_else(|| Error::new(Kind::NotFound, "there is no such node").on_node(name))
    }

    /// The node `id` of the opening or of the graph.
    pub fn node(&self, id: NodeId) -> Result<Arc<Node>> {
        let detached = self.nodes.get(id).map(|shape| Arc::clone(&shape.node));
        let found = detached
            .or_else(|| self.inner.shape.borrow().nodes.get(&id).map(|shape| Arc::clone(&shape.node)));
        found.ok_or_else(|| Error::new(Kind::NotFound, "there is no such node"))
    }

    /// Remembers something of a detached node: see [`crate::control::Plan::remember`].
    pub fn remember(&mut self, id: NodeId, memo: Rc<dyn Any>) {
        if let Some(shape) = self.nodes.nodes.get_mut(&id) {
            shape.memo = Some(memo);
        }
    }

    /// Sets what a detached node makes of zeroes and discards.
    pub fn set_policy(&mut self, id: NodeId, policy: NodePolicy) {
        if let Some(shape) = self.nodes.nodes.get(&id) {
            shape.node.set_policy(policy);
        }
    }

    /// Prepares a detached node for being used as `users` say: a file is opened for writing if they write, and its image
    /// locks are taken. To be done before anything is read from it that must stay true.
    pub async fn claim(&mut self, id: NodeId, users: Grant) -> Result<()> {
        let Some(shape) = self.nodes.nodes.get_mut(&id) else { return Ok(()) };
        let old = shape.mode();
        let new = NodeMode { users, ..old };
        let node = Arc::clone(&shape.node);
        let request =
            StageRequest { node: &node, old, new, options: None, children: &[], local: &self.inner.local };
        node.driver().check(new).map_err(|error| error.on_node(node.name()))?;
        let mut staged = node.driver().stage(&request).await.map_err(|error| error.on_node(node.name()))?;
        staged.commit(&Publish::to(&node));
        shape.users = users;
        Ok(())
    }

    /// Reads from a node of the opening or of the graph; not below a quiet section of the task that builds the opening, which
    /// would wait for itself ([`Kind::InvalidInput`]). The opening gets no further nodes, and no plan takes it, while
    /// the visit lasts.
    pub async fn visit(&self, id: NodeId) -> Result<Visit<'_>> {
        let node = self.node(id)?;
        let reached = self.reached(id);
        Visit::begin(&self.inner, node, reached, &self.sections).await
    }

    /// The nodes of the graph that are reached first from `id`, and the nodes of the opening.
    fn reached(&self, id: NodeId) -> (Vec<NodeId>, Vec<Arc<Node>>) {
        let (mut boundary, mut detached) = (Vec::new(), Vec::new());
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            match self.nodes.get(id) {
                Some(shape) => {
                    detached.push(Arc::clone(&shape.node));
                    todo.extend(shape.edges.iter().map(|edge| edge.child));
                }
                None => boundary.push(id),
            }
        }
        (boundary, detached)
    }

    /// What a plan brings in, to open more upon it.
    pub(crate) fn resume(task: &Task<'_>, mut nodes: Detached) -> Self {
        nodes.inner = Some(Rc::clone(&task.gs().inner));
        let names = nodes.nodes.values().map(|shape| shape.node.name().to_owned()).collect();
        Self { nodes, names, ..Self::new(task) }
    }

    pub(crate) fn into_detached(self) -> Detached {
        self.nodes
    }

    /// Closes what was opened, and waits for it: files and locks are given up when it returns.
    pub async fn close(self) {
        self.nodes.close().await;
    }
}

/// Closes nodes that nobody reaches any more, parents before children (later ids are parents).
pub(crate) async fn close_nodes(inner: &Rc<Inner>, nodes: BTreeMap<NodeId, NodeShape>) {
    for shape in nodes.into_values().rev() {
        shape.node.driver().close(&inner.local).await;
    }
}
