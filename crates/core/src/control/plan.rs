//! [`Plan`]: a change of the graph before it happens, and [`Checked`]: one that is allowed.

use std::any::Any;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::planted::{Mistake, is_planted};
use drystone_base::{Error, Result};

use crate::backend::{Backend, Mode, Root, RootId};
use crate::bitmap::action::{self, BitmapAction};
use crate::bitmap::stored::StoredChange;
use crate::control::gs::{Gs, Inner};
use crate::control::opening::{Detached, Opening};
use crate::control::outlook::Outlook;
use crate::control::rights::Sets;
use crate::control::step::{Demand, NewRoot, Step};
use crate::control::task::Task;
use crate::driver::NodeMode;
use crate::graph::gate::Gate;
use crate::graph::node::{ChildKey, Node, NodeId};
use crate::graph::permission::{Grant, Perm};
use crate::graph::policy::NodePolicy;
use crate::graph::role::Role;
use crate::graph::shape::{Memo, NodeShape, Topology};
use crate::request::observe::WriteObserver;

/// A change of the graph, collected step by step. Nothing happens before it is checked, staged, admitted and committed.
#[derive(Default)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Nodes that the plan brings in, until its commit.
    pub(crate) opened: Detached,
    pub(crate) options: BTreeMap<NodeId, Box<dyn Any + Send + Sync>>,
    pub(crate) notes: Box<Notes>,
}

/// What a plan changes of nodes beside edges, options and modes.
#[derive(Default)]
pub(crate) struct Notes {
    /// Observers to be added (`true`) or removed.
    pub(crate) observers: Vec<(NodeId, Arc<dyn WriteObserver>, bool)>,
    pub(crate) memos: Vec<(NodeId, Memo)>,
    pub(crate) policies: Vec<(NodeId, NodePolicy)>,
    /// Nodes that nobody may be inside of.
    pub(crate) held: Vec<NodeId>,
    /// What happens to bitmaps, in this order.
    pub(crate) bitmaps: Vec<(NodeId, BitmapAction)>,
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

impl Plan {
    /// A plan that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Brings the nodes of an opening into the graph.
    pub fn insert(&mut self, opening: Opening) {
        let ids = self.opened.take_in(opening.into_detached());
        let known: Vec<NodeId> = self.brought().collect();
        self.steps.extend(ids.into_iter().filter(|id| !known.contains(id)).map(Step::Insert));
    }

    /// The nodes that the plan brings in so far, to open more upon them. They have to be given back with
    /// [`Self::insert`]; without them the plan is refused.
    #[must_use]
    pub fn resume(&mut self, task: &Task<'_>) -> Opening {
        Opening::resume(task, std::mem::take(&mut self.opened))
    }

    fn brought(&self) -> impl Iterator<Item = NodeId> {
        self.steps.iter().filter_map(|step| match step {
            Step::Insert(id) => Some(*id),
            _ => None,
        })
    }

    /// The node called `name`, of those that the plan brings in or of the graph.
    ///
    /// # Errors
    /// [`drystone_base::Kind::NotFound`].
    pub fn find(&self, gs: &Gs, name: &str) -> Result<NodeId> {
        let is_named = |id: &NodeId| self.opened.get(*id).is_some_and(|shape| shape.node.name() == name);
        self.brought().find(is_named).map_or_else(|| gs.find(name), Ok)
    }

    /// The node `id`, of those that the plan brings in or of the graph.
    #[must_use]
    pub fn node(&self, gs: &Gs, id: NodeId) -> Option<Arc<Node>> {
        let brought = self.opened.get(id).map(|shape| Arc::clone(&shape.node));
        brought.or_else(|| gs.inner.shape.borrow().node(id).map(|shape| Arc::clone(&shape.node)))
    }

    /// The children of a node, of those that the plan brings in or of the graph. Steps that move them are not looked at.
    #[must_use]
    pub fn children(&self, gs: &Gs, id: NodeId) -> Vec<(ChildKey, NodeId)> {
        let list = |shape: &NodeShape| shape.edges.iter().map(|edge| (edge.key, edge.child)).collect();
        let brought = self.opened.get(id).map(list);
        brought.or_else(|| gs.inner.shape.borrow().node(id).map(list)).unwrap_or_default()
    }

    /// What is remembered of the node `id`, once the plan is done, as far as it is planned now.
    #[must_use]
    pub fn memo(&self, gs: &Gs, id: NodeId) -> Option<Rc<dyn Any>> {
        let planned = self.notes.memos.iter().rev().find(|(known, _)| *known == id).map(|(_, memo)| memo);
        let brought = || self.opened.get(id).and_then(|shape| shape.memo.as_ref());
        let found = planned.or_else(brought).map(Rc::clone);
        found.or_else(|| gs.inner.shape.borrow().node(id).and_then(|shape| shape.memo.clone()))
    }

    /// Remembers something of a node from the commit on, in place of what is remembered now. It means nothing to the
    /// core: whoever opened the node keeps there what it was opened with.
    pub fn remember(&mut self, node: NodeId, memo: Rc<dyn Any>) {
        self.notes.memos.push((node, memo));
        self.steps.push(Step::Touch(node));
    }

    /// Changes what a node makes of zeroes and discards, for requests that begin after the commit.
    pub fn set_policy(&mut self, node: NodeId, policy: NodePolicy) {
        self.notes.policies.push((node, policy));
        self.steps.push(Step::Touch(node));
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
        let new = NewRoot { root: Arc::clone(&root), inner: Rc::clone(&gs.inner) };
        self.steps.push(Step::AttachRoot { root: new, node, grant, stays });
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

    /// Keeps everybody out of a node during the change, which need not change anything else of it: for private I/O.
    pub fn hold(&mut self, node: NodeId) {
        self.notes.held.push(node);
        self.steps.push(Step::Touch(node));
    }

    /// Does something to a bitmap of a node, after what was planned before. Nobody is inside the node meanwhile.
    pub fn change_bitmap(&mut self, node: NodeId, action: BitmapAction) {
        self.notes.bitmaps.push((node, action));
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
        self.notes.observers.push((node, observer, true));
        self.steps.push(Step::Touch(node));
    }

    /// Ends [`Self::observe`]: no write that begins after the commit is told.
    pub fn unobserve(&mut self, node: NodeId, observer: Arc<dyn WriteObserver>) {
        self.notes.observers.push((node, observer, false));
        self.steps.push(Step::Touch(node));
    }

    /// Keeps an edge from being moved or removed, until it is thawed as often as it was frozen. `by` is who error texts
    /// name.
    pub fn freeze(&mut self, parent: NodeId, key: ChildKey, by: &str) {
        self.steps.push(Step::Freeze { parent, key, by: by.into(), frozen: true });
    }

    /// Takes back one [`Self::freeze`] of the same edge by the same.
    pub fn thaw(&mut self, parent: NodeId, key: ChildKey, by: &str) {
        self.steps.push(Step::Freeze { parent, key, by: by.into(), frozen: false });
    }

    /// Refuses the plan with [`drystone_base::Kind::InUse`] unless `node` is free in this way. For commands that permissions alone would
    /// let through, such as a snapshot of an idle backing image.
    pub fn demand(&mut self, node: NodeId, demand: Demand) {
        self.steps.push(Step::Demand { node, demand });
    }

    /// Whether nothing but bitmaps changes: then nothing that drivers hold has to be stored.
    pub(crate) fn is_of_bitmaps_only(&self) -> bool {
        let Notes { observers, memos, policies, held, bitmaps } = &*self.notes;
        let others = observers.len() + memos.len() + policies.len() + held.len() + self.options.len();
        others == 0 && self.steps.len() == bitmaps.len()
    }

    /// Whether what is planned for bitmaps is possible, and what drivers have to do for it.
    pub(crate) fn check_bitmaps(&self, shape: &impl Topology) -> Result<Vec<(NodeId, StoredChange)>> {
        let of = |shape: &NodeShape| Arc::clone(&shape.node);
        action::check(&self.notes.bitmaps, |id| self.opened.get(id).or_else(|| shape.node(id)).map(of))
    }

    /// Gives the plan up: closes what it would have brought in, and waits for it.
    pub async fn close(self) {
        self.opened.close().await;
    }

    /// Whether the graph that the plan would make is allowed, and what that takes. Nothing happens.
    pub fn check(self, gs: &Gs) -> Result<Checked, (Self, Error)> {
        let shape = gs.inner.shape.borrow();
        match Outlook::of(&self, &shape) {
            Ok(outlook) => {
                let (sets, modes) = (outlook.sets(), outlook.permissions.nodes.clone());
                let new_edges = outlook.new_edges();
                drop(shape);
                Ok(Checked { plan: self, sets, modes, new_edges })
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
    let closed = u32::from(!is_planted(Mistake::RootBornOpen));
    Arc::new(Gate::new(inner.shards, closed))
}

/// A plan that is allowed in the graph as it was when it was checked.
pub struct Checked {
    pub(crate) plan: Plan,
    pub(crate) sets: Sets,
    pub(crate) modes: Vec<(NodeId, NodeMode)>,
    /// The edges of nodes of the graph that lead elsewhere than now.
    pub(crate) new_edges: NewEdges,
}

/// Where edges of nodes lead that lead elsewhere now.
pub(crate) type NewEdges = BTreeMap<NodeId, Vec<(ChildKey, NodeId)>>;

impl Checked {
    /// The nodes of the graph that will be quiet during the change.
    #[must_use]
    pub fn quiet_nodes(&self) -> Vec<NodeId> {
        self.sets.write.iter().filter_map(|place| place.node()).collect()
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
