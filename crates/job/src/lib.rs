//! Background jobs on disks that are in use: their life, their groups, their pace, and `block-stream`.
//!
//! ```text
//!   commands                 any thread                 I/O thread                control thread
//!   pause, cancel, .. ──►  Jobs: table of states ──►  code: Running, lanes        ending: prepare, commit | abort
//!   list, info        ◄──          │            ◄──  progress, pause points  ──►  a change of the graph
//!                                  └──► Events, in order
//! ```
//! | module | what |
//! |---|---|
//! | `state` | [`Status`], [`Verb`]: the whole life of a job, one table |
//! | `jobs` | [`Jobs`]: what users see and say |
//! | `run` | [`Running`]: what a job's code is lent |
//! | `ending` | [`Ending`]: last steps, groups that complete together or not at all |
//! | `policy`, `limit`, `event` | `on-error`; bytes per second; what is told |
//! | [`copy`] | the copy engine |
//! | [`stream`] | `block-stream` |
//!
//! A job's code is an ordinary async function on an I/O thread. It reads and writes through lanes like everybody else, so
//! a drain needs nothing of it: its requests wait at their gate. It stands still at pause points only, where it holds
//! nothing; a worker that waits at a closed gate gives up to get there. Its last step runs on the control thread, after the
//! code has returned, and nobody can abort that by going away.
//!
//! # Streaming everything into an image
//!
//! ```
//! use std::sync::Arc;
//! use drystone_base::{Error, Result};
//! use drystone_core::control::{GraphView, Opening, Plan, Task};
//! use drystone_core::graph::node::NodeId;
//! use drystone_job::stream::{self, BackingNames, StreamOptions};
//! use drystone_job::{JobEvent, Jobs};
//! # use drystone_testkit::{disk::SimDisk, graph::{SimDriver, SimGraph}, overlay::SimOverlay, sim::Sim};
//! # let sim = Sim::seeded(1);
//! # let graph = SimGraph::start(&sim);
//! # let (base, guest) = graph.open_disk("base", &SimDisk::zeroed(1 << 20, 1));
//! # let new = SimDisk::zeroed(1 << 20, 2);
//! # graph.call(async move |task: &mut Task<'_>| {
//! #     let mut opening = Opening::new(task);
//! #     let file = opening.add(SimDriver::node("top-file", &new))?;
//! #     let top = opening.add(SimOverlay::node("top", 1 << 20, file, Some(base)))?;
//! #     let mut plan = Plan::new();
//! #     plan.insert(opening);
//! #     plan.replace(base, top);
//! #     plan.set_grant(guest.id(), drystone_core::graph::permission::Grant::WRITER);
//! #     task.apply(plan).await
//! # })?;
//!
//! struct Names;
//! impl BackingNames for Names {
//!     fn name_of(&self, graph: &GraphView<'_>, base: NodeId) -> Result<String> {
//!         Ok(graph.node(base).map(|node| node.name).unwrap_or_default())
//!     }
//! }
//!
//! // A daemon has I/O threads for its jobs; here they run on the control thread.
//! let threads = graph.control().clone();
//! let jobs = Jobs::new(graph.control().clone(), threads, |event: JobEvent| println!("{event:?}"));
//!
//! let started = jobs.clone();
//! graph.call(async move |task: &mut Task<'_>| {
//!     let top = task.gs().find("top")?;
//!     let options = StreamOptions { auto_dismiss: false, ..StreamOptions::new("job0", top, Arc::new(Names)) };
//!     stream::start(&started, task, options).await
//! })?;
//! jobs.set_speed("job0", 100 << 20)?;
//!
//! sim.block_on(&sim.control(), jobs.ended("job0")).unwrap();
//! assert_eq!(jobs.info("job0")?.error, None);
//! jobs.dismiss("job0")?;
//! let below = graph.call(async |task: &mut Task<'_>| task.gs().with(|graph| {
//!     graph.node_named("top").map(|top| top.edges.len())
//! }));
//! assert_eq!(below, Some(1), "it has its file, and no backing image");
//! # Ok::<(), Error>(())
//! ```
//! Invariants: every way from one status to the next is in the table, and every visible one is told, in order; exactly one
//! of `commit` and `abort` ends a job; no wait of a job's last step is for a job. Does not know: QMP, files, formats,
//! executors.
#![forbid(unsafe_code)]

pub mod copy;
mod ending;
mod event;
mod jobs;
mod join;
mod limit;
mod policy;
mod run;
mod state;
pub mod stream;
mod table;

pub use ending::Ending;
pub use event::{ErrorAction, Events, Happening, JobEvent, JobType, Operation, Progress};
pub use jobs::{Cancel, Group, IoWork, JobInfo, JobSpec, Jobs, Threads};
pub use policy::{IoStatus, OnError};
pub use run::{Created, Meter, Running};
pub use state::{Status, Verb};
pub use table::Asked;
