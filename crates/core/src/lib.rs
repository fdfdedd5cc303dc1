//! The block graph.
#![deny(unsafe_code)]

pub mod backend;
pub mod control;
pub mod disk;
pub mod driver;
pub mod graph;
pub mod job;
pub mod lane;
#[cfg(feature = "loom")]
#[doc(hidden)]
pub mod models;
pub mod request;
pub mod runtime;
mod sync;
pub mod waits;
