//! Images opened and made through the public interface, on real files, beside the C tools.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

mod host;

mod atomic;
mod chain;
mod crash_points;
mod create;
mod data_file;
mod draft;
mod hostile;
mod load;
mod locks;
mod probe;
mod reopen;
mod simulated;
mod spec;
mod tiny;
mod trap;
