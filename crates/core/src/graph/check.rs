//! `check`: whether a graph that a plan would make is allowed, and with which permissions. A pure function of that graph.
//!
//! For every node whose permissions the plan can touch, parents before children:
//! 1. no cycle; roles are possible; only a read-only node is shared by force, and then by roots, too;
//! 2. an inactive child has no active parent, and an inactive node's users want `CONSISTENT_READ` at most;
//! 3. what one user wants, every other shares (a conflict names both);
//! 4. writers need a node that is not read-only, and `RESIZE` too where the length is not aligned;
//! 5. the driver agrees, and computes what the node wants of each child.

use std::collections::{BTreeMap, BTreeSet};

use drystone_base::{Error, Kind, Result};

use crate::driver::NodeMode;
use crate::graph::node::{ChildKey, NodeId};
use crate::graph::permission::{Grant, Perm};
use crate::graph::role::{ParentState, Role};
use crate::graph::shape::{NodeShape, Parent, Topology, View};

/// The permissions of a graph that passed, as far as they were computed.
#[derive(Default)]
pub(crate) struct Permissions {
    /// What the edge from a node to a child wants and shares.
    pub(crate) edges: BTreeMap<(NodeId, ChildKey), Grant>,
    /// How each computed node is used, parents before children.
    pub(crate) nodes: Vec<(NodeId, NodeMode)>,
}

impl Permissions {
    pub(crate) fn grant_of(&self, view: &View<'_>, parent: Parent) -> Grant {
        let computed = match parent {
            Parent::Node(id, key) => self.edges.get(&(id, key)).copied(),
            Parent::Root(_) => None,
        };
        computed.or_else(|| view.grant_of(parent)).unwrap_or(Grant::PASSIVE)
    }
}

/// Checks the view. `touched` are the nodes whose users, edges or options the plan changes.
pub(crate) fn check(view: &View<'_>, touched: &BTreeSet<NodeId>) -> Result<Permissions> {
    let order = view.below(touched.iter().copied().filter(|id| view.node(*id).is_some()));
    for id in touched {
        if let Some(shape) = view.node(*id) {
            check_structure(shape)?;
        }
    }
    check_cycles(view, &order)?;
    let mut permissions = Permissions::default();
    for id in order {
        if let Some(shape) = view.node(id) {
            check_users(view, &mut permissions, id, shape)?;
        }
    }
    Ok(permissions)
}

fn refuse(shape: &NodeShape, text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text).on_node(shape.node.name())
}

fn check_structure(shape: &NodeShape) -> Result<()> {
    for edge in &shape.edges {
        if let Some(fault) = edge.role.fault() {
            return Err(refuse(
                shape,
                format!("child '{}' cannot have role {:?}: {fault}", edge.key, edge.role),
            ));
        }
    }
    if shape.force_share && !shape.read_only {
        return Err(refuse(shape, "it is shared by force, which only a read-only node can be"));
    }
    for role in [Role::FILTERED, Role::COW, Role::PRIMARY] {
        if shape.edges.iter().filter(|edge| edge.role.has(role)).count() > 1 {
            return Err(refuse(shape, format!("two children with role {role:?}")));
        }
    }
    Ok(())
}

/// A graph has no cycle exactly if, in reverse postorder, every edge leads to a later node.
fn check_cycles(view: &View<'_>, order: &[NodeId]) -> Result<()> {
    let places: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    for (place, id) in order.iter().enumerate() {
        let Some(shape) = view.node(*id) else { continue };
        for edge in &shape.edges {
            if places.get(&edge.child).is_some_and(|child| *child <= place) {
                let child = view.node(edge.child).map_or("?", |child| child.node.name());
                return Err(refuse(
                    shape,
                    format!("making node '{child}' a child of it would create a cycle"),
                ));
            }
        }
    }
    Ok(())
}

fn check_users(view: &View<'_>, permissions: &mut Permissions, id: NodeId, shape: &NodeShape) -> Result<()> {
    let mut grants: Vec<(Parent, Grant)> =
        shape.parents.iter().map(|parent| (*parent, permissions.grant_of(view, *parent))).collect();
    if shape.force_share {
        grants.iter_mut().for_each(|(_, grant)| grant.shared = Perm::ALL);
    }
    find_conflict(view, shape, &grants)?;
    let mut users = Grant::PASSIVE;
    for (_, grant) in &grants {
        users = Grant { perm: users.perm.with(grant.perm), shared: users.shared.and(grant.shared) };
    }
    let mode = NodeMode { users, read_only: shape.read_only, active: shape.active };
    check_activity(view, shape, users)?;
    check_writers(shape, users)?;
    shape.node.driver().check(mode).map_err(|error| error.on_node(shape.node.name()))?;
    let parent = ParentState { users, writable: !shape.read_only, active: shape.active };
    for edge in &shape.edges {
        let mut grant = shape.node.driver().grant(edge.key, edge.role, parent);
        if view.node(edge.child).is_some_and(|child| child.force_share) {
            grant.shared = Perm::ALL;
        }
        permissions.edges.insert((id, edge.key), grant);
    }
    permissions.nodes.push((id, mode));
    Ok(())
}

/// For each permission: is there a user that wants it and *another* that does not share it?
fn find_conflict(view: &View<'_>, shape: &NodeShape, grants: &[(Parent, Grant)]) -> Result<()> {
    for perm in Perm::EACH {
        let wants: Vec<Parent> =
            grants.iter().filter(|(_, g)| g.perm.has(perm)).map(|(p, _)| *p).take(2).collect();
        let Some(first) = wants.first() else { continue };
        for (keeper, _) in grants.iter().filter(|(_, grant)| !grant.shared.has(perm)) {
            let other = if keeper == first { wants.get(1) } else { Some(first) };
            if let Some(other) = other {
                let text = format!(
                    "{} needs permission '{perm}', but {} does not share it",
                    view.describe(*other),
                    view.describe(*keeper)
                );
                return Err(Error::new(Kind::InUse, text).on_node(shape.node.name()));
            }
        }
    }
    Ok(())
}

fn check_activity(view: &View<'_>, shape: &NodeShape, users: Grant) -> Result<()> {
    if shape.active {
        return Ok(());
    }
    if let Some(extra) = Some(users.perm.without(Perm::CONSISTENT_READ)).filter(|extra| !extra.is_empty()) {
        return Err(Error::new(Kind::ReadOnly, format!("the node is inactive, and a user needs '{extra}'"))
            .on_node(shape.node.name()));
    }
    for parent in &shape.parents {
        if let Parent::Node(id, _) = parent
            && let Some(above) = view.node(*id).filter(|above| above.active)
        {
            let text =
                format!("the node is inactive and cannot be a child of active node '{}'", above.node.name());
            return Err(refuse(shape, text));
        }
    }
    Ok(())
}

fn check_writers(shape: &NodeShape, users: Grant) -> Result<()> {
    if !users.perm.writes() {
        return Ok(());
    }
    if shape.read_only {
        return Err(Error::new(Kind::ReadOnly, "the node is read-only").on_node(shape.node.name()));
    }
    let align = u64::from(shape.node.request_alignment());
    if !users.perm.has(Perm::RESIZE) && !shape.node.len().is_multiple_of(align) {
        let text = format!(
            "its length of {} bytes is not a multiple of its request alignment of {align} bytes: a writer needs \
             permission 'resize', too",
            shape.node.len()
        );
        return Err(refuse(shape, text));
    }
    Ok(())
}
