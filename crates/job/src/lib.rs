//! Background jobs on disks that are in use.
#![forbid(unsafe_code)]

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
