//! The real NBD server and storage daemon, played: on the threads of a [`drystone_testkit::sim::Sim`], over sockets in
//! memory, with simulated disks.
//!
//! ```text
//!   NbdClient, Monitor ══ played sockets ══ daemon, NBD server ── graph ── SimDisk
//!        tasks of a Sim                       tasks of the same Sim
//! ```
//! | module | what |
//! |---|---|
//! | [`daemon`] | [`daemon::SimDaemon`]: a daemon from its command line to its end |
//! | [`monitor`] | [`monitor::Monitor`]: a client that sends commands and hears of events |
//! | [`trace`] | [`trace::Trace`]: what was said, to compare two runs by |
//! | [`nbd`] | [`nbd::NbdClient`]: requests over NBD, several at once, by a client that can stall and vanish |
//! | [`far`] | [`far::Far`]: a server that does odd things, for the nodes of a daemon |
//! | [`visit`] | what such clients do |
//! | [`image`] | images before and after |
//! | [`play`] | [`play::run`]: all of it, from one seed |
//!
//! Invariant: equal seeds give equal runs. Nothing here reads a clock, a file or the environment.
//! Does not know: the operating system.
#![forbid(unsafe_code)]

pub mod daemon;
pub mod far;
pub mod image;
pub mod monitor;
pub mod nbd;
pub mod play;
pub mod trace;
pub mod visit;
mod wait;
