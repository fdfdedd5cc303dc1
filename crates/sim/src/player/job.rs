//! What actors ask of jobs. A disk's stream is called after the disk.

use std::sync::Arc;

use drystone_base::{Kind, Result};
use drystone_core::control::{GraphView, Task};
use drystone_core::graph::node::NodeId;
use drystone_filter::copy_on_read::entry;
use drystone_job::stream::{BackingNames, StreamBase, StreamOptions, start};
use drystone_job::{Cancel, Jobs};

use super::change::not_there;
use super::{Player, graph};
use crate::step::{JobStep, Reach, Stream};

/// Names of nodes are the names of images.
struct NodeNames;

impl BackingNames for NodeNames {
    fn name_of(&self, graph: &GraphView<'_>, base: NodeId) -> Result<String> {
        graph.node(base).map(|node| node.name).ok_or_else(|| not_there("the base"))
    }
}

impl Player {
    pub(super) async fn job(&mut self, step: JobStep) {
        let (name, jobs) = (step.name(), self.stage.jobs.clone());
        let id = format!("stream{}", self.disk.number);
        let result = match step {
            JobStep::Stream(stream) => {
                let Some(start) = self.disk.front.try_start() else { return };
                let done = self.command(async move |task, desk| {
                    let _start = start;
                    Some(begin(task, desk, &jobs, id, stream).await)
                });
                done.await
            }
            JobStep::Pause => Some(jobs.pause(&id)),
            JobStep::Resume => Some(jobs.resume(&id)),
            JobStep::Cancel(false) => Some(jobs.cancel(&id, Cancel::Force)),
            JobStep::Cancel(true) => Some(jobs.cancel(&id, Cancel::Soft)),
            JobStep::Complete => Some(jobs.complete(&id)),
            JobStep::Finalize => Some(jobs.finalize(&id)),
            JobStep::Speed(speed) => Some(jobs.set_speed(&id, i64::from(speed))),
        };
        // There may be no job, it may be in no state for that, and another one may work on the same images.
        const REFUSALS: &[Kind] =
            &[Kind::NotFound, Kind::InvalidInput, Kind::InUse, Kind::AlreadyExists, Kind::ReadOnly];
        if let Some(result) = result {
            self.note(name, REFUSALS, result);
        }
    }
}

async fn begin(
    task: &mut Task<'_>,
    desk: &graph::Desk,
    jobs: &Jobs,
    id: String,
    stream: Stream,
) -> Result<()> {
    let head = task.gs().find(&desk.front.head())?;
    let (top, base) = task.gs().with(|graph| {
        let nth = |number| graph::nth(graph, head, number).map(|image| image.id);
        let base = match stream.reach {
            Reach::All => Some(StreamBase::None),
            Reach::Base(number) => nth(number).map(StreamBase::Base),
            Reach::Bottom(number) => nth(number).map(StreamBase::Bottom),
        };
        (entry(graph, head), base)
    });
    let options = StreamOptions {
        base: base.ok_or_else(|| not_there("the base"))?,
        speed: i64::from(stream.speed),
        on_error: stream.on_error,
        auto_finalize: !stream.is_manual,
        ..StreamOptions::new(id, top, Arc::new(NodeNames))
    };
    start(jobs, task, options).await
}
