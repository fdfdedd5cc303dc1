//! Comparison with the installed C tools. Built with the feature `oracle` only; needs `qemu-img` and `qemu-io`.

#[path = "../common/mod.rs"]
mod common;

mod check;
mod create;
mod tools;
