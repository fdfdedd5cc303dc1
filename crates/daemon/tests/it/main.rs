//! The daemon, on a thread of the test, as its clients see it.

#[path = "../common/mod.rs"]
mod common;

mod scripts;
