//! Sessions and the schema through the public API: against recordings of the C daemon, and against damaged input.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

mod golden;
mod keyval;
mod roundtrip;
mod schema;
mod script;
mod stream;
