//! [`Daemon`]: what there is, and taking it down.
//!
//! ```text
//!   take down:  no new requests ─► commands that run end ─► exports (last one first) ─► jobs ─► nodes ─► monitors
//! ```

use std::sync::Arc;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::open::Opener;
use drystone_core::control::{Control, Plan, Task};
use drystone_core::damage::Damage;
use drystone_core::runtime::LocalRef;
use drystone_job::Jobs;
use drystone_qmp::schema::events::{BlockImageCorrupted, Event};
use drystone_sys::{Network, ThreadHandle, ThreadStarter};

use crate::command::job::{self, JobThreads};
use crate::events::{Clock, Events};
use crate::exports::Exports;
use crate::monitor::Monitors;
use crate::objects::Objects;
use crate::stop::Stop;

/// What a daemon finds around it, beside its control thread.
pub struct Surroundings {
    /// Serve exports that name no thread, and run jobs; one at least.
    pub threads: Vec<ThreadHandle>,
    /// Starts threads for `iothread` objects.
    pub starter: ThreadStarter,
    /// Where addresses lead.
    pub network: Network,
    /// When events happen.
    pub clock: Clock,
}

/// Everything. Lives on the control thread.
pub(crate) struct Daemon {
    /// The control thread.
    pub(crate) local: LocalRef,
    /// The graph.
    pub(crate) control: Control,
    /// How images are opened.
    pub(crate) opener: Opener,
    pub(crate) network: Network,
    pub(crate) events: Events,
    pub(crate) exports: Exports,
    pub(crate) objects: Objects,
    pub(crate) jobs: Jobs,
    pub(crate) monitors: Monitors,
    pub(crate) stop: Stop,
}

impl Daemon {
    /// A daemon that has nothing yet.
    pub(crate) fn new(local: LocalRef, control: Control, around: Surroundings) -> Self {
        let Surroundings { threads, starter, network, clock } = around;
        let events = Events::new(clock);
        let told = events.clone();
        let tell = move |happened| job::event(happened).into_iter().for_each(|event| told.emit(event));
        let jobs = Jobs::new(control.clone(), JobThreads::new(threads.clone()), tell);
        let told = events.clone();
        control.damages().listen(Arc::new(move |damage| told.emit(corrupted(damage))));
        Self {
            local,
            control,
            opener: Opener { network: network.apart(), ..Opener::trusting() },
            network,
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

    /// What waits for what: who looks for the reason of a standstill finds it here.
    pub(crate) async fn waits(&self) -> String {
        let report = self.control.call(async |task: &mut Task<'_>| task.gs().waits().report()).await;
        report.map_or_else(|error| error.report(), |lines| format!("these wait:\n{lines}"))
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

    /// Removes the nodes that users have made, the newest first: what stands on a node is mostly newer than it. Others are
    /// gone over again, once nobody stands on them any more.
    async fn close_nodes(&self) -> Result<()> {
        self.on_control(async |task: &mut Task<'_>| {
            let mut result = Ok(());
            loop {
                let nodes = task.gs().with(|graph| graph.nodes());
                let owned = nodes.iter().rev().filter(|node| node.owned).map(|node| node.id);
                let mut is_any_gone = false;
                for node in owned {
                    if !task.gs().with(|graph| graph.parents_of(node).is_empty()) {
                        continue;
                    }
                    let mut plan = Plan::new();
                    plan.remove(node);
                    let removed = task.apply(plan).await;
                    is_any_gone |= removed.is_ok();
                    result = result.and(removed);
                }
                if !is_any_gone {
                    return match (result, nodes.len()) {
                        (Ok(()), left @ 1..) => {
                            let text = format!("{left} nodes are still in use at the end");
                            Err(Error::new(Kind::InUse, text))
                        }
                        (result, _) => result,
                    };
                }
            }
        })
        .await
    }
}

/// What clients are told of a damaged image.
fn corrupted(damage: &Damage) -> Event {
    let number = |number: u64| i64::try_from(number).ok();
    Event::BlockImageCorrupted(BlockImageCorrupted {
        device: String::new(),
        node_name: Some(damage.node.clone()),
        msg: damage.text.clone(),
        offset: damage.place.and_then(|(at, _)| number(at.get())),
        size: damage.place.and_then(|(_, len)| number(len)),
        fatal: damage.is_fatal,
    })
}
