//! [`TurmoilDisk`]: one disk of a run and the control task that changes it at random, with plans that fail or are given up
//! at any phase.
//!
//! ```text
//!   users -> [filter] -> overlay -> ... -> overlay -> golden (shared by all disks)
//!                          \-> [filter] -> file
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use drystone_base::rng::Rng;
use drystone_base::{Error, GuestOffset, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{After, NewNode, Opening, Plan, RootSpec, Task};
use drystone_core::driver::WriteFlags;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::Role;
use drystone_core::runtime::yield_now;
use drystone_testkit::disk::{DiskOptions, SimDisk};
use drystone_testkit::overlay::SimOverlay;

use super::audit::{ASKED_FOR, Audit, Audited, Fails};
use crate::fixture::facts;
use crate::scripted::{Script, Scripted};
use crate::world::{SHARING_READER, SHARING_WRITER};

/// Reads, writes, resizes, and knows of the others.
pub(super) const OWNER: Grant = Grant { perm: SHARING_WRITER.perm.with(Perm::RESIZE), shared: Perm::ALL };

/// What a disk's clients and control task share.
#[derive(Clone)]
pub(super) struct Shared {
    /// The length, or which node is the top one, must not change now.
    pub(super) busy: Arc<AtomicBool>,
    /// It was, is or will be read-only.
    pub(super) is_toggled: Arc<AtomicBool>,
    /// What users stand on.
    pub(super) head: Arc<Mutex<NodeId>>,
    /// The control task has ended.
    pub(super) is_over: Arc<AtomicBool>,
}

impl Shared {
    /// Takes the right to say what length and top node are, unless somebody has it.
    pub(super) fn try_take(&self) -> bool {
        !self.busy.swap(true, Ordering::SeqCst)
    }

    pub(super) fn give_back(&self) {
        self.busy.store(false, Ordering::SeqCst);
    }
}

pub(super) struct TurmoilDisk {
    name: String,
    audit: Audit,
    rng: Rng,
    golden: (NodeId, String),
    pub(super) main: Backend<ReadWrite>,
    pub(super) shared: Shared,
    /// Everything of this disk that is in the graph.
    nodes: Vec<(NodeId, String)>,
    /// The filter that users stand on, and what it is on.
    filter: Option<(NodeId, NodeId)>,
    /// An overlay, a filter on its file, and the file.
    file_filter: Option<(NodeId, NodeId, NodeId)>,
    /// The overlays, each with its file; the last one takes what is written.
    layers: Vec<(NodeId, NodeId)>,
    made: u64,
}

fn new(name: &str, len: u64, driver: Audited, children: Vec<(ChildKey, Role, NodeId)>) -> NewNode {
    let driver = Box::new(driver);
    let facts = facts(len, false);
    NewNode { name: Some(name.to_owned()), driver, facts, children, owned: true, force_share: false }
}

/// A device called `name` in an opening.
pub(super) fn add_device(opening: &mut Opening, audit: &Audit, name: &str, disk: SimDisk) -> Result<NodeId> {
    let len = disk.len();
    opening.add(new(name, len, Audited::device(name, audit, disk), vec![]))
}

fn add_overlay(
    opening: &mut Opening,
    audit: &Audit,
    name: &str,
    (len, seed): (u64, u64),
    backing: NodeId,
) -> Result<[(NodeId, String); 2]> {
    let file_name = format!("{name}-file");
    let file = add_device(opening, audit, &file_name, SimDisk::zeroed(len, seed))?;
    let children = vec![(ChildKey::File, Role::IMAGE, file), (ChildKey::Backing, Role::COW, backing)];
    let driver = Audited::new(name, audit, Box::new(SimOverlay::default()));
    let top = opening.add(new(name, len, driver, children))?;
    Ok([(top, name.to_owned()), (file, file_name)])
}

/// An error that the test asked for; any other one is a bug.
#[track_caller]
fn expect_asked_for(error: &Error) {
    let text = error.report();
    assert!(text.contains(ASKED_FOR), "a change failed for another reason: {text}");
}

impl TurmoilDisk {
    /// An overlay of `golden`, in the graph, with its first user.
    pub(super) async fn make(
        task: &mut Task<'_>,
        name: &str,
        audit: &Audit,
        golden: (NodeId, String),
        seed: u64,
    ) -> Self {
        let len = task.gs().with(|graph| graph.node(golden.0)).unwrap().len;
        let mut opening = Opening::new(task);
        let layer = format!("{name}0");
        let nodes = add_overlay(&mut opening, audit, &layer, (len, seed), golden.0).unwrap();
        let layers = vec![(nodes[0].0, nodes[1].0)];
        let top = layers[0];
        let mut plan = Plan::new();
        plan.insert(opening);
        let spec = RootSpec { name: format!("owner of {name}"), grant: OWNER, stays: false };
        let main = plan.attach_root(task.gs(), top.0, spec);
        task.apply(plan).await.unwrap();
        let shared = Shared {
            busy: Arc::default(),
            is_toggled: Arc::default(),
            head: Arc::new(Mutex::new(top.0)),
            is_over: Arc::default(),
        };
        let (name, audit) = (name.to_owned(), audit.clone());
        let (nodes, rng) = (nodes.to_vec(), Rng::new(seed));
        Self {
            name,
            audit,
            rng,
            golden,
            main,
            shared,
            nodes,
            filter: None,
            file_filter: None,
            layers,
            made: 0,
        }
    }

    /// Changes the disk `times` times.
    pub(super) async fn run(&mut self, task: &mut Task<'_>, times: u64) {
        for _ in 0..times {
            match self.rng.below(16) {
                0..4 => self.snapshot(task).await,
                4..6 => self.filter_on_top(task).await,
                6..8 => self.filter_on_file(task).await,
                8 => self.exchange_filter(task).await,
                9 => self.toggle(task).await,
                10..13 => self.drain(task).await,
                13 => self.refused(task).await,
                _ => self.move_file(task).await,
            }
            self.pause(task).await;
        }
        self.shared.is_over.store(true, Ordering::SeqCst);
    }

    fn fresh_name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{}{what}{}", self.name, self.made)
    }

    fn top(&self) -> (NodeId, NodeId) {
        *self.layers.last().unwrap()
    }

    fn head(&self) -> NodeId {
        *self.shared.head.lock().unwrap()
    }

    async fn pause(&mut self, task: &mut Task<'_>) {
        match self.rng.below(3) {
            0 => {}
            1 => yield_now().await,
            _ => {
                let until_ns = task.local().now_ns() + self.rng.below(1_000_000);
                task.sleep_until(until_ns).await;
            }
        }
    }

    fn any_node(&mut self) -> (NodeId, String) {
        if self.rng.one_in(5) {
            return self.golden.clone();
        }
        let index = self.rng.index(self.nodes.len());
        self.nodes[index].clone()
    }

    /// Puts a plan into force; `None` if it failed, as the test wanted, or was given up.
    async fn commit(&mut self, task: &mut Task<'_>, plan: Plan) -> Option<After> {
        self.commit_with(task, plan, None).await
    }

    /// The same, with bytes that are copied from one node to another one while nobody is inside.
    async fn commit_with(
        &mut self,
        task: &mut Task<'_>,
        plan: Plan,
        copy: Option<(NodeId, NodeId)>,
    ) -> Option<After> {
        let victim = self.any_node().1;
        match self.rng.below(12) {
            0 => self.audit.fail(Fails::Stage, &victim),
            1 => self.audit.fail(Fails::Settle, &victim),
            2 => self.audit.fail(Fails::Store, &victim),
            _ => {}
        }
        let give_up = self.rng.below(24);
        let done = self.phases(task, plan, give_up, copy).await;
        self.audit.mend();
        done.unwrap_or_else(|error| {
            expect_asked_for(&error);
            None
        })
    }

    async fn phases(
        &mut self,
        task: &mut Task<'_>,
        plan: Plan,
        give_up: u64,
        copy: Option<(NodeId, NodeId)>,
    ) -> Result<Option<After>> {
        let checked = plan.check(task.gs()).map_err(|(_, error)| error)?;
        let quiet: Vec<String> = task.gs().with(|graph| {
            checked.quiet_nodes().iter().filter_map(|id| Some(graph.node(*id)?.name)).collect()
        });
        if give_up == 0 {
            return Ok(None);
        }
        let staged = task.stage(checked).await?;
        match give_up {
            1 => return Ok(None),
            2 => {
                staged.undo().await;
                return Ok(None);
            }
            _ => {}
        }
        let change = task.admit(staged).await?;
        self.audit.begin_quiet(&quiet);
        for _ in 0..self.rng.below(4) {
            yield_now().await;
        }
        if let Some((from, to)) = copy {
            let (from, to) = (change.private(from)?, change.private(to)?);
            let len = usize::try_from(from.io().len()).unwrap();
            let bytes = from.io().read_new(GuestOffset::ZERO, len).await?;
            to.io().write(GuestOffset::ZERO, bytes, WriteFlags::default()).await.0?;
        }
        self.audit.end_quiet(&quiet);
        match give_up {
            3 => {
                change.abort().await;
                return Ok(None);
            }
            4 => return Ok(None),
            _ => {}
        }
        let settled = change.settle().await?;
        if give_up == 5 {
            settled.abort().await;
            return Ok(None);
        }
        Ok(Some(settled.commit()))
    }

    async fn snapshot(&mut self, task: &mut Task<'_>) {
        if self.shared.try_take() {
            self.snapshot_locked(task).await;
            self.shared.give_back();
        }
    }

    async fn snapshot_locked(&mut self, task: &mut Task<'_>) {
        let (name, below) = (self.fresh_name("layer"), self.head());
        let len = task.gs().with(|graph| graph.node(below)).unwrap().len;
        let mut opening = Opening::new(task);
        let seed = self.rng.next_u64();
        let nodes = add_overlay(&mut opening, &self.audit, &name, (len, seed), below).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(below, nodes[0].0);
        let Some(after) = self.commit(task, plan).await else { return };
        // Nobody writes to the old layer any more.
        let frozen = self.nodes.iter().find(|(id, _)| *id == self.top().1).unwrap();
        self.audit.begin_quiet(std::slice::from_ref(&frozen.1));
        self.audit.end_quiet(std::slice::from_ref(&frozen.1));
        self.audit.freeze(&frozen.1);
        self.layers.push((nodes[0].0, nodes[1].0));
        self.filter = None;
        *self.shared.head.lock().unwrap() = self.top().0;
        self.nodes.extend(nodes);
        after.finish().await;
    }

    fn new_filter(&mut self, task: &Task<'_>, child: NodeId) -> (Opening, (NodeId, String)) {
        let name = self.fresh_name("filter");
        let len = task.gs().with(|graph| graph.node(child)).unwrap().len;
        let inner = Box::new(Scripted::filter(&name, &Script::default()));
        let mut opening = Opening::new(task);
        let children = vec![(ChildKey::File, Role::FILTER_CHILD, child)];
        let filter = opening.add(new(&name, len, Audited::new(&name, &self.audit, inner), children)).unwrap();
        (opening, (filter, name))
    }

    /// Puts a filter under the users, or takes it away.
    async fn filter_on_top(&mut self, task: &mut Task<'_>) {
        if !self.shared.try_take() {
            return;
        }
        let mut plan = Plan::new();
        if let Some((filter, below)) = self.filter {
            plan.replace(filter, below);
            plan.remove(filter);
            if let Some(after) = self.commit(task, plan).await {
                self.filter = None;
                *self.shared.head.lock().unwrap() = below;
                self.gone(after, filter).await;
            }
        } else {
            let below = self.head();
            let (opening, filter) = self.new_filter(task, below);
            plan.insert(opening);
            plan.replace(below, filter.0);
            if let Some(after) = self.commit(task, plan).await {
                self.filter = Some((filter.0, below));
                *self.shared.head.lock().unwrap() = filter.0;
                self.nodes.push(filter);
                after.finish().await;
            }
        }
        self.shared.give_back();
    }

    /// Another filter instead of the one under the users.
    async fn exchange_filter(&mut self, task: &mut Task<'_>) {
        let Some((old, below)) = self.filter else { return };
        if !self.shared.try_take() {
            return;
        }
        let (opening, filter) = self.new_filter(task, below);
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.replace(old, filter.0);
        plan.remove(old);
        if let Some(after) = self.commit(task, plan).await {
            self.filter = Some((filter.0, below));
            *self.shared.head.lock().unwrap() = filter.0;
            self.nodes.push(filter);
            self.gone(after, old).await;
        }
        self.shared.give_back();
    }

    /// Puts a filter between an overlay and its file, or takes it away.
    async fn filter_on_file(&mut self, task: &mut Task<'_>) {
        if !self.shared.try_take() {
            return;
        }
        let mut plan = Plan::new();
        if let Some((overlay, filter, file)) = self.file_filter {
            plan.set_child(overlay, ChildKey::File, file, Role::IMAGE);
            plan.remove(filter);
            if let Some(after) = self.commit(task, plan).await {
                self.file_filter = None;
                self.gone(after, filter).await;
            }
        } else {
            let (overlay, file) = self.top();
            let (opening, filter) = self.new_filter(task, file);
            plan.insert(opening);
            plan.set_child(overlay, ChildKey::File, filter.0, Role::IMAGE);
            if let Some(after) = self.commit(task, plan).await {
                self.file_filter = Some((overlay, filter.0, file));
                self.nodes.push(filter);
                after.finish().await;
            }
        }
        self.shared.give_back();
    }

    /// Moves what one of the overlays has to another file.
    async fn move_file(&mut self, task: &mut Task<'_>) {
        let index = self.rng.index(self.layers.len());
        let (overlay, old) = self.layers[index];
        if self.file_filter.is_some_and(|(filtered, ..)| filtered == overlay) || !self.shared.try_take() {
            return;
        }
        let (name, seed) = (self.fresh_name("file"), self.rng.next_u64());
        let len = task.gs().with(|graph| graph.node(old)).unwrap().len;
        let mut opening = Opening::new(task);
        let is_top = overlay == self.top().0;
        // What cannot change is copied beforehand.
        let disk = match self.nodes.iter().find(|(id, _)| *id == old) {
            Some((_, old)) if !is_top => SimDisk::new(self.audit.image(old), DiskOptions::seeded(seed)),
            _ => SimDisk::zeroed(len, seed),
        };
        let file = add_device(&mut opening, &self.audit, &name, disk).unwrap();
        let mut plan = Plan::new();
        plan.insert(opening);
        plan.set_child(overlay, ChildKey::File, file, Role::IMAGE);
        plan.remove(old);
        if let Some(after) = self.commit_with(task, plan, is_top.then_some((old, file))).await {
            if !is_top {
                self.audit.freeze(&name);
            }
            self.layers[index].1 = file;
            self.nodes.push((file, name));
            self.gone(after, old).await;
        }
        self.shared.give_back();
    }

    /// A removed node is closed before the command answers.
    async fn gone(&mut self, after: After, id: NodeId) {
        let index = self.nodes.iter().position(|(known, _)| *known == id).unwrap();
        let (_, name) = self.nodes.remove(index);
        assert_eq!(after.removed(), [name.as_str()]);
        after.finish().await;
        assert!(self.audit.is_closed(&name));
    }

    /// Makes the disk read-only for a while, unless somebody else writes.
    async fn toggle(&mut self, task: &mut Task<'_>) {
        if !self.shared.try_take() {
            return;
        }
        self.shared.is_toggled.store(true, Ordering::SeqCst);
        let toggle = |read_only: bool, head: NodeId, main: &Backend<ReadWrite>| {
            let mut plan = Plan::new();
            plan.set_grant(main.id(), if read_only { SHARING_READER } else { OWNER });
            plan.set_read_only(head, read_only);
            plan
        };
        let head = self.head();
        let plan = toggle(true, head, &self.main);
        let done = self.phases(task, plan, u64::MAX, None).await;
        match done {
            Ok(after) => after.unwrap().finish().await,
            Err(error) => {
                assert!(error.kind() == Kind::ReadOnly || error.report().contains(ASKED_FOR), "{error:?}");
                self.shared.give_back();
                return;
            }
        }
        self.pause(task).await;
        while let Err(error) = task.apply(toggle(false, head, &self.main)).await {
            expect_asked_for(&error);
            let until_ns = task.local().now_ns() + 10_000;
            task.sleep_until(until_ns).await;
        }
        self.shared.give_back();
    }

    /// Quiet sections that nest and overlap, with changes inside of them.
    async fn drain(&mut self, task: &mut Task<'_>) {
        // Before the section: whoever has it may be waiting at the gate that the section keeps closed.
        let may_change = self.shared.try_take();
        let (outer, inner) = (self.any_node(), self.any_node());
        let first = task.drain(&[outer.0]).await;
        self.audit.begin_quiet(std::slice::from_ref(&outer.1));
        self.pause(task).await;
        let everything = self.rng.one_in(3);
        let second = if everything { task.drain_all().await } else { task.drain(&[inner.0, outer.0]).await };
        self.audit.begin_quiet(std::slice::from_ref(&inner.1));
        if may_change && self.rng.one_in(2) {
            self.snapshot_locked(task).await;
        }
        self.pause(task).await;
        if self.rng.one_in(2) {
            self.audit.end_quiet(std::slice::from_ref(&inner.1));
            drop(second);
            self.pause(task).await;
            self.audit.end_quiet(std::slice::from_ref(&outer.1));
            drop(first);
        } else {
            // The second one covers what the first one did, but not in its own name if it is `drain_all`.
            drop(first);
            self.pause(task).await;
            self.audit.end_quiet(&[inner.1, outer.1]);
            drop(second);
        }
        if may_change {
            self.shared.give_back();
        }
    }

    /// Plans that are never allowed.
    async fn refused(&mut self, task: &mut Task<'_>) {
        let head = self.head();
        let mut plan = Plan::new();
        let kind = match self.rng.below(3) {
            0 => {
                let spec = RootSpec { name: "a stranger".to_owned(), grant: Grant::WRITER, stays: false };
                drop(plan.attach_root::<ReadWrite>(task.gs(), head, spec));
                Kind::InUse
            }
            1 => {
                plan.remove(head);
                Kind::InUse
            }
            _ => {
                plan.set_child(self.top().0, ChildKey::Backing, head, Role::COW);
                Kind::InvalidInput
            }
        };
        let found = task.apply(plan).await.map_err(|error| error.kind());
        // While the owner only reads, a stranger may write; on a read-only disk nobody may.
        let is_reader = self.shared.is_toggled.load(Ordering::SeqCst) && found == Err(Kind::ReadOnly);
        assert!(found == Err(kind) || is_reader, "{found:?}");
    }

    /// Names of all that is in the graph, apart from what is shared.
    pub(super) fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|(_, name)| name.clone()).collect()
    }
}
