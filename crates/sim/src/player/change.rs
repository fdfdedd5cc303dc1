//! Changes of the graph, as actors make them: the command goes to the control thread, and its answer is looked at.

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::resize::resize;
use drystone_core::backend::{Backend, ReadWrite, RootId};
use drystone_core::control::{GraphView, Plan, RootSpec, Task};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_testkit::client::{BackendClient, Watched};
use drystone_testkit::model::Ending;

use super::{Player, Visit, bitmap, graph, shorter};
use crate::audit;
use crate::image::{Format, Qcow2Kind};
use crate::step::{Change, VisitKind};

/// What a user wants and shares.
fn grant_of(kind: VisitKind) -> Grant {
    let reads = Perm::CONSISTENT_READ;
    let (perm, shared) = match kind {
        VisitKind::Writer | VisitKind::Intruder => (reads.with(Perm::WRITE), Perm::ALL),
        VisitKind::Reader => (reads, Perm::ALL),
        VisitKind::Jealous => (reads, Perm::ALL.without(Perm::WRITE)),
    };
    Grant { perm, shared }
}

/// How a change may be refused, beside failing devices.
fn refusals(change: &Change) -> &'static [Kind] {
    match change {
        // A job, or somebody who does not want others to write.
        Change::Snapshot(_) => &[Kind::InUse],
        // A job needs to write to it meanwhile.
        Change::Reopen(..) => &[Kind::InUse, Kind::ReadOnly],
        // Somebody else was faster.
        Change::Delete => &[Kind::InUse, Kind::NotFound],
        Change::Filter(_) => &[Kind::InUse, Kind::ReadOnly],
        // They are there, or not; the image is of version 2, or read-only; or what was stored of one was not all.
        Change::Bitmap(..) => {
            &[Kind::AlreadyExists, Kind::NotFound, Kind::Unsupported, Kind::ReadOnly, Kind::InvalidInput]
        }
        Change::DoomedSnapshot(_) => &[Kind::InUse, Kind::NotFound],
        Change::Drain(..) | Change::Leave => &[],
        // The image on top may be read-only, and what users stand on may have gone meanwhile.
        Change::Freeze | Change::Thaw => &[Kind::InUse, Kind::ReadOnly],
        Change::Visit(VisitKind::Writer | VisitKind::Intruder) => {
            &[Kind::InUse, Kind::ReadOnly, Kind::NotFound]
        }
        // Version 2 of the format cannot hide a longer image behind a new part.
        // Nor can it say how long the disk of an internal snapshot was.
        Change::Grow(_) | Change::Shorten(_) => &[Kind::InUse, Kind::ReadOnly, Kind::Unsupported],
        // A job, or bitmaps that would not know; a raw image, a data file; one that is not there any more; narrow counts.
        Change::Keep(..) => {
            &[Kind::InUse, Kind::ReadOnly, Kind::Unsupported, Kind::NotFound, Kind::InvalidInput]
        }
        Change::Lazy(_) => &[Kind::InUse, Kind::ReadOnly, Kind::Unsupported],
        Change::Visit(VisitKind::Reader) => &[Kind::NotFound],
        Change::Visit(VisitKind::Jealous) => &[Kind::InUse, Kind::NotFound],
    }
}

impl Player {
    pub(super) async fn change(&mut self, change: Change) {
        let result = match &change {
            Change::Snapshot(kind) => self.snapshot(*kind, false).await,
            Change::DoomedSnapshot(kind) => self.snapshot(*kind, true).await,
            Change::Drain(target, ns) => {
                let (target, ns) = (*target, *ns);
                self.command(async move |task, desk| Some(graph::drain(task, desk, target, ns).await)).await
            }
            Change::Visit(kind) => self.visit(*kind).await,
            Change::Leave => return self.leave().await,
            Change::Reopen(number, bytes) => {
                let (number, bytes) = (*number, *bytes);
                self.command(async move |task, desk| graph::reopen(task, desk, number, bytes).await).await
            }
            Change::Freeze => self.freeze(true).await,
            Change::Thaw => self.freeze(false).await,
            Change::Grow(by) => self.resize(|len| Some(len.saturating_add(*by))).await,
            // A user who may, makes a file longer by writing behind its end, wherever that is by then.
            Change::Shorten(_) if self.disk.resizes && self.is_raw() => None,
            Change::Shorten(by) => self.resize(|len| shorter(len, *by)).await,
            Change::Keep(verb, number) => self.keep(*verb, *number).await,
            Change::Lazy(is_on) => {
                let is_on = *is_on;
                self.command(async move |task, desk| graph::set_lazy(task, desk, is_on).await).await
            }
            Change::Filter(comes) => self.filter(*comes).await,
            Change::Bitmap(verb, number) => {
                let (verb, number) = (*verb, *number);
                self.command(async move |task, desk| bitmap::change(task, desk, verb, number).await).await
            }
            Change::Delete => self.command(async |task, desk| graph::delete(task, desk).await).await,
        };
        if let Some(result) = result {
            self.note(change.name(), refusals(&change), result);
        }
    }

    /// Counts how a command ended.
    ///
    /// # Panics
    /// If it must not have ended like this.
    pub(super) fn note(&self, name: &str, refusals: &[Kind], result: Result<()>) {
        self.stage.common.counts().change(name, result.is_ok());
        let Err(error) = result else { return };
        self.stage.common.counts().refusal(name, error.kind());
        let is_trouble = matches!(error.kind(), Kind::Io | Kind::NoSpace) && self.stage.common.is_troubled();
        let is_excused = refusals.contains(&error.kind()) || is_trouble || self.stage.common.is_damaged();
        assert!(is_excused, "'{name}' of disk {} failed: {}", self.disk.number, error.report());
    }

    /// Runs a command on the control thread; `None` if there was nothing to do.
    pub(super) async fn command<F>(&self, work: F) -> Option<Result<()>>
    where
        F: for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>, &'a graph::Desk) -> Option<Result<()>> + Send + 'static,
    {
        let (common, front) = (self.stage.common.clone(), self.disk.front.clone());
        let desk = graph::Desk { common, front, main: self.disk.main.clone(), resizes: self.disk.resizes };
        let done = self.stage.on_control(async move |task: &mut Task<'_>| match work(task, &desk).await {
            None => Ok(None),
            Some(result) => result.map(Some),
        });
        done.await.transpose()
    }

    async fn snapshot(&self, kind: Qcow2Kind, is_doomed: bool) -> Option<Result<()>> {
        let busy = self.disk.front.try_take()?;
        let done = self.command(async move |task, desk| {
            let _busy = busy;
            Some(graph::snapshot(task, desk, kind, is_doomed).await)
        });
        let result = done.await;
        assert!(
            !is_doomed || !matches!(result, Some(Ok(()))),
            "a snapshot with a command that fails was taken"
        );
        result
    }

    async fn freeze(&self, is_frozen: bool) -> Option<Result<()>> {
        let busy = self.disk.front.try_take()?;
        if is_frozen {
            self.disk.front.freeze();
        }
        let done = self.command(async move |task, desk| {
            let _busy = busy;
            Some(graph::set_read_only(task, desk, is_frozen).await)
        });
        done.await
    }

    async fn filter(&self, comes: bool) -> Option<Result<()>> {
        let busy = self.disk.front.try_take()?;
        let name = format!("cor{}", self.disk.number);
        let done = self.command(async move |task, desk| {
            let _busy = busy;
            if comes {
                graph::filter_in(task, desk, name).await
            } else {
                graph::filter_out(task, &name).await
            }
        });
        done.await
    }

    fn is_raw(&self) -> bool {
        let top = self.stage.common.find(&self.disk.front.head());
        top.is_some_and(|(sheet, _)| sheet.format == Format::Raw)
    }

    /// Another length, by a command.
    async fn resize(&self, from: impl FnOnce(u64) -> Option<u64>) -> Option<Result<()>> {
        let _busy = self.disk.front.try_take()?;
        let (write, len) = {
            let mut model = self.disk.model.borrow_mut();
            let (old_len, len) = (model.len(), from(model.len())?);
            if len < old_len {
                self.disk.shorten();
            }
            (model.begin_resize(len), len)
        };
        let done = self.command(async move |task, desk| Some(resize(task, &desk.front.head(), len).await));
        let result = done.await;
        let ending = if matches!(result, Some(Ok(()))) { Ending::Done } else { Ending::Failed };
        self.disk.model.borrow_mut().end_write(write, ending);
        result
    }

    async fn visit(&mut self, kind: VisitKind) -> Option<Result<()>> {
        self.leave().await;
        let (main, name) = (self.disk.main.id(), format!("{} of disk {}", kind.name(), self.disk.number));
        let work = async move |task: &mut Task<'_>| {
            let node = task.gs().with(|graph| {
                let top = node_of(graph, main);
                match kind {
                    VisitKind::Intruder => audit::chain(graph, top?).get(1).map(|below| below.id),
                    _ => top,
                }
            });
            let Some(node) = node else { return Ok(None) };
            let mut plan = Plan::new();
            let spec = RootSpec { name, grant: grant_of(kind), stays: false };
            let backend: Backend<ReadWrite> = plan.attach_root(task.gs(), node, spec);
            task.apply(plan).await?;
            // A snapshot may have come between, and the user would see what is under it. And what an intruder wants to
            // write to may not be under anything any more.
            let is_there = task.gs().with(|graph| is_at_head(graph, main, node));
            let is_below = task.gs().with(|graph| audit::reaches(graph, main, node)) && !is_there;
            assert!(kind != VisitKind::Intruder || !is_below, "an intruder was let in");
            if kind == VisitKind::Intruder || !is_there {
                let mut plan = Plan::new();
                plan.detach_root(backend.id());
                task.apply(plan).await?;
                return Ok(None);
            }
            Ok(Some(backend))
        };
        match self.stage.on_control(work).await {
            Ok(None) => None,
            Err(error) => Some(Err(error)),
            Ok(Some(backend)) => {
                self.client = Watched::new(BackendClient::new(&backend, &self.local), &self.disk.model);
                self.visit = Some(Visit { backend });
                Some(Ok(()))
            }
        }
    }

    /// The user that came, if one did, goes.
    pub(super) async fn leave(&mut self) {
        let Some(visit) = self.visit.take() else { return };
        self.client = Watched::new(BackendClient::new(&self.disk.main, &self.local), &self.disk.model);
        let work = async move |task: &mut Task<'_>| {
            let mut plan = Plan::new();
            plan.detach_root(visit.backend.id());
            task.apply(plan).await
        };
        let result = self.stage.on_control(work).await;
        self.note(Change::Leave.name(), refusals(&Change::Leave), result);
    }
}

/// Where a user is.
pub(super) fn node_of(graph: &GraphView<'_>, user: RootId) -> Option<NodeId> {
    graph.roots().into_iter().find(|root| root.id == user).and_then(|root| root.node)
}

/// Whether `node` shows the image that `main` sees.
pub(super) fn is_at_head(graph: &GraphView<'_>, main: RootId, node: NodeId) -> bool {
    let image = |node| audit::chain(graph, node).first().map(|image| image.id);
    node_of(graph, main).is_some_and(|top| image(top) == image(node))
}

/// What a failed command says.
pub(super) fn not_there(what: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} is not there"))
}
