//! The block graph.
#![deny(unsafe_code)]

pub mod disk;
pub mod lane;
pub mod runtime;
