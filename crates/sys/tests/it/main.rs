//! The runtime against a real kernel, each promise on both engines.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

mod common;
mod event;
mod file;
mod file_block;
mod file_space;
mod lock;
mod net;
mod path;
mod storm;
mod threads;
