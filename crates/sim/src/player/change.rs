//! Changes of the graph, as actors make them.

use std::collections::BTreeSet;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::draft::change;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::{GraphView, Plan, RootSpec, Task};
use drystone_core::graph::node::NodeId;
use drystone_filter::copy_on_read::entry;
use drystone_testkit::client::{BackendClient, Watched};

use super::{Player, Visit, grant_of};
use crate::audit;
use crate::image::{Format, Qcow2Kind};
use crate::stage::{Busy, Common, Front, NodeOptions};
use crate::step::{Change, Target, VisitKind};

impl Player {
    pub(super) async fn change(&mut self, step: Change) {
        let name = step.name();
        let result = match step {
            Change::Snapshot(kind) => match self.disk.front.try_take() {
                Some(busy) => self.snapshot(kind, busy).await,
                None => return,
            },
            Change::Drain(target, ns) => self.drain(target, ns).await,
            Change::Visit(kind) => self.visit(kind).await,
            Change::Leave => return self.leave().await,
        };
        self.stage.common.counts().change(name, result.is_ok());
        if let Err(error) = result {
            self.excuse_change(name, &error);
        }
    }

    /// Whether a change may be refused like this.
    ///
    /// # Panics
    /// If not.
    fn excuse_change(&self, name: &str, error: &Error) {
        let is_excused = match name {
            // Somebody writes, and is asked not to.
            "jealous reader comes" => error.kind() == Kind::InUse,
            // Somebody does not let others write.
            "writer comes" => error.kind() == Kind::InUse,
            _ => false,
        };
        assert!(is_excused, "'{name}' of disk {} failed: {}", self.disk.number, error.report());
    }

    async fn snapshot(&self, kind: Qcow2Kind, busy: Busy) -> Result<()> {
        let (common, front) = (self.stage.common.clone(), self.disk.front.clone());
        let work = async move |task: &mut Task<'_>| {
            let _busy = busy;
            snapshot(task, &common, &front, kind).await
        };
        self.stage.on_control(work).await
    }

    async fn drain(&self, target: Target, ns: u64) -> Result<()> {
        let (common, front) = (self.stage.common.clone(), self.disk.front.clone());
        let work = async move |task: &mut Task<'_>| {
            drain(task, &common, &front, target, ns).await;
            Ok(())
        };
        self.stage.on_control(work).await
    }

    async fn visit(&mut self, kind: VisitKind) -> Result<()> {
        self.leave().await;
        let (front, name) =
            (self.disk.front.clone(), format!("{} of disk {}", kind.name(), self.disk.number));
        let work = async move |task: &mut Task<'_>| {
            let head = task.gs().find(&front.head())?;
            let node = task.gs().with(|graph| entry(graph, head));
            let mut plan = Plan::new();
            let spec = RootSpec { name, grant: grant_of(kind), stays: false };
            let backend: Backend<ReadWrite> = plan.attach_root(task.gs(), node, spec);
            task.apply(plan).await.map(|()| backend)
        };
        let backend = self.stage.on_control(work).await?;
        self.client = Watched::new(BackendClient::new(&backend, &self.local), &self.disk.model);
        self.visit = Some(Visit { backend, kind });
        Ok(())
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
        self.stage.common.counts().change("user goes", result.is_ok());
        if let Err(error) = result {
            self.excuse_change("user goes", &error);
        }
    }
}

/// A new image takes the place of the one on top.
async fn snapshot(task: &mut Task<'_>, common: &Common, front: &Front, kind: Qcow2Kind) -> Result<()> {
    let head = front.head();
    let info = task.gs().with(|graph| graph.node_named(&head));
    let (info, below) = info
        .zip(common.find(&head).map(|(sheet, _)| sheet))
        .ok_or_else(|| Error::new(Kind::NotFound, "the image on top is not there").on_node(head.clone()))?;
    let bytes = kind.image(info.len, Some((&head, below.format.driver())))?;
    let sheet = common.add(bytes, Format::Qcow2(kind), Some(head.clone()));
    let done = change(task, common.opener(), async |draft, task| {
        let options = NodeOptions { with_backing: false, ..NodeOptions::WRITABLE };
        common.bring_in(draft, task, &sheet, options).await?;
        draft.snapshot(task, &head, &sheet.name)
    });
    match done.await {
        Ok(()) => front.set_head(&sheet.name),
        Err(error) => {
            common.forget(&sheet.name);
            return Err(error);
        }
    }
    Ok(())
}

/// A quiet section.
async fn drain(task: &mut Task<'_>, common: &Common, front: &Front, target: Target, ns: u64) {
    let Ok(head) = task.gs().find(&front.head()) else { return };
    let Some(nodes) = task.gs().with(|graph| targets(graph, head, target)) else { return };
    let quiet = match target {
        Target::All => task.drain_all().await,
        Target::Image(_) | Target::File(_) => task.drain(&[nodes.drained]).await,
    };
    // A file is quiet as long as those that reach it are, which can change only if somebody else gets to it.
    let files: Vec<_> = nodes.files.iter().filter_map(|name| common.find(name)).collect();
    files.iter().for_each(|(sheet, watch)| watch.begin_quiet(&sheet.name, &sheet.disk));
    task.gs().with(audit::demand_sound);
    let until_ns = task.local().now_ns().saturating_add(ns);
    task.sleep_until(until_ns).await;
    files.iter().for_each(|(_, watch)| watch.end_quiet());
    drop(quiet);
}

/// What is drained, and the images whose files are quiet then.
struct Drained {
    drained: NodeId,
    files: BTreeSet<String>,
}

fn targets(graph: &GraphView<'_>, head: NodeId, target: Target) -> Option<Drained> {
    let images = audit::chain(graph, head);
    let nth = |number: usize| images.get(number.checked_rem(images.len())?);
    Some(match target {
        Target::Image(number) => {
            let image = nth(number)?;
            Drained { drained: image.id, files: BTreeSet::from([image.name.clone()]) }
        }
        Target::File(number) => {
            let image = nth(number)?;
            let file = image.edges.iter().find(|edge| edge.key.to_string() == "file")?;
            Drained { drained: file.child, files: BTreeSet::from([image.name.clone()]) }
        }
        Target::All => {
            let files = graph
                .nodes()
                .into_iter()
                .filter_map(|node| node.name.strip_suffix("-file").map(str::to_owned));
            Drained { drained: head, files: files.collect() }
        }
    })
}
