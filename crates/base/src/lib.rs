//! Words that every part of Drystone shares.
//!
//! | module | what |
//! |---|---|
//! | [`offset`] | positions and ranges; a position that a guest sees and a position in a file are different types |
//! | [`error`] | the one error type: a [`Kind`] to branch on, the node, path and option that it is about, and its cause |
//! | [`codec`] | readers and writers for on-disk and on-wire structures that cannot run off the end |
//! | [`rng`] | the one seeded generator of tests and simulation |
//! | [`planted`] | mistakes that the simulation must find; none is in a program that is not built to contain them |
//!
//! Invariant: nothing here does I/O, allocates by a number it was given, or knows of a graph, a format or a thread.
#![forbid(unsafe_code)]

pub mod codec;
pub mod error;
pub mod offset;
pub mod planted;
pub mod rng;

pub use codec::{Be, BeMut, Le, Truncated};
pub use error::{Error, Kind, Result};
pub use offset::{GuestOffset, GuestRange, HostOffset, LEN_MAX};
