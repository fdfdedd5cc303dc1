//! The real NBD server and storage daemon, played: on the threads of a [`drystone_testkit::sim::Sim`], over sockets in
//! memory, with simulated disks.
//!
//! ```text
//!   NbdClient, Monitor ══ played sockets ══ daemon, NBD server ── graph ── SimDisk
//!        tasks of a Sim                       tasks of the same Sim
//! ```
//! | module | what |
//! |---|---|
//! | [`nbd`] | [`nbd::NbdClient`]: requests over NBD, several at once, by a client that can stall and vanish |
//!
//! Invariant: equal seeds give equal runs. Nothing here reads a clock, a file or the environment.
//! Does not know: what is asked for, and whether it is right, which tests and models say.
#![forbid(unsafe_code)]

pub mod nbd;
mod wait;
