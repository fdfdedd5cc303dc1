//! [`Daemon`]: what there is, and taking it down.
//!
//! ```text
//!   take down:  no new requests ─► commands that run end ─► exports (last one first) ─► jobs ─► nodes ─► monitors
//! ```

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::open::Opener;
use drystone_core::control::{Control, Plan, Task};
use drystone_core::graph::node::NodeId;
use drystone_core::runtime::LocalRef;
use drystone_job::Jobs;
use drystone_sys::{ThreadHandle, ThreadStarter};

use crate::command::job::{self, JobThreads};
use crate::events::Events;
use crate::exports::Exports;
use crate::monitor::Monitors;
use crate::objects::Objects;
use crate::stop::Stop;

/// Everything. Lives on the control thread.
pub(crate) struct Daemon {
    /// The control thread.
    pub(crate) local: LocalRef,
    /// The graph.
    pub(crate) control: Control,
    /// How images are opened.
    pub(crate) opener: Opener,
    pub(crate) events: Events,
    pub(crate) exports: Exports,
    pub(crate) objects: Objects,
    pub(crate) jobs: Jobs,
    pub(crate) monitors: Monitors,
    pub(crate) stop: Stop,
}

impl Daemon {
    /// A daemon that has nothing yet. Exports without a thread of their own are served by `threads`.
    pub(crate) fn new(
        local: LocalRef,
        control: Control,
        threads: Vec<ThreadHandle>,
        starter: ThreadStarter,
    ) -> Self {
        let events = Events::default();
        let told = events.clone();
        let tell = move |happened| job::event(happened).into_iter().for_each(|event| told.emit(event));
        let jobs = Jobs::new(control.clone(), JobThreads::new(threads.clone()), tell);
        Self {
            local,
            control,
            opener: Opener::trusting(),
            events,
            jobs,
            exports: Exports::new(threads),
            objects: Objects::new(starter),
            monitors: Monitors::default(),
            stop: Stop::default(),
        }
    }

    /// Runs `work` as a control task of its own: it goes on to its end whoever waits for it.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) async fn on_control<T: Send + 'static>(
        &self,
        work: impl for<'a, 'r> AsyncFnOnce(&'a mut Task<'r>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.control.call(work).await.and_then(|done| done)
    }

    /// Takes everything down but the monitors, which tell their clients of it.
    ///
    /// # Errors
    /// The first of those of flushing and closing; the rest is done all the same.
    pub(crate) async fn take_down(&self) -> Result<()> {
        self.monitors.settle().await;
        let exports = self.exports.stop_all(self).await;
        self.jobs.cancel_all();
        self.jobs.all_ended().await;
        exports.and(self.close_nodes().await)
    }

    /// Removes nodes until there are none that somebody owns. A node goes when nobody stands on it any more.
    async fn close_nodes(&self) -> Result<()> {
        self.on_control(async |task: &mut Task<'_>| {
            let mut result = Ok(());
            let mut given_up: Vec<NodeId> = Vec::new();
            loop {
                let next = task.gs().with(|graph| {
                    let nodes = graph.nodes();
                    let free = |id| graph.parents_of(id).is_empty();
                    let mut owned =
                        nodes.iter().rev().filter(|node| node.owned && !given_up.contains(&node.id));
                    owned.find(|node| free(node.id)).map(|node| node.id)
                });
                let Some(node) = next else { break };
                let mut plan = Plan::new();
                plan.remove(node);
                if let Err(error) = task.apply(plan).await {
                    given_up.push(node);
                    result = result.and(Err(error));
                }
            }
            let left = task.gs().with(|graph| graph.nodes().len());
            if left > 0 && result.is_ok() {
                let text = format!("{left} nodes are still in use at the end");
                return Err(Error::new(Kind::InUse, text));
            }
            result
        })
        .await
    }
}
