//! [`Step`]: one thing that a plan does to the graph, on a view of it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};

use crate::backend::{Root, RootId};
use crate::control::gs::Inner;
use crate::control::plan::Plan;
use crate::graph::node::{ChildKey, NodeId};
use crate::graph::permission::Grant;
use crate::graph::publish::Gates;
use crate::graph::role::Role;
use crate::graph::shape::{NodeShape, Parent, RootShape, Topology, View};

/// A step of a plan.
pub(crate) enum Step {
    Insert(NodeId),
    Release(NodeId),
    AttachRoot { root: NewRoot, node: NodeId, grant: Grant, stays: bool },
    AimRoot { root: RootId, to: Option<NodeId> },
    SetGrant { root: RootId, grant: Grant },
    AimEdge { parent: NodeId, key: ChildKey, to: Option<(NodeId, Role)> },
    Replace { from: NodeId, to: NodeId },
    SetReadOnly { node: NodeId, read_only: bool },
    SetActive { node: NodeId, active: bool },
    Freeze { parent: NodeId, key: ChildKey, by: Arc<str>, frozen: bool },
    Demand { node: NodeId, demand: Demand },
    Touch(NodeId),
}

/// What a command asks of a node that permissions do not say. Asked where the step stands in its plan, of the graph that
/// the steps before it have made; and still so when the change is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// No job works on the node: no root that stays ([`crate::control::RootSpec::stays`]) is on it.
    NoJob,
    /// The node is nobody's backing image, used or not.
    NoOverlay,
    /// No node stands on it, in whatever role: only users.
    NoParent,
    /// Nobody uses it, and no node stands on it.
    NoUser,
    /// It has no backing image itself.
    NoBacking,
}

impl Demand {
    /// Whether a user of a node is what the demand excludes.
    pub(crate) fn excludes(self, view: &impl Topology, parent: Parent) -> bool {
        match (self, parent) {
            (Self::NoJob, Parent::Root(id)) => {
                view.root(id).is_some_and(|root| root.stays && root.node.is_some())
            }
            (Self::NoOverlay, Parent::Node(id, key)) => {
                view.node(id).and_then(|shape| shape.edge(key)).is_some_and(|edge| edge.role.has(Role::COW))
            }
            (Self::NoParent | Self::NoUser, Parent::Node(..)) => true,
            (Self::NoUser, Parent::Root(_)) => view.is_user(parent),
            (Self::NoJob, Parent::Node(..))
            | (Self::NoOverlay | Self::NoParent, Parent::Root(_))
            | (Self::NoBacking, _) => false,
        }
    }
}

/// A root before the commit that brings it in. If that never comes, its gate opens, so that whoever waits there finds out
/// that there is no node.
pub(crate) struct NewRoot {
    pub(crate) root: Arc<Root>,
    pub(crate) inner: Rc<Inner>,
}

impl Drop for NewRoot {
    fn drop(&mut self) {
        if !self.root.is_attached() {
            let mut gates = Gates::default();
            gates.add(self.root.gate());
            self.inner.shape.borrow().refresh_gates(&gates);
        }
    }
}

fn no_node() -> Error {
    Error::new(Kind::NotFound, "there is no such node")
}

pub(crate) fn apply(
    view: &mut View<'_>,
    plan: &Plan,
    step: &Step,
    touched: &mut BTreeSet<NodeId>,
) -> Result<()> {
    match step {
        Step::Insert(id) => insert(view, plan, *id),
        Step::Release(id) => release(view, *id),
        Step::AttachRoot { root, node, grant, stays } => {
            view.node(*node).ok_or_else(no_node)?;
            let root = &root.root;
            let entry = RootShape { root: Arc::clone(root), node: None, grant: *grant, stays: *stays };
            view.roots.insert(root.id(), Some(entry));
            view.aim_root(root.id(), Some(*node));
            Ok(())
        }
        Step::AimRoot { root, to } => aim_root(view, *root, *to),
        Step::SetGrant { root, grant } => {
            let shape =
                view.root_mut(*root).ok_or_else(|| Error::new(Kind::NotFound, "there is no such user"))?;
            shape.grant = *grant;
            touched.extend(shape.node);
            Ok(())
        }
        Step::AimEdge { parent, key, to } => aim_edge(view, *parent, *key, *to),
        Step::Replace { from, to } => replace(view, *from, *to),
        Step::SetReadOnly { node, read_only } => {
            view.node_mut(*node).ok_or_else(no_node)?.read_only = *read_only;
            Ok(())
        }
        Step::SetActive { node, active } => {
            view.node_mut(*node).ok_or_else(no_node)?.active = *active;
            Ok(())
        }
        Step::Freeze { parent, key, by, frozen } => freeze(view, (*parent, *key), by, *frozen),
        Step::Demand { node, demand } => ask(view, *node, *demand),
        Step::Touch(node) => view.node_mut(*node).map(drop).ok_or_else(no_node),
    }
}

fn insert(view: &mut View<'_>, plan: &Plan, id: NodeId) -> Result<()> {
    let shape = plan.opened.get(id).ok_or_else(no_node)?;
    let name = shape.node.name();
    if !view.take_name(name) {
        return Err(Error::new(Kind::AlreadyExists, "there is a node of that name already").on_node(name));
    }
    let edges = shape.edges.clone();
    view.nodes.insert(id, Some(NodeShape { edges: Vec::new(), ..shape.clone() }));
    for edge in edges {
        if view.node(edge.child).is_none() {
            return Err(no_node());
        }
        view.aim_edge(id, edge.key, Some((edge.child, edge.role)));
    }
    Ok(())
}

fn release(view: &mut View<'_>, id: NodeId) -> Result<()> {
    let shape = view.node(id).ok_or_else(no_node)?;
    let user = shape.parents.iter().find(|parent| view.is_user(**parent));
    if let Some(user) = user {
        let text = format!("the node is in use by {}", view.describe(*user));
        return Err(Error::new(Kind::InUse, text).on_node(shape.node.name()));
    }
    if let Some(shape) = view.node_mut(id) {
        shape.owned = false;
    }
    Ok(())
}

pub(crate) fn ask(view: &impl Topology, id: NodeId, demand: Demand) -> Result<()> {
    let shape = view.node(id).ok_or_else(no_node)?;
    if demand == Demand::NoBacking && shape.edge(ChildKey::Backing).is_some() {
        let text = "it has a backing image already";
        return Err(Error::new(Kind::InvalidInput, text).on_node(shape.node.name()));
    }
    let Some(parent) = shape.parents.iter().find(|parent| demand.excludes(view, **parent)) else {
        return Ok(());
    };
    let other = view.describe(*parent);
    let text = match demand {
        Demand::NoJob => format!("{other} works on it"),
        Demand::NoOverlay => format!("it is the backing image of {other}"),
        Demand::NoParent => format!("{other} stands on it"),
        Demand::NoUser | Demand::NoBacking => format!("{other} uses it"),
    };
    Err(Error::new(Kind::InUse, text).on_node(shape.node.name()))
}

fn aim_root(view: &mut View<'_>, root: RootId, to: Option<NodeId>) -> Result<()> {
    if view.root(root).is_none() {
        return Err(Error::new(Kind::NotFound, "there is no such user"));
    }
    if let Some(to) = to {
        view.node(to).ok_or_else(no_node)?;
    }
    view.aim_root(root, to);
    if to.is_none() {
        view.roots.insert(root, None);
    }
    Ok(())
}

fn demand_thawed(view: &View<'_>, parent: NodeId, key: ChildKey) -> Result<()> {
    let shape = view.node(parent).ok_or_else(no_node)?;
    match shape.edge(key).and_then(|edge| edge.frozen.first()) {
        Some(holder) => Err(Error::new(Kind::InUse, format!("child '{key}' is frozen by {holder}"))
            .on_node(shape.node.name())),
        None => Ok(()),
    }
}

fn freeze(view: &mut View<'_>, (parent, key): (NodeId, ChildKey), by: &Arc<str>, frozen: bool) -> Result<()> {
    let shape = view.node_mut(parent).ok_or_else(no_node)?;
    let edge = shape.edges.iter_mut().find(|edge| edge.key == key);
    let edge = edge.ok_or_else(|| Error::new(Kind::NotFound, format!("the node has no child '{key}'")))?;
    if frozen {
        edge.frozen.push(Arc::clone(by));
        return Ok(());
    }
    let place = edge.frozen.iter().position(|holder| holder == by).ok_or_else(|| {
        let text = format!("child '{key}' is thawed more often than it was frozen");
        Error::new(Kind::InvalidInput, text)
    })?;
    edge.frozen.remove(place);
    Ok(())
}

fn aim_edge(view: &mut View<'_>, parent: NodeId, key: ChildKey, to: Option<(NodeId, Role)>) -> Result<()> {
    demand_thawed(view, parent, key)?;
    let shape = view.node(parent).ok_or_else(no_node)?;
    if let Some((child, _)) = to {
        view.node(child).ok_or_else(no_node)?;
    } else if shape.edge(key).is_none() {
        return Err(
            Error::new(Kind::NotFound, format!("the node has no child '{key}'")).on_node(shape.node.name())
        );
    }
    view.aim_edge(parent, key, to);
    Ok(())
}

fn replace(view: &mut View<'_>, from: NodeId, to: NodeId) -> Result<()> {
    view.node(to).ok_or_else(no_node)?;
    let parents = view.node(from).ok_or_else(no_node)?.parents.clone();
    let below: BTreeSet<NodeId> = view.below([to]).into_iter().collect();
    for parent in parents {
        match parent {
            Parent::Root(id) => {
                if view.root(id).is_some_and(|root| !root.stays) {
                    aim_root(view, id, Some(to))?;
                }
            }
            // An edge from below `to` would become a loop: it is what makes `to` stand on `from`.
            Parent::Node(id, _) if below.contains(&id) => {}
            Parent::Node(id, key) => {
                let role = view.node(id).and_then(|shape| shape.edge(key)).map(|edge| edge.role);
                if let Some(role) = role {
                    aim_edge(view, id, key, Some((to, role)))?;
                }
            }
        }
    }
    Ok(())
}

/// Takes out the nodes that nobody owns and nobody uses any more, from the top down. Fails if an edge of one is frozen.
pub(crate) fn sweep(view: &mut View<'_>) -> Result<()> {
    let mut todo: Vec<NodeId> = view.nodes.keys().copied().collect();
    while let Some(id) = todo.pop() {
        let Some(shape) = view.node(id) else { continue };
        let is_used = shape.parents.iter().any(|parent| view.is_user(*parent));
        if shape.owned || is_used {
            continue;
        }
        for edge in shape.edges.clone() {
            demand_thawed(view, id, edge.key)?;
            view.aim_edge(id, edge.key, None);
            todo.push(edge.child);
        }
        view.nodes.insert(id, None);
    }
    Ok(())
}
