//! The client's machine against the server's, through the public API, with the streams cut in every way; and both against
//! damaged streams.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop"
)]

mod handshake;
mod mutation;
mod peer;
mod transmission;
