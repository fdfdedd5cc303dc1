//! The whole system on a seeded scheduler: random scripts of requests, changes and misfortunes, checked at every step.
//!
//! ```text
//!   seed --draw--> Script --play--> RunReport            equal scripts give equal runs
//!                    |                  |
//!                  text               Failure --minimise--> a shorter Script, for scripts/*.txt
//! ```
//! | module | what |
//! |---|---|
//! | [`script`], [`step`] | a run as data, and as text |
//! | `draw` | scripts at random |
//! | `image`, `prepare` | images, and what is in them when a run begins |
//! | `stage`, `player` | the graph, and the actors at work on it |
//! | `hall` | where NBD clients come in |
//! | `files`, `audit` | what must hold of files and of the graph, at any moment |
//! | [`minimise()`] | a shorter script that fails in the same way |
//! | `kept` | internal snapshots, and what they must show |
//! | [`after`] | what is done to images that nobody uses |
//! | `ending` | what must hold when everybody has gone, and when the images are opened again |
//! | [`tally`] | what was done |
//!
//! Everything but the devices, the threads and the sockets is what users get: graph, drivers, caches, filters, jobs, the NBD
//! server, and the commands of `drystone-blockdev`. Every read is compared with a byte-exact model.
//!
//! ```
//! use drystone_sim::{Options, run};
//!
//! let report = run(7, &Options::default()).map_err(|failure| failure.message)?;
//! assert_eq!(run(7, &Options::default()).map(|again| again.schedule).ok(), Some(report.schedule));
//! # Ok::<(), String>(())
//! ```
//! Does not know: the operating system, sockets, command lines.
#![forbid(unsafe_code)]

pub mod after;
mod audit;
mod draw;
mod ending;
mod files;
mod hall;
pub mod image;
mod kept;
pub mod memory;
mod minimise;
mod player;
mod prepare;
mod run;
pub mod script;
mod stage;
pub mod step;
pub mod tally;
mod threads;
mod words;

pub use draw::draw;
pub use minimise::minimise;
pub use run::{Failure, Options, RunReport, run, run_script};
pub use words::BadWord;
