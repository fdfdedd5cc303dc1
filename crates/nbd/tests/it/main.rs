//! The client's machine against the server's, through the public API, with the streams cut in every way; and both against
//! damaged streams.

mod handshake;
mod mutation;
mod peer;
mod transmission;
