//! A change on its way: staged, admitted, settled. See the table in `control`; the commit is in `commit`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::Arc;

use drystone_base::planted::{Mistake, is_planted};
use drystone_base::{Error, Kind, Result};

use crate::bitmap::stored::StoredChange;
use crate::control::commit::{After, commit};
use crate::control::gs::{GraphView, Inner};
use crate::control::outlook::Outlook;
use crate::control::patience::hurrying;
use crate::control::plan::{Checked, Plan};
use crate::control::quiet::Quiet;
use crate::control::rights::{Right, Sets};
use crate::control::step::Step;
use crate::control::visit::Visit;
use crate::driver::{NodeMode, StageRequest, Staged};
use crate::graph::node::{ChildKey, Node, NodeId};
use crate::graph::permission::Perm;
use crate::graph::shape::{NodeShape, Topology};
use crate::request::io::{Io, Request};
use crate::request::presence::Presence;

/// What drivers have prepared, by node, parents before children.
pub(crate) type StagedNodes = Vec<(Arc<Node>, Box<dyn Staged>)>;

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
            let children = plan.new_children(id);
            let request =
                StageRequest { node: &node, old, new, options, children: &children, local: &inner.local };
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
        let opened = self.checked.as_ref().and_then(|checked| checked.plan.opened.get(id)).map(of);
        opened.or_else(|| self.inner.shape.borrow().node(id).map(of))
    }

    /// The children that a node gets.
    fn new_children(&self, id: NodeId) -> Vec<(ChildKey, Arc<Node>)> {
        let edges = self.checked.as_ref().and_then(|checked| checked.new_edges.get(&id));
        let edges = edges.into_iter().flatten();
        edges.filter_map(|(key, child)| Some((*key, self.find(*child)?.0))).collect()
    }

    fn sets(&self) -> Sets {
        self.checked.as_ref().map(|checked| checked.sets.clone()).unwrap_or_default()
    }

    /// Takes back what was prepared and waits for it.
    pub async fn undo(mut self) {
        let staged = std::mem::take(&mut self.staged);
        undo_staged(staged).await;
        if let Some(checked) = self.checked.take() {
            checked.plan.close().await;
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
            Ok(true) => Ok(Admission::Go(Box::new(Change {
                lent: Some(Lent { inner, reach: self.sets().read, used: Cell::new(false) }),
                plan: self,
                quiet: Some(quiet),
                right: Some(right),
                _task: PhantomData,
            }))),
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
        if self.checked.as_ref().is_some_and(|checked| checked.plan.is_of_bitmaps_only()) {
            return;
        }
        for id in self.sets().write.iter().filter_map(|place| place.node()) {
            let node = {
                let shape = self.inner.shape.borrow();
                shape.node(id).filter(|shape| shape.users.perm.writes()).map(|shape| Arc::clone(&shape.node))
            };
            // Whoever keeps the node quiet may be the very task that waits for this change: then there is nothing to
            // gain, and everything to lose, by waiting at the gate.
            if let Some(visit) = node.and_then(|node| Visit::try_begin(&self.inner, node, vec![id])) {
                // An error shows again when it matters, in `settle`.
                let _ = visit.attend(visit.io().flush()).await;
            }
        }
    }

    /// Whether the plan still asks for what was staged; an error if it is not allowed any more.
    fn look_again(&self) -> Result<bool> {
        let Some(checked) = &self.checked else { return Ok(false) };
        let shape = self.inner.shape.borrow();
        let outlook = Outlook::of(&checked.plan, &shape)?;
        let is_same = outlook.sets() == checked.sets && outlook.permissions.nodes == checked.modes;
        Ok(is_same && outlook.new_edges() == checked.new_edges)
    }

    /// Takes back what was prepared, keeping the plan.
    async fn restart(mut self) -> Plan {
        undo_staged(std::mem::take(&mut self.staged)).await;
        self.checked.take().map(|checked| checked.plan).unwrap_or_default()
    }
}

/// What became of a plan that asked to be admitted.
pub(crate) enum Admission<'k> {
    Go(Box<Change<'k>>),
    /// The graph has changed in between: check and stage again.
    Again(Plan),
}

/// Waits for I/O of a node with nobody else inside, with patience.
async fn attend<T>(inner: &Rc<Inner>, node: &Arc<Node>, work: impl Future<Output = T>) -> T {
    let reached = || {
        let below = inner.shape.borrow().nodes_below([node.id()]);
        if below.is_empty() { vec![Arc::clone(node)] } else { below }
    };
    hurrying(&inner.local, work, reached).await
}

async fn undo_staged(staged: StagedNodes) {
    for (_, mut staged) in staged.into_iter().rev() {
        staged.undo().await;
    }
}

impl Drop for StagedPlan {
    fn drop(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        let Some(checked) = self.checked.take().filter(|_| !staged.is_empty()) else { return };
        self.inner.local.spawn(Box::pin(async move {
            undo_staged(staged).await;
            checked.plan.close().await;
        }));
    }
}

/// The exclusive right to change a set of nodes, with nobody inside. Borrows its task, which can wait for nothing else
/// meanwhile. Dropping it aborts the change.
pub struct Change<'k> {
    /// First: what requests remember is put right before the gates open.
    lent: Option<Lent>,
    plan: StagedPlan,
    quiet: Option<Quiet>,
    right: Option<Right>,
    _task: PhantomData<&'k mut ()>,
}

impl<'k> Change<'k> {
    /// Looks at the graph, in which nobody else changes what the change reaches.
    pub fn sees<T>(&self, look: impl FnOnce(&GraphView<'_>) -> T) -> T {
        look(&GraphView::of(&self.plan.inner))
    }

    /// I/O on a node of the change, with nobody else inside.
    pub fn private(&self, id: NodeId) -> Result<PrivateIo<'_>> {
        let Some((node, _)) = self.plan.find(id) else {
            return Err(Error::new(Kind::NotFound, "there is no such node"));
        };
        let covered = self.plan.sets().read.contains(&id);
        let brought = self.plan.checked.as_ref().is_some_and(|checked| checked.plan.opened.get(id).is_some());
        if !covered && !brought {
            return Err(
                Error::new(Kind::InvalidInput, "the node is not part of the change").on_node(node.name())
            );
        }
        if let Some(lent) = &self.lent {
            lent.used.set(true);
        }
        Ok(PrivateIo::new(&self.plan.inner, node))
    }

    /// Stores what must be stored before nodes leave, become read-only or inactive, and lets drivers do their last I/O,
    /// parents before children. On an error the change is undone; but nobody is kept from leaving a node that stays because
    /// it cannot store: that is in memory, and is stored when somebody flushes again, or the node goes.
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
            match attend(&self.plan.inner, &node, node.driver().store(io.io())).await {
                Err(error) if !self.is_left_alone(node.id()) => return Err(error.on_node(node.name())),
                _ => {}
            }
        }
        let StagedPlan { inner, staged, .. } = &mut self.plan;
        for (node, staged) in staged {
            let io = PrivateIo::new(inner, Arc::clone(node));
            let settled = attend(inner, node, staged.settle(io.io())).await;
            settled.map_err(|error| error.on_node(node.name()))?;
        }
        self.settle_bitmaps().await
    }

    /// Lets drivers do what changes of persistent bitmaps need.
    async fn settle_bitmaps(&self) -> Result<()> {
        let Some(checked) = &self.plan.checked else { return Ok(()) };
        let changes = checked.plan.check_bitmaps(&*self.plan.inner.shape.borrow())?;
        let mut by_node: BTreeMap<NodeId, Vec<StoredChange>> = BTreeMap::new();
        for (node, change) in changes {
            by_node.entry(node).or_default().push(change);
        }
        for (id, changes) in by_node {
            let Some((node, _)) = self.plan.find(id) else { continue };
            let io = PrivateIo::new(&self.plan.inner, Arc::clone(&node));
            let changed =
                attend(&self.plan.inner, &node, node.driver().change_bitmaps(io.io(), &changes)).await;
            changed.map_err(|error| error.on_node(node.name()))?;
        }
        Ok(())
    }

    /// Users go, nothing else happens, and the node stays.
    fn is_left_alone(&self, node: NodeId) -> bool {
        let is_leave = |step: &Step| matches!(step, Step::AimRoot { to: None, .. });
        self.plan.checked.as_ref().is_some_and(|checked| {
            let stays = checked.modes.iter().any(|(known, _)| *known == node);
            stays && checked.plan.steps.iter().all(is_leave)
        })
    }

    /// Nodes that can be written now and will not be afterwards, or that get another place to store things in; parents
    /// before children.
    fn to_store(&self) -> Vec<Arc<Node>> {
        let checked = self.plan.checked.as_ref().filter(|checked| !checked.plan.is_of_bitmaps_only());
        let Some(checked) = checked else { return Vec::new() };
        let shape = self.plan.inner.shape.borrow();
        let stays_writable = |id: &NodeId| {
            checked.modes.iter().any(|(known, mode)| known == id && mode.users.perm.writes() && mode.active)
        };
        let is_key_of_store = |key: &ChildKey| *key != ChildKey::Backing;
        let moves = |id: &NodeId| {
            checked.new_edges.get(id).is_some_and(|edges| edges.iter().any(|(key, _)| is_key_of_store(key)))
        };
        let written: BTreeSet<NodeId> = checked.sets.write.iter().filter_map(|place| place.node()).collect();
        let order = shape.below(written.iter().copied());
        // What is further down is not quiet: others may be inside.
        let quiet = order.iter().filter(|id| written.contains(id));
        let leaving = quiet.filter_map(|id| shape.node(*id).filter(|_| !stays_writable(id) || moves(id)));
        // Metadata can be dirty in a node that is open for writing and has no writer at the moment.
        leaving
            .filter(|shape| !shape.read_only && shape.active)
            .map(|shape| Arc::clone(&shape.node))
            .collect()
    }

    /// Takes back what was prepared and opens the gates; waits until drivers have done so.
    pub async fn abort(mut self) {
        // Gates first: what is undone was never visible to requests.
        self.lent = None;
        if is_planted(Mistake::ForgottenUndrain) {
            let _ = ManuallyDrop::new(self.quiet.take());
        }
        self.quiet = None;
        self.plan.undo().await;
    }
}

/// Whether private I/O was lent to somebody outside of drivers. It may have changed where layers that nobody else can change
/// have their bytes; so all above them forget, whether the change is committed or not.
struct Lent {
    inner: Rc<Inner>,
    reach: BTreeSet<NodeId>,
    used: Cell<bool>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.used.get() {
            self.inner.shape.borrow().publish_settled(&self.reach, BTreeSet::new());
        }
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

    /// The disk is `len` bytes long now: its driver has made it so by private I/O.
    pub fn publish_len(&self, len: u64) {
        self.node.set_len(len);
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
        change.lent = None;
        let Some(checked) = change.plan.checked.take() else { unreachable!("a settled change has its plan") };
        let after = commit(&change.plan.inner, checked, std::mem::take(&mut change.plan.staged));
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
        let _ = ManuallyDrop::new(self);
    }
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}
