//! The runtime against a real kernel, each promise on both engines.

mod common;
mod file;
mod file_block;
mod file_space;
mod threads;
