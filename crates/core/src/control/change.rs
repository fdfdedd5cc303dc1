//! A change on its way: staged, admitted, settled, committed. See the table in `control`.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};

use crate::control::gs::Inner;
use crate::control::opening::close_nodes;
use crate::control::plan::{Checked, Outlook, Plan};
use crate::control::quiet::Quiet;
use crate::control::rights::{Right, Sets};
use crate::driver::{NodeMode, Publish, StageRequest, Staged};
use crate::graph::node::{Edge, Edges, Node, NodeId};
use crate::graph::permission::Perm;
use crate::graph::shape::{NodeShape, Place, RootShape, Shape, Topology};
use crate::graph::slot::Excluded;
use crate::request::io::{Io, Request};
use crate::request::presence::Presence;

/// What drivers have prepared, by node, parents before children.
type StagedNodes = Vec<(Arc<Node>, Box<dyn Staged>)>;

/// A plan whose drivers have prepared for it. Dropping it undoes that.
pub struct StagedPlan {
    inner: Rc<Inner>,
    checked: Option<Checked>,
    staged: StagedNodes,
}

impl StagedPlan {
    /// Asks every node that the plan computes to prepare.
    pub(crate) async fn prepare(inner: &Rc<Inner>, checked: Checked) -> Result<Self> {
        let modes = checked.modes.clone();
        let mut plan = Self { inner: Rc::clone(inner), checked: Some(checked), staged: Vec::new() };
        for (id, new) in modes {
            let Some((node, old)) = plan.find(id) else { continue };
            let options =
                plan.checked.as_ref().and_then(|checked| checked.plan.options.get(&id)).map(|o| &**o);
            let request = StageRequest { node: &node, old, new, options, local: &inner.local };
            match node.driver().stage(&request).await {
                Ok(staged) => plan.staged.push((node, staged)),
                Err(error) => {
                    let error = error.on_node(node.name());
                    plan.undo().await;
                    return Err(error);
                }
            }
        }
        Ok(plan)
    }

    /// The node and how it is now, in the graph or in what the plan brings in.
    fn find(&self, id: NodeId) -> Option<(Arc<Node>, NodeMode)> {
        let of = |shape: &NodeShape| (Arc::clone(&shape.node), shape.mode());
        let opened = self.checked.as_ref().and_then(|checked| checked.plan.opened.get(&id)).map(of);
        opened.or_else(|| self.inner.shape.borrow().node(id).map(of))
    }

    fn sets(&self) -> Sets {
        self.checked.as_ref().map(|checked| checked.sets.clone()).unwrap_or_default()
    }

    /// Takes back what was prepared and waits for it.
    pub async fn undo(mut self) {
        let staged = std::mem::take(&mut self.staged);
        undo_staged(staged).await;
        if let Some(checked) = self.checked.take() {
            close_nodes(&self.inner, checked.plan.opened).await;
        }
    }

    /// Waits for the right to change, then until nobody is inside, and looks again whether the plan is still allowed.
    pub(crate) async fn admit<'k>(self) -> Result<Admission<'k>> {
        let inner = Rc::clone(&self.inner);
        let right = Right::acquire(&inner, self.sets()).await;
        self.store_early().await;
        let quiet = Quiet::begin(&inner, self.sets().write.iter().copied().collect()).await;
        let verdict = self.look_again();
        match verdict {
            Ok(true) => Ok(Admission::Go(Change {
                plan: self,
                quiet: Some(quiet),
                right: Some(right),
                _task: PhantomData,
            })),
            Ok(false) => {
                drop(quiet);
                drop(right);
                Ok(Admission::Again(self.restart().await))
            }
            Err(error) => {
                drop(quiet);
                drop(right);
                self.undo().await;
                Err(error)
            }
        }
    }

    /// Flushes what the change will have to store while nobody may be inside, so that little is left to do then.
    async fn store_early(&self) {
        for place in self.sets().write {
            let Place::Node(id) = place else { continue };
            let node = {
                let shape = self.inner.shape.borrow();
                shape.node(id).filter(|shape| shape.users.perm.writes()).map(|shape| Arc::clone(&shape.node))
            };
            if let Some(node) = node {
                let visit = crate::control::visit::Visit::begin(&self.inner, node, vec![id]).await;
                // An error shows again when it matters, in `settle`.
                let _ = visit.io().flush().await;
            }
        }
    }

    /// Whether the plan still asks for what was staged; an error if it is not allowed any more.
    fn look_again(&self) -> Result<bool> {
        let Some(checked) = &self.checked else { return Ok(false) };
        let shape = self.inner.shape.borrow();
        let outlook = Outlook::of(&checked.plan, &shape)?;
        Ok(outlook.sets() == checked.sets && outlook.permissions.nodes == checked.modes)
    }

    /// Takes back what was prepared, keeping the plan.
    async fn restart(mut self) -> Plan {
        undo_staged(std::mem::take(&mut self.staged)).await;
        self.checked.take().map(|checked| checked.plan).unwrap_or_default()
    }
}

/// What became of a plan that asked to be admitted.
pub(crate) enum Admission<'k> {
    Go(Change<'k>),
    /// The graph has changed in between: check and stage again.
    Again(Plan),
}

async fn undo_staged(staged: StagedNodes) {
    for (_, mut staged) in staged.into_iter().rev() {
        staged.undo().await;
    }
}

impl Drop for StagedPlan {
    fn drop(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        let opened = self.checked.take().map(|checked| checked.plan.opened).unwrap_or_default();
        if staged.is_empty() && opened.is_empty() {
            return;
        }
        let inner = Rc::clone(&self.inner);
        self.inner.local.spawn(Box::pin(async move {
            undo_staged(staged).await;
            close_nodes(&inner, opened).await;
        }));
    }
}

/// The exclusive right to change a set of nodes, with nobody inside. Borrows its task, which can wait for nothing else
/// meanwhile. Dropping it aborts the change.
pub struct Change<'k> {
    plan: StagedPlan,
    quiet: Option<Quiet>,
    right: Option<Right>,
    _task: PhantomData<&'k mut ()>,
}

impl<'k> Change<'k> {
    /// I/O on a node of the change, with nobody else inside.
    pub fn private(&self, id: NodeId) -> Result<PrivateIo<'_>> {
        let Some((node, _)) = self.plan.find(id) else {
            return Err(Error::new(Kind::NotFound, "there is no such node"));
        };
        let covered = self.plan.sets().read.contains(&id);
        let brought = self.plan.checked.as_ref().is_some_and(|checked| checked.plan.opened.contains_key(&id));
        if !covered && !brought {
            return Err(
                Error::new(Kind::InvalidInput, "the node is not part of the change").on_node(node.name())
            );
        }
        Ok(PrivateIo::new(&self.plan.inner, node))
    }

    /// Stores what must be stored before nodes leave, become read-only or inactive, and lets drivers do their last I/O,
    /// parents before children. On an error the change is undone.
    pub async fn settle(mut self) -> Result<Settled<'k>> {
        match self.settle_nodes().await {
            Ok(()) => Ok(Settled(self)),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn settle_nodes(&mut self) -> Result<()> {
        for node in self.to_store() {
            let io = PrivateIo::new(&self.plan.inner, Arc::clone(&node));
            node.driver().store(io.io()).await.map_err(|error| error.on_node(node.name()))?;
        }
        for (node, staged) in &mut self.plan.staged {
            let io = PrivateIo::new(&self.plan.inner, Arc::clone(node));
            staged.settle(io.io()).await.map_err(|error| error.on_node(node.name()))?;
        }
        Ok(())
    }

    /// Nodes that can be written now and will not be afterwards, parents before children.
    fn to_store(&self) -> Vec<Arc<Node>> {
        let Some(checked) = &self.plan.checked else { return Vec::new() };
        let shape = self.plan.inner.shape.borrow();
        let stays_writable = |id: &NodeId| {
            checked.modes.iter().any(|(known, mode)| known == id && mode.users.perm.writes() && mode.active)
        };
        let written = checked.sets.write.iter().filter_map(|place| match place {
            Place::Node(id) => Some(*id),
            Place::Root(_) => None,
        });
        let order = shape.below(written);
        let leaving = order.iter().filter_map(|id| shape.node(*id).filter(|_| !stays_writable(id)));
        // Metadata can be dirty in a node that is open for writing and has no writer at the moment.
        leaving
            .filter(|shape| !shape.read_only && shape.active)
            .map(|shape| Arc::clone(&shape.node))
            .collect()
    }

    /// Takes back what was prepared and opens the gates; waits until drivers have done so.
    pub async fn abort(mut self) {
        // Gates first: what is undone was never visible to requests.
        self.quiet = None;
        self.plan.undo().await;
    }
}

/// Private I/O of a change on one of its nodes.
pub struct PrivateIo<'c> {
    request: Request,
    node: Arc<Node>,
    _change: PhantomData<&'c ()>,
}

impl PrivateIo<'_> {
    fn new(inner: &Rc<Inner>, node: Arc<Node>) -> Self {
        Self { request: Request::new(Presence::private(), inner.local.clone()), node, _change: PhantomData }
    }

    /// A request at the node.
    #[must_use]
    pub fn io(&self) -> Io<'_> {
        Io::new(&self.request, &self.node, Perm::ALL)
    }
}

/// A change with nothing left to do that could fail.
pub struct Settled<'k>(Change<'k>);

impl Settled<'_> {
    /// Takes effect: edges, permissions and modes change at once, and the gates open.
    ///
    /// A panic in here would leave the graph half changed, so it aborts the process.
    pub fn commit(self) -> After {
        let abort = AbortOnPanic;
        let mut change = self.0;
        let after = commit(&mut change);
        change.quiet = None;
        change.right = None;
        abort.disarm();
        after
    }

    /// As [`Change::abort`].
    pub async fn abort(self) {
        self.0.abort().await;
    }
}

struct AbortOnPanic;

impl AbortOnPanic {
    fn disarm(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}

fn commit(change: &mut Change<'_>) -> After {
    let inner = Rc::clone(&change.plan.inner);
    let Some(mut checked) = change.plan.checked.take() else {
        unreachable!("a settled change has its plan");
    };
    for (node, staged) in change.plan.staged.iter_mut().rev() {
        staged.commit(&Publish::to(node));
    }
    change.plan.staged.clear();
    let mut shape = inner.shape.borrow_mut();
    let before = Before::of(&shape, &checked.sets);
    let delta = {
        let outlook = match Outlook::of(&checked.plan, &shape) {
            Ok(outlook) => outlook,
            Err(error) => panic!("an admitted change is not allowed any more: {error:?}"),
        };
        Delta::of(outlook)
    };
    let mut removed = write_slots(&mut shape, &before, &delta);
    apply_delta(&mut shape, &delta);
    for (id, node) in std::mem::take(&mut checked.plan.opened) {
        // Brought in and out by the same plan.
        if !shape.nodes.contains_key(&id) {
            removed.insert(id, node);
        }
    }
    let changed: BTreeSet<NodeId> =
        delta.nodes.keys().copied().chain(delta.modes.iter().map(|(id, _)| *id)).collect();
    for (node, observer, add) in checked.plan.observers {
        if let Some(shape) = shape.nodes.get(&node) {
            if add { shape.node.observers.add(observer) } else { shape.node.observers.remove(&observer) }
        }
    }
    shape.publish_gates(changed.iter().copied());
    shape.publish_settled(&changed);
    shape.refresh_gates();
    drop(shape);
    After { inner, removed }
}

/// What a commit must know of the graph before it changes it.
struct Before {
    excluded: Excluded,
}

impl Before {
    fn of(shape: &Shape, sets: &Sets) -> Self {
        let gates = shape.gates_above(sets.write.iter().copied());
        Self { excluded: Excluded::assert(gates.iter().map(|gate| &**gate)) }
    }
}

/// The outcome of a plan, free of the graph that it was computed from.
struct Delta {
    nodes: BTreeMap<NodeId, Option<NodeShape>>,
    roots: BTreeMap<crate::backend::RootId, Option<RootShape>>,
    grants: BTreeMap<(NodeId, crate::graph::node::ChildKey), crate::graph::permission::Grant>,
    modes: Vec<(NodeId, NodeMode)>,
}

impl Delta {
    fn of(outlook: Outlook<'_>) -> Self {
        Self {
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
        let same = shape.node(*id).is_some_and(|known| {
            known.edges.len() == after.edges.len()
                && known
                    .edges
                    .iter()
                    .all(|edge| after.edge(edge.key).is_some_and(|new| new.child == edge.child))
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
                after.root.set_perm(after.grant.perm);
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
