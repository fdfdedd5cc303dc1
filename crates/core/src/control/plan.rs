//! [`Plan`]: a change of the graph before it happens, and [`Checked`]: one that is allowed.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::{Error, Kind, Result};

use crate::backend::{Backend, Mode, Root, RootId};
use crate::control::gs::{Gs, Inner};
use crate::control::opening::{Opening, close_nodes};
use crate::control::rights::Sets;
use crate::driver::NodeMode;
use crate::graph::check::{Permissions, check};
use crate::graph::gate::Gate;
use crate::graph::node::{ChildKey, NodeId};
use crate::graph::permission::{Grant, Perm};
use crate::graph::role::Role;
use crate::graph::shape::{NodeShape, Parent, Place, RootShape, Shape, Topology, View};
use crate::request::observe::WriteObserver;

/// A change of the graph, collected step by step. Nothing happens before it is checked, staged, admitted and committed.
#[derive(Default)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Nodes that the plan brings in, until its commit.
    pub(crate) opened: BTreeMap<NodeId, NodeShape>,
    pub(crate) options: BTreeMap<NodeId, Box<dyn Any + Send + Sync>>,
    /// Observers to be added (`true`) or removed.
    pub(crate) observers: Vec<(NodeId, Arc<dyn WriteObserver>, bool)>,
}

/// A root to be attached.
pub struct RootSpec {
    /// Its user's name, for error texts and reports.
    pub name: String,
    /// What it wants and shares. A user that writes needs `WRITE`.
    pub grant: Grant,
    /// It stays where it is when its node is replaced (the edges of a job do).
    pub stays: bool,
}

pub(crate) enum Step {
    Insert(NodeId),
    Release(NodeId),
    AttachRoot { root: Arc<Root>, node: NodeId, grant: Grant, stays: bool },
    AimRoot { root: RootId, to: Option<NodeId> },
    SetGrant { root: RootId, grant: Grant },
    AimEdge { parent: NodeId, key: ChildKey, to: Option<(NodeId, Role)> },
    Replace { from: NodeId, to: NodeId },
    SetReadOnly { node: NodeId, read_only: bool },
    SetActive { node: NodeId, active: bool },
    Freeze { parent: NodeId, key: ChildKey, by: i32 },
    Touch(NodeId),
}

impl Plan {
    /// A plan that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Brings the nodes of an opening into the graph.
    pub fn insert(&mut self, opening: Opening) {
        let nodes = opening.into_nodes();
        self.steps.extend(nodes.keys().map(|id| Step::Insert(*id)));
        self.opened.extend(nodes);
    }

    /// Gives up the ownership of a node by name: it leaves the graph, with everything below it that has no other user and
    /// no owner. Refused while it has a user.
    pub fn remove(&mut self, node: NodeId) {
        self.steps.push(Step::Release(node));
    }

    /// Attaches a new root with a gate of its own to `node`, and returns its backend, which works after the commit.
    pub fn attach_root<M: Mode>(&mut self, gs: &Gs, node: NodeId, spec: RootSpec) -> Backend<M> {
        let gate = new_gate(&gs.inner);
        self.attach(gs, node, spec, gate)
    }

    /// As [`Self::attach_root`], behind the gate of `beside`: all roots of one job share a gate.
    pub fn attach_root_beside<M: Mode, O: Mode>(
        &mut self,
        gs: &Gs,
        node: NodeId,
        spec: RootSpec,
        beside: &Backend<O>,
    ) -> Backend<M> {
        let gate = Arc::clone(beside.root().gate());
        self.attach(gs, node, spec, gate)
    }

    fn attach<M: Mode>(&mut self, gs: &Gs, node: NodeId, spec: RootSpec, gate: Arc<Gate>) -> Backend<M> {
        let id = RootId(gs.inner.next_id());
        let RootSpec { name, grant, stays } = spec;
        let root = Arc::new(Root::new(id, name, gate, gs.inner.shards, Arc::clone(&gs.inner.waits)));
        self.steps.push(Step::AttachRoot { root: Arc::clone(&root), node, grant, stays });
        Backend::new(root)
    }

    /// Takes a root out of the graph. Entering through it fails afterwards.
    pub fn detach_root(&mut self, root: RootId) {
        self.steps.push(Step::AimRoot { root, to: None });
    }

    /// Moves a root to another node.
    pub fn move_root(&mut self, root: RootId, to: NodeId) {
        self.steps.push(Step::AimRoot { root, to: Some(to) });
    }

    /// Changes what a root wants and shares.
    pub fn set_grant(&mut self, root: RootId, grant: Grant) {
        self.steps.push(Step::SetGrant { root, grant });
    }

    /// Sets or moves an edge to a child. A moved edge keeps its role.
    pub fn set_child(&mut self, parent: NodeId, key: ChildKey, child: NodeId, role: Role) {
        self.steps.push(Step::AimEdge { parent, key, to: Some((child, role)) });
    }

    /// Removes an edge to a child.
    pub fn remove_child(&mut self, parent: NodeId, key: ChildKey) {
        self.steps.push(Step::AimEdge { parent, key, to: None });
    }

    /// Moves every user of `from` to `to`, except roots that stay and edges from nodes below `to` or from `to` itself.
    /// A snapshot is: open an overlay whose backing child is `from`, then replace `from` by it.
    pub fn replace(&mut self, from: NodeId, to: NodeId) {
        self.steps.push(Step::Replace { from, to });
    }

    /// Reopens a node with new options, in the type that its driver takes.
    pub fn reopen(&mut self, node: NodeId, options: Box<dyn Any + Send + Sync>) {
        self.options.insert(node, options);
        self.steps.push(Step::Touch(node));
    }

    /// Makes a node read-only or writable.
    pub fn set_read_only(&mut self, node: NodeId, read_only: bool) {
        self.steps.push(Step::SetReadOnly { node, read_only });
    }

    /// Activates or inactivates a node (see `blockdev-set-active`).
    pub fn set_active(&mut self, node: NodeId, active: bool) {
        self.steps.push(Step::SetActive { node, active });
    }

    /// Tells `observer` of every write to `node` from the commit on.
    pub fn observe(&mut self, node: NodeId, observer: Arc<dyn WriteObserver>) {
        self.observers.push((node, observer, true));
        self.steps.push(Step::Touch(node));
    }

    /// Ends [`Self::observe`]: no write that begins after the commit is told.
    pub fn unobserve(&mut self, node: NodeId, observer: Arc<dyn WriteObserver>) {
        self.observers.push((node, observer, false));
        self.steps.push(Step::Touch(node));
    }

    /// Keeps an edge from being moved or removed, until it is thawed as often as it was frozen.
    pub fn freeze(&mut self, parent: NodeId, key: ChildKey) {
        self.steps.push(Step::Freeze { parent, key, by: 1 });
    }

    /// Takes back one [`Self::freeze`].
    pub fn thaw(&mut self, parent: NodeId, key: ChildKey) {
        self.steps.push(Step::Freeze { parent, key, by: -1 });
    }

    /// Closes what the plan would have brought in.
    pub(crate) async fn close(&mut self, inner: &Rc<Inner>) {
        close_nodes(inner, std::mem::take(&mut self.opened)).await;
    }

    /// Whether the graph that the plan would make is allowed, and what that takes. Nothing happens.
    pub fn check(self, gs: &Gs) -> Result<Checked, (Self, Error)> {
        let shape = gs.inner.shape.borrow();
        match Outlook::of(&self, &shape) {
            Ok(outlook) => {
                let (sets, modes) = (outlook.sets(), outlook.permissions.nodes.clone());
                drop(shape);
                Ok(Checked { plan: self, sets, modes })
            }
            Err(error) => {
                drop(shape);
                Err((self, error))
            }
        }
    }
}

fn new_gate(inner: &Inner) -> Arc<Gate> {
    // Born closed: the commit that attaches the root derives the count.
    Arc::new(Gate::new(inner.shards, 1))
}

/// A plan that is allowed in the graph as it was when it was checked.
pub struct Checked {
    pub(crate) plan: Plan,
    pub(crate) sets: Sets,
    pub(crate) modes: Vec<(NodeId, NodeMode)>,
}

impl Checked {
    /// The nodes of the graph that will be quiet during the change.
    #[must_use]
    pub fn quiet_nodes(&self) -> Vec<NodeId> {
        let nodes = self.sets.write.iter().filter_map(|place| match place {
            Place::Node(id) => Some(*id),
            Place::Root(_) => None,
        });
        nodes.collect()
    }
}

/// What the graph would be: the view, its permissions, and the nodes that leave it.
pub(crate) struct Outlook<'g> {
    pub(crate) view: View<'g>,
    pub(crate) permissions: Permissions,
    reopened: BTreeSet<NodeId>,
}

impl<'g> Outlook<'g> {
    /// Applies the steps to a view of `shape` and checks the result.
    pub(crate) fn of(plan: &Plan, shape: &'g Shape) -> Result<Self> {
        let mut view = View::new(shape);
        let mut touched = BTreeSet::new();
        for step in &plan.steps {
            apply(&mut view, plan, step, &mut touched)?;
        }
        sweep(&mut view);
        touched.extend(view.nodes.keys().copied());
        let permissions = check(&view, &touched)?;
        for id in view.nodes.keys().copied().collect::<Vec<_>>() {
            if let Some(node) = view.node_mut(id) {
                node.version += 1;
            }
        }
        let observed = plan.observers.iter().map(|(node, ..)| *node);
        Ok(Self { view, permissions, reopened: plan.options.keys().copied().chain(observed).collect() })
    }

    /// What the change touches, and how.
    pub(crate) fn sets(&self) -> Sets {
        let base = self.view.base();
        let mut sets = Sets::default();
        for (id, after) in &self.view.nodes {
            let Some(before) = base.node(*id) else { continue };
            let written = match after {
                None => true,
                Some(after) => {
                    !same_edges(before, after)
                        || before.read_only != after.read_only
                        || before.active != after.active
                        || self.reopened.contains(id)
                }
            };
            if written {
                sets.write.insert(Place::Node(*id));
            }
        }
        for (id, mode) in &self.permissions.nodes {
            let Some(before) = base.node(*id) else { continue };
            if before.users != mode.users {
                sets.users.insert(*id);
            }
            if before.users.perm.writes() != mode.users.perm.writes() {
                sets.write.insert(Place::Node(*id));
            }
        }
        for (id, after) in &self.view.roots {
            let before = base.root(*id).map(|root| root.node);
            if before.is_some() && before != Some(after.as_ref().and_then(|root| root.node)) {
                sets.write.insert(Place::Root(*id));
            }
        }
        let written = sets.write.iter().filter_map(|place| match place {
            Place::Node(id) => Some(*id),
            Place::Root(_) => None,
        });
        sets.read = base.below(written).into_iter().collect();
        sets
    }
}

fn same_edges(before: &NodeShape, after: &NodeShape) -> bool {
    let ends = |shape: &NodeShape| -> BTreeSet<(ChildKey, NodeId)> {
        shape.edges.iter().map(|edge| (edge.key, edge.child)).collect()
    };
    ends(before) == ends(after)
}

fn no_node() -> Error {
    Error::new(Kind::NotFound, "there is no such node")
}

fn apply(view: &mut View<'_>, plan: &Plan, step: &Step, touched: &mut BTreeSet<NodeId>) -> Result<()> {
    match step {
        Step::Insert(id) => insert(view, plan, *id),
        Step::Release(id) => release(view, *id),
        Step::AttachRoot { root, node, grant, stays } => {
            view.node(*node).ok_or_else(no_node)?;
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
        Step::Freeze { parent, key, by } => {
            let shape = view.node_mut(*parent).ok_or_else(no_node)?;
            let edge = shape.edges.iter_mut().find(|edge| edge.key == *key);
            let edge =
                edge.ok_or_else(|| Error::new(Kind::NotFound, format!("the node has no child '{key}'")))?;
            edge.frozen = edge.frozen.checked_add_signed(*by).ok_or_else(|| {
                Error::new(
                    Kind::InvalidInput,
                    format!("child '{key}' is thawed more often than it was frozen"),
                )
            })?;
            Ok(())
        }
        Step::Touch(node) => view.node_mut(*node).map(drop).ok_or_else(no_node),
    }
}

fn insert(view: &mut View<'_>, plan: &Plan, id: NodeId) -> Result<()> {
    let shape = plan.opened.get(&id).ok_or_else(no_node)?;
    let name = shape.node.name();
    if view.base().names.contains_key(name) {
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

fn aim_edge(view: &mut View<'_>, parent: NodeId, key: ChildKey, to: Option<(NodeId, Role)>) -> Result<()> {
    let shape = view.node(parent).ok_or_else(no_node)?;
    if shape.edge(key).is_some_and(|edge| edge.frozen > 0) {
        return Err(
            Error::new(Kind::InUse, format!("child '{key}' is frozen by a job")).on_node(shape.node.name())
        );
    }
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

/// Takes out the nodes that nobody owns and nobody uses any more, from the top down.
fn sweep(view: &mut View<'_>) {
    let mut todo: Vec<NodeId> = view.nodes.keys().copied().collect();
    while let Some(id) = todo.pop() {
        let Some(shape) = view.node(id) else { continue };
        let is_used = shape.parents.iter().any(|parent| view.is_user(*parent));
        if shape.owned || is_used {
            continue;
        }
        for edge in shape.edges.clone() {
            view.aim_edge(id, edge.key, None);
            todo.push(edge.child);
        }
        view.nodes.insert(id, None);
    }
}

/// A user that only reads, for [`RootSpec::grant`].
impl Grant {
    /// Reads a coherent state; lets others do anything but write contents or resize.
    pub const READER: Self = Self {
        perm: Perm::CONSISTENT_READ,
        shared: Perm::from_bits(Perm::CONSISTENT_READ.bits() | Perm::WRITE_UNCHANGED.bits()),
    };
    /// Reads and writes; lets others read and write nothing.
    pub const WRITER: Self = Self {
        perm: Perm::from_bits(Perm::CONSISTENT_READ.bits() | Perm::WRITE.bits()),
        shared: Perm::from_bits(Perm::CONSISTENT_READ.bits() | Perm::WRITE_UNCHANGED.bits()),
    };
}
