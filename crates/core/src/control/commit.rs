//! The commit of a change, and what is left to do after it.
//!
//! ```text
//!   look again: same write set, same permissions, nobody inside   (asserted: a wrong answer would be a data race)
//!   drivers, children first -> edges and roots that requests see -> the control thread's picture -> what follows from it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::planted::{Mistake, is_planted};

use crate::backend::RootId;
use crate::bitmap::action;
use crate::control::change::StagedNodes;
use crate::control::gs::Inner;
use crate::control::opening::close_nodes;
use crate::control::outlook::Outlook;
use crate::control::plan::Checked;
use crate::control::rights::Sets;
use crate::driver::{NodeMode, Publish};
use crate::graph::node::{ChildKey, Edge, Edges, Node, NodeId};
use crate::graph::permission::Grant;
use crate::graph::publish::Gates;
use crate::graph::shape::{EdgeShape, NodeShape, Place, RootShape, Shape, Topology};
use crate::graph::slot::Excluded;
use crate::request::presence::Presence;

/// Makes an admitted plan the graph. Synchronous; what could go wrong is asserted before anything is written.
pub(crate) fn commit(inner: &Rc<Inner>, mut checked: Checked, mut staged: StagedNodes) -> After {
    let mut shape = inner.shape.borrow_mut();
    let delta = Delta::of(&checked, &shape);
    let before = Before::of(&shape, &checked.sets);
    for (node, staged) in staged.iter_mut().rev() {
        staged.commit(&Publish::to(node));
    }
    let mut removed = write_slots(&mut shape, &before, &delta);
    apply_delta(&mut shape, &delta);
    for (id, node) in std::mem::take(&mut checked.plan.opened).into_nodes() {
        // Brought in and out by the same plan.
        if !shape.nodes.contains_key(&id) {
            removed.insert(id, node);
        }
    }
    for (node, observer, add) in std::mem::take(&mut checked.plan.notes.observers) {
        if let Some(shape) = shape.nodes.get(&node) {
            if add { shape.node.observers.add(observer) } else { shape.node.observers.remove(&observer) }
        }
    }
    for (node, memo) in std::mem::take(&mut checked.plan.notes.memos) {
        if let Some(shape) = shape.nodes.get_mut(&node) {
            shape.memo = Some(memo);
        }
    }
    for (node, policy) in std::mem::take(&mut checked.plan.notes.policies) {
        if let Some(shape) = shape.nodes.get(&node) {
            shape.node.set_policy(policy);
        }
    }
    let find = |id: NodeId| shape.nodes.get(&id).map(|shape| Arc::clone(&shape.node));
    for (node, action) in std::mem::take(&mut checked.plan.notes.bitmaps) {
        if let Some(node) = find(node) {
            action::apply(&node, action, find);
        }
    }
    publish(&shape, before, delta);
    drop(shape);
    After { inner: Rc::clone(inner), removed }
}

/// Tells requests what the control thread's new picture means to them. Gates that should be open are, from here on.
fn publish(shape: &Shape, before: Before, delta: Delta) {
    shape.publish_gates(delta.nodes.keys().copied());
    shape.publish_settled(&delta.moved, delta.asked);
    let mut gates = before.gates;
    // New edges, and roots in new places, may lead to what is quiet.
    let reaching =
        delta.nodes.iter().filter(|(id, _)| delta.moved.contains(id) || delta.brought.contains(id));
    let roots = delta.roots.keys().map(|id| Place::Root(*id)).filter(|_| !is_planted(Mistake::RootBornOpen));
    for gate in shape.gates_above(reaching.map(|(id, _)| Place::Node(*id)).chain(roots)).list() {
        gates.add(gate);
    }
    shape.refresh_gates(&gates);
}

/// What a commit must know of the graph before it changes it.
struct Before {
    /// The gates above all that is written; those of roots that leave, too.
    gates: Gates,
    excluded: Excluded,
}

impl Before {
    fn of(shape: &Shape, sets: &Sets) -> Self {
        let gates = shape.gates_above(sets.write.iter().copied());
        let excluded = Excluded::assert(gates.list().iter().map(|gate| &**gate));
        Self { gates, excluded }
    }
}

/// The outcome of a plan, free of the graph that it was computed from.
struct Delta {
    nodes: BTreeMap<NodeId, Option<NodeShape>>,
    roots: BTreeMap<RootId, Option<RootShape>>,
    grants: BTreeMap<(NodeId, ChildKey), Grant>,
    modes: Vec<(NodeId, NodeMode)>,
    /// Nodes that were not there before.
    brought: BTreeSet<NodeId>,
    /// See [`Outlook::moved`].
    moved: BTreeSet<NodeId>,
    /// See [`Outlook::asked`].
    asked: BTreeSet<NodeId>,
}

impl Delta {
    /// The plan is worked out anew: changes that do not conflict may have been committed meanwhile. It is allowed and
    /// comes to the same, or the rules about conflicts are wrong; nothing is written then.
    fn of(checked: &Checked, shape: &Shape) -> Self {
        let outlook = match Outlook::of(&checked.plan, shape) {
            Ok(outlook) => outlook,
            Err(error) => panic!("an admitted change is not allowed any more: {error:?}"),
        };
        assert_eq!(outlook.sets().write, checked.sets.write, "an admitted change writes something else now");
        assert_eq!(outlook.permissions.nodes, checked.modes, "drivers have prepared for something else");
        let brought = outlook.view.nodes.keys().copied().filter(|id| shape.node(*id).is_none());
        Self {
            brought: brought.collect(),
            moved: outlook.moved(),
            asked: outlook.asked(),
            nodes: outlook.view.nodes,
            roots: outlook.view.roots,
            grants: outlook.permissions.edges,
            modes: outlook.permissions.nodes,
        }
    }
}

/// Rewrites the edges that requests see, and returns the nodes that have left the graph.
fn write_slots(shape: &mut Shape, before: &Before, delta: &Delta) -> BTreeMap<NodeId, NodeShape> {
    let mut removed = BTreeMap::new();
    let find = |shape: &Shape, id: NodeId| -> Option<Arc<Node>> {
        let changed = delta.nodes.get(&id).and_then(|node| node.as_ref());
        changed.or_else(|| shape.node(id)).map(|shape| Arc::clone(&shape.node))
    };
    for (id, after) in &delta.nodes {
        let Some(after) = after else {
            if let Some(gone) = shape.nodes.get(id) {
                removed.insert(*id, gone.clone());
            }
            continue;
        };
        let is_same =
            |old: &EdgeShape, new: &EdgeShape| new.child == old.child || is_planted(Mistake::EdgeReused);
        let same = shape.node(*id).is_some_and(|known| {
            known.edges.len() == after.edges.len()
                && known.edges.iter().all(|edge| after.edge(edge.key).is_some_and(|new| is_same(edge, new)))
        });
        if same {
            continue;
        }
        let edges: Edges = after
            .edges
            .iter()
            .filter_map(|edge| Some(Arc::new(Edge::new(edge.key, find(shape, edge.child)?, edge.grant.perm))))
            .collect();
        after.node.replace_edges(&before.excluded, edges);
    }
    for (id, after) in &delta.roots {
        let known = shape.root(*id).map(|root| Arc::clone(&root.root));
        let root = after.as_ref().map(|root| Arc::clone(&root.root)).or(known);
        if let Some(root) = root {
            let target = after.as_ref().and_then(|root| root.node).and_then(|node| find(shape, node));
            root.replace_target(&before.excluded, target);
        }
    }
    removed
}

/// Makes the control thread's picture the new one, and publishes permissions and modes.
fn apply_delta(shape: &mut Shape, delta: &Delta) {
    for (id, after) in &delta.nodes {
        match after {
            Some(after) => {
                shape.names.insert(after.node.name().to_owned(), *id);
                shape.nodes.insert(*id, after.clone());
            }
            None => {
                if let Some(gone) = shape.nodes.remove(id) {
                    shape.names.remove(gone.node.name());
                }
            }
        }
    }
    for (id, after) in &delta.roots {
        match after {
            Some(after) => {
                after.root.attach(after.grant.perm);
                shape.roots.insert(*id, after.clone());
            }
            None => {
                shape.roots.remove(id);
            }
        }
    }
    let private = Presence::private();
    for ((id, key), grant) in &delta.grants {
        let Some(node) = shape.nodes.get_mut(id) else { continue };
        if let Some(edge) = node.edges.iter_mut().find(|edge| edge.key == *key) {
            edge.grant = *grant;
        }
        if let Some(edge) = node.node.child(*key, &private) {
            edge.set_perm(grant.perm);
        }
    }
    for (id, mode) in &delta.modes {
        if let Some(node) = shape.nodes.get_mut(id) {
            node.users = mode.users;
            node.node.set_read_only(mode.read_only);
            node.node.set_active(mode.active);
        }
    }
}

/// What is left to do after a commit: closing the nodes that have left the graph.
#[must_use = "removed nodes keep their locks until `finish` has closed them"]
pub struct After {
    inner: Rc<Inner>,
    removed: BTreeMap<NodeId, NodeShape>,
}

impl After {
    /// Closes removed nodes: their files and locks are given up when it returns.
    pub async fn finish(mut self) {
        close_nodes(&self.inner, std::mem::take(&mut self.removed)).await;
    }

    /// Names of the nodes that have left the graph.
    #[must_use]
    pub fn removed(&self) -> Vec<String> {
        self.removed.values().map(|shape| shape.node.name().to_owned()).collect()
    }
}

impl Drop for After {
    fn drop(&mut self) {
        let removed = std::mem::take(&mut self.removed);
        if !removed.is_empty() {
            let inner = Rc::clone(&self.inner);
            self.inner.local.spawn(Box::pin(async move { close_nodes(&inner, removed).await }));
        }
    }
}
