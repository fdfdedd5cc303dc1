//! What offers nodes of the graph to somebody outside of it.
//!
//! An export is a root of the graph: requests come from a client of some protocol, enter through the root's gate, and
//! their answers go back. It knows no format and opens no file.
//!
//! | module | protocol |
//! |---|---|
//! | [`nbd`] | NBD, over unix and TCP sockets |
#![forbid(unsafe_code)]

pub mod nbd;
