//! `block-stream`: an image gets what lower layers have for it, and does not need them any more.
//!
//! ```text
//!   before       while it runs              after
//!
//!   guest        guest    job               guest
//!     |            |     /                    |
//!   [top]        [copy-on-read]             [top]
//!     |            |                          |
//!   [middle]     [top] ...frozen...           |
//!     |            |                          |
//!   [bottom]     [middle] [bottom]            |
//!     |            |                          |
//!   [base]       [base]                     [base]
//! ```
//! | module | what |
//! |---|---|
//! | `chain` | the layers, found in the graph |
//! | `copy` | the code of the job: what has to be copied, several pieces at a time |
//! | `end` | the last step: one change that takes out the filter and the layers, and renames the backing file |
//!
//! Invariants: the bytes that the top shows never change; nothing is copied around the filter, which keeps guests' writes
//! and copies apart; until the last step is committed the chain is as it was, and what was copied by then stays copied.

mod chain;
mod copy;
mod end;

use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_core::backend::{Backend, Mode, ReadOnly, ReadWrite};
use drystone_core::control::{Demand, GraphView, Opening, Plan, RootSpec, Task};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_filter::copy_on_read::CopyOnRead;

use crate::event::JobType;
use crate::jobs::{Group, JobSpec, Jobs};
use crate::policy::OnError;
use crate::run::Running;
use chain::Chain;
use copy::Copying;
use end::StreamEnding;

/// How many requests are in flight.
const LANES: usize = 8;

/// Down to where is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamBase {
    /// Everything; the image needs no backing image afterwards.
    None,
    /// `base`, `base-node`: this image stays, as the backing image.
    Base(NodeId),
    /// `bottom`: this image is the last that is copied; what is its backing image in the end stays.
    Bottom(NodeId),
}

/// How images name other images in their headers.
pub trait BackingNames: Send + Sync + 'static {
    /// What an image writes to name the image in node `base` as its backing file.
    ///
    /// # Errors
    /// If there is no name for it.
    fn name_of(&self, graph: &GraphView<'_>, base: NodeId) -> Result<String>;
}

/// The arguments of `block-stream`.
#[derive(Clone)]
pub struct StreamOptions {
    /// `job-id`.
    pub id: String,
    /// `device`: the image that gets the data, or a filter above it.
    pub top: NodeId,
    /// `base`, `base-node` or `bottom`.
    pub base: StreamBase,
    /// `backing-file`: what the image shall call the base in its header, instead of what `names` says.
    pub backing_file: Option<String>,
    /// `backing-mask-protocol`: a base that is no image but a bare file is called `raw`.
    pub mask_protocol: bool,
    /// `speed`: bytes per second, not negative; 0 for no limit.
    pub speed: i64,
    /// `on-error`.
    pub on_error: OnError,
    /// `filter-node-name`.
    pub filter_node_name: Option<String>,
    /// `auto-finalize`.
    pub auto_finalize: bool,
    /// `auto-dismiss`.
    pub auto_dismiss: bool,
    /// Whom it completes with.
    pub group: Option<Group>,
    /// What images are called.
    pub names: Arc<dyn BackingNames>,
}

impl StreamOptions {
    /// Copies everything into `top`, as fast as it can, and needs nobody to end.
    #[must_use]
    pub fn new(id: impl Into<String>, top: NodeId, names: Arc<dyn BackingNames>) -> Self {
        Self {
            id: id.into(),
            top,
            base: StreamBase::None,
            backing_file: None,
            mask_protocol: false,
            speed: 0,
            on_error: OnError::Report,
            filter_node_name: None,
            auto_finalize: true,
            auto_dismiss: true,
            group: None,
            names,
        }
    }

    fn spec(&self) -> JobSpec {
        JobSpec {
            speed: self.speed,
            auto_finalize: self.auto_finalize,
            auto_dismiss: self.auto_dismiss,
            lanes: LANES,
            group: self.group.clone(),
            ..JobSpec::new(self.id.clone(), JobType::Stream)
        }
    }
}

/// Starts the job. It runs when this returns.
///
/// # Errors
/// [`Kind::InvalidInput`] and [`Kind::NotFound`] for arguments that make no sense, [`Kind::InUse`] if another job works on
/// one of the layers or somebody may change them, [`Kind::AlreadyExists`] for a taken name. The graph is as it was then.
pub async fn start(jobs: &Jobs, task: &mut Task<'_>, options: StreamOptions) -> Result<()> {
    jobs.demand_free(&options.id)?;
    let chain = task.gs().with(|graph| Chain::find(graph, options.top, options.base))?;
    if options.backing_file.is_some() && chain.base.is_none() {
        let text = "a backing file is named, and everything is copied";
        return Err(Error::new(Kind::InvalidInput, text).in_option("backing-file"));
    }
    let (copier, mut ending) = insert_filter(task, chain, &options).await?;
    let copying = Copying::new(copier, &ending, options.on_error);
    let spec = JobSpec { total: copying.len_bytes(), ..options.spec() };
    let created = match jobs.create(spec, ending.lend()) {
        Ok(created) => created,
        Err(error) => {
            ending.leave(task).await;
            return Err(error);
        }
    };
    created.launch(async move |job: &mut Running<'_>| copying.run(job).await)
}

/// Reads in order to copy, and lets others do anything.
const COPIER: Grant = Grant { perm: Perm::CONSISTENT_READ.with(Perm::WRITE_UNCHANGED), shared: Perm::ALL };
/// The top is not resized.
const TOP: Grant = Grant { perm: Perm::NONE, shared: Perm::ALL.without(Perm::RESIZE) };
/// Layers that are copied from do not change.
const LAYER: Grant = Grant { perm: Perm::NONE, shared: Perm::CONSISTENT_READ.with(Perm::WRITE_UNCHANGED) };

/// One change: the filter comes in, all users of the top move to it, the layers are the job's.
async fn insert_filter(
    task: &mut Task<'_>,
    chain: Chain,
    options: &StreamOptions,
) -> Result<(Backend<ReadWrite>, StreamEnding)> {
    let by = format!("job '{}'", options.id);
    let top = chain.top;
    let mut opening = Opening::new(task);
    let filter = CopyOnRead::new(chain.bottom).node(options.filter_node_name.clone(), top, chain.len_bytes);
    let filter = opening.add(filter)?;
    let mut plan = Plan::new();
    for node in [top].iter().chain(&chain.layers) {
        plan.demand(*node, Demand::NoJob);
    }
    plan.insert(opening);
    plan.replace(top, filter);
    chain.read_only.iter().for_each(|node| plan.set_read_only(*node, false));
    let frozen: Vec<_> = [(filter, ChildKey::File)].into_iter().chain(chain.links.iter().copied()).collect();
    frozen.iter().for_each(|(node, key)| plan.freeze(*node, *key, &by));
    let spec = |grant| RootSpec { name: by.clone(), grant, stays: true };
    let copier: Backend<ReadWrite> = plan.attach_root(task.gs(), filter, spec(COPIER));
    let mut roots = vec![copier.id()];
    let held = chain.layers.iter().map(|layer| (*layer, LAYER));
    for (node, grant) in [(top, TOP)].into_iter().chain(held) {
        roots.push(beside(&mut plan, task, (node, spec(grant)), &copier));
    }
    task.apply(plan).await?;
    let ending = StreamEnding::new(chain, (filter, copier.clone()), (roots, frozen), by, options);
    Ok((copier, ending))
}

fn beside<M: Mode>(
    plan: &mut Plan,
    task: &Task<'_>,
    (node, spec): (NodeId, RootSpec),
    copier: &Backend<M>,
) -> drystone_core::backend::RootId {
    let held: Backend<ReadOnly> = plan.attach_root_beside(task.gs(), node, spec, copier);
    held.id()
}
