//! [`Draft`]: commands on the block graph, composed into one plan that happens as a whole or not at all.
//!
//! ```text
//!   Draft::new ─ add ─ snapshot ─ reopen ─ ... ─ apply     one plan: all of it, in one moment
//!                  │       any error                │ refused, or failed on the way
//!                  └────────────► abort ◄───────────┘      as before; new files are removed, new nodes closed
//! ```
//! | command | what |
//! |---|---|
//! | [`Draft::add`], [`Draft::del`] | nodes come and go |
//! | [`Draft::snapshot`], [`Draft::snapshot_sync`], [`Draft::put_new_overlay`] | an overlay takes the place of a node |
//! | [`Draft::reopen`] | nodes get other options |
//!
//! Later commands of a draft see the nodes that earlier ones bring in. [`change`] aborts by itself.
//!
//! Invariant: nothing but new files exists of a draft before it is applied. Not here: writing to images
//! ([`mod@crate::resize`]).

mod internal;
mod reopen;
mod snapshot;

use std::path::PathBuf;

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{Plan, Task};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::Grant;
use drystone_core::snapshots::NewSnapshot;

use crate::open::Opener;
use crate::options::Options;
use crate::report::Warning;
use crate::request::{OpenRequest, Source};

pub use snapshot::{OverlayMode, SnapshotSync};

/// Commands that happen together.
#[must_use = "a draft that is dropped leaves the files that it has made"]
pub struct Draft {
    opener: Opener,
    plan: Plan,
    /// Files that were not there before.
    made: Vec<PathBuf>,
    warnings: Vec<Warning>,
    /// Internal snapshots, in the order in which they are taken.
    internal: Vec<(NodeId, NewSnapshot)>,
}

/// Applies what `commands` put into a draft; aborts it if they fail.
///
/// # Errors
/// Those of the commands and of the plan. Everything is as before then.
pub async fn change<T>(
    task: &mut Task<'_>,
    opener: &Opener,
    commands: impl AsyncFnOnce(&mut Draft, &mut Task<'_>) -> Result<T>,
) -> Result<T> {
    let mut draft = Draft::new(opener);
    match commands(&mut draft, task).await {
        Ok(value) => draft.apply(task).await.map(|()| value),
        Err(error) => {
            draft.abort(task).await;
            Err(error)
        }
    }
}

impl Draft {
    /// An empty one.
    pub fn new(opener: &Opener) -> Self {
        Self {
            opener: opener.clone(),
            plan: Plan::new(),
            made: Vec::new(),
            warnings: Vec::new(),
            internal: Vec::new(),
        }
    }

    /// The plan, for steps that are no business of this crate: users that come and go.
    pub fn plan(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// What the user should know of what was opened so far.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The node called `name`, of the graph or of those that the draft brings in.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn find(&self, task: &Task<'_>, name: &str) -> Result<NodeId> {
        self.plan.find(task.gs(), name)
    }

    /// `blockdev-add`: opens a node by its options. It stays until it is deleted.
    ///
    /// # Errors
    /// As [`Opener::open`]; [`Kind::InvalidInput`] without a name for the node.
    pub async fn add(&mut self, task: &mut Task<'_>, options: Options) -> Result<NodeId> {
        if !options.has("node-name") {
            return Err(Error::new(Kind::InvalidInput, "the node needs a name").in_option("node-name"));
        }
        if !options.has("driver") {
            return Err(Error::new(Kind::InvalidInput, "it is missing").in_option("driver"));
        }
        let mut request = OpenRequest::of(Source::Options(options));
        request.owned = true;
        // Locks are taken for users, and there are none yet.
        request.users = Some(Grant::PASSIVE);
        self.open(task, &request).await
    }

    /// Opens nodes among those that the draft brings in.
    async fn open(&mut self, task: &mut Task<'_>, request: &OpenRequest) -> Result<NodeId> {
        let opening = self.plan.resume(task);
        let opened = self.opener.open_in(task, opening, request).await?;
        self.warnings.extend(opened.warnings);
        self.plan.insert(opened.opening);
        Ok(opened.top)
    }

    /// `blockdev-del`: takes a node out of the graph, with all below it that nobody else uses or has named. When the
    /// draft is applied, their files are closed and the locks are gone.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InUse`] for a node that was not opened by a name of its own. That it has no user is
    /// checked when the draft is applied.
    pub fn del(&mut self, task: &Task<'_>, name: &str) -> Result<()> {
        let node = self.find(task, name)?;
        if task.gs().with(|graph| graph.node(node)).is_some_and(|info| !info.owned) {
            let text = "it was opened together with another node, and goes with that one";
            return Err(Error::new(Kind::InUse, text).on_node(name));
        }
        self.plan.remove(node);
        Ok(())
    }

    /// Does it all. When it is done, nodes that have left the graph are closed.
    ///
    /// # Errors
    /// Whatever keeps any part from happening; everything is as before then.
    pub async fn apply(mut self, task: &mut Task<'_>) -> Result<()> {
        let plan = std::mem::take(&mut self.plan);
        let applied = match self.internal.as_slice() {
            [] => task.apply(plan).await,
            snapshots => internal::apply(task, plan, snapshots).await,
        };
        match applied {
            Ok(()) => Ok(()),
            Err(error) => {
                self.abort(task).await;
                Err(error)
            }
        }
    }

    /// Gives it up: new nodes are closed, and new files removed. (An error of removing would hide the one that led here.)
    pub async fn abort(self, task: &mut Task<'_>) {
        self.plan.close().await;
        for path in self.made {
            let _ = drystone_sys::path::remove_file(task.local(), path).await;
        }
    }
}
