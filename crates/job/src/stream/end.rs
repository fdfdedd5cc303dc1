//! The last step of a stream: one change of the graph, in which the image also gets the new name of its backing file.
//!
//! ```text
//!   find the base ─► plan: thaw, give up layers, image ─backing─► base, users back to the top ─► stage ─► admit
//!        ^                                                                                               |
//!        '───────── another base by now: once more ◄─── nobody can change it any more: the same? ◄───────'
//!                                                                      | yes
//!                                     name in the header (durable) ─► settle ─► commit
//! ```
//! The base is not the job's: others may replace it while the job runs. So it is looked up again when the change has the
//! right to be made, and what is linked is what is there.
//!
//! Invariant: the image is named a new backing file only when all data is stored that it does not find there. If storing
//! fails after that, the old chain stays, and the image may name the new base: both are true then.

use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_core::backend::{Backend, ReadWrite, RootId};
use drystone_core::control::{Change, GraphView, Plan, Task};
use drystone_core::driver::BackingFile;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::role::Role;
use drystone_core::runtime::LocalFuture;

use super::chain::{Chain, below, unfiltered};
use super::{BackingNames, StreamOptions};
use crate::ending::Ending;

/// What a stream has in the graph, and how it gives it up. Clones stand for the same.
#[derive(Clone)]
pub(super) struct StreamEnding {
    chain: Chain,
    filter: NodeId,
    roots: Vec<RootId>,
    frozen: Vec<(NodeId, ChildKey)>,
    by: String,
    backing_file: Option<String>,
    mask_protocol: bool,
    names: Arc<dyn BackingNames>,
    /// Sees the filter.
    copier: Backend<ReadWrite>,
    /// Nothing of it is in the graph any more.
    is_gone: bool,
}

impl StreamEnding {
    pub(super) fn new(
        chain: Chain,
        (filter, copier): (NodeId, Backend<ReadWrite>),
        (roots, frozen): (Vec<RootId>, Vec<(NodeId, ChildKey)>),
        by: String,
        options: &StreamOptions,
    ) -> Self {
        Self {
            chain,
            filter,
            roots,
            frozen,
            by,
            backing_file: options.backing_file.clone(),
            mask_protocol: options.mask_protocol,
            names: Arc::clone(&options.names),
            copier,
            is_gone: false,
        }
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// For the job.
    pub(super) fn lend(&self) -> Self {
        self.clone()
    }

    /// A plan that gives up everything; `restore`: nodes become read-only again that were.
    fn leaving(&self, restore: bool) -> Plan {
        let mut plan = Plan::new();
        self.frozen.iter().for_each(|(node, key)| plan.thaw(*node, *key, &self.by));
        self.roots.iter().for_each(|root| plan.detach_root(*root));
        plan.replace(self.filter, self.chain.top);
        if restore {
            self.chain.read_only.iter().for_each(|node| plan.set_read_only(*node, true));
        }
        plan
    }

    /// A plan that also gives the image the backing image `base`, or none.
    fn linking(&self, base: Option<NodeId>, restore: bool) -> Plan {
        let mut plan = self.leaving(restore);
        match base {
            _ if !self.chain.has_backing => {}
            Some(base) => plan.set_child(self.chain.image, ChildKey::Backing, base, Role::COW),
            None => plan.remove_child(self.chain.image, ChildKey::Backing),
        }
        plan
    }

    /// Takes the filter out and leaves the chain as it was.
    pub(super) async fn leave(&mut self, task: &mut Task<'_>) {
        if std::mem::replace(&mut self.is_gone, true) {
            return;
        }
        if task.apply(self.leaving(true)).await.is_err() {
            // What cannot become read-only stays writable; nobody but its users can do something about it.
            let _ = task.apply(self.leaving(false)).await;
        }
    }

    /// The base as it is now.
    fn base(&self, task: &Task<'_>) -> Option<NodeId> {
        let above = self.chain.above_base?;
        task.gs().with(|graph| below(graph, above))
    }

    async fn complete(&mut self, task: &mut Task<'_>) -> Result<()> {
        // Like any request: not inside of somebody's quiet section. And little is left to store while users wait.
        task.enter(&self.copier).await.flush().await?;
        loop {
            let base = self.base(task);
            match self.complete_on(task, base).await {
                Ok(true) => return Ok(()),
                // What the plan was about is not there any more.
                Ok(false) => {}
                Err(_) if self.base(task) != base => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Links the image to `base`; `false` if somebody has replaced that in between.
    async fn complete_on(&mut self, task: &mut Task<'_>, base: Option<NodeId>) -> Result<bool> {
        let name = self.backing_name(task, base)?;
        let checked = match self.linking(base, true).check(task.gs()) {
            Ok(checked) => checked,
            // Somebody writes to what was read-only: then it stays writable.
            Err(_) => self.linking(base, false).check(task.gs()).map_err(|(_, error)| error)?,
        };
        let staged = task.stage(checked).await?;
        // The right to change is taken now; after this nobody replaces the base.
        let change = task.admit(staged).await?;
        if change.sees(|graph| self.chain.above_base.and_then(|above| below(graph, above)) != base) {
            change.abort().await;
            return Ok(false);
        }
        self.commit(change, name).await.map(|()| true)
    }

    async fn commit(&mut self, change: Change<'_>, name: Option<BackingFile>) -> Result<()> {
        if self.chain.has_backing
            && let Err(error) = self.rename(&change, name.as_ref()).await
        {
            change.abort().await;
            return Err(error);
        }
        let after = change.settle().await?.commit();
        self.is_gone = true;
        after.finish().await;
        Ok(())
    }

    async fn rename(&self, change: &Change<'_>, name: Option<&BackingFile>) -> Result<()> {
        let private = change.private(self.chain.image)?;
        let io = private.io();
        let result = io.node().driver().change_backing_file(io, name).await;
        result.map_err(|error| error.on_node(io.node().name()))
    }

    /// How the image shall name `base`.
    fn backing_name(&self, task: &Task<'_>, base: Option<NodeId>) -> Result<Option<BackingFile>> {
        let Some(base) = base.filter(|_| self.chain.has_backing) else { return Ok(None) };
        task.gs().with(|graph| self.name_in(graph, base).map(Some))
    }

    fn name_in(&self, graph: &GraphView<'_>, base: NodeId) -> Result<BackingFile> {
        let image = unfiltered(graph, base).ok_or_else(|| Error::new(Kind::NotFound, "the base is gone"))?;
        let name = match &self.backing_file {
            Some(name) => name.clone(),
            None => self.names.name_of(graph, image.id)?,
        };
        let is_bare = graph.node_handle(image.id).is_some_and(|node| node.driver().disk().is_some());
        let format = if self.mask_protocol && is_bare { "raw" } else { image.format_name };
        Ok(BackingFile { name: name.into_bytes(), format: Some(format.as_bytes().to_vec()) })
    }
}

impl Ending for StreamEnding {
    fn prepare<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, Result<()>> {
        Box::pin(self.complete(task))
    }

    fn abort<'a>(&'a mut self, task: &'a mut Task<'_>) -> LocalFuture<'a, ()> {
        Box::pin(self.leave(task))
    }
}
