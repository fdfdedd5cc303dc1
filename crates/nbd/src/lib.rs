//! The NBD protocol without I/O: bytes in, values out, and back. Shared by the server and the client.
//!
//! ```text
//!            handshake                                  transmission
//!  server    server::ServerHandshake ── Negotiated ──►  RequestHeader::parse → Session::admit → … → ReplyTo
//!  client    client::ClientHandshake ── Entered ─────►  Transmission::begin  → … → Transmission::next
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`wire`] | every number of the protocol, with the section that defines it |
//! | [`limit`] | every bound on what a peer can make us keep or do |
//! | [`export`] | what a server offers: [`Exports`], [`ExportInfo`] |
//! | [`session`] | what both sides agreed on, and which requests it permits |
//! | [`request`], [`reply`], [`error`] | the messages of the transmission phase |
//! | [`server`], [`client`] | the two negotiations, and the client's reading of replies |
//! | [`uri`], [`parse_plain`] | NBD URIs, and what was before them |
//!
//! Source: the protocol document of the reference implementation (`doc/proto.md`), cited as `Spec "Section"`; `doc/uri.md`
//! as `URI "Section"`. Where it leaves a choice, the behaviour of release 10.0 of the C tools is followed.
//!
//! Invariants: nothing here does I/O, waits or reads a clock; no input panics; memory is bounded by [`limit`] whatever a
//! peer sends; the server's transmission path does not allocate. Time limits, sockets and buffers belong to the caller.
#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod export;
mod gather;
pub mod limit;
mod plain;
pub mod reply;
pub mod request;
pub mod server;
pub mod session;
pub mod uri;
pub mod wire;

pub use error::NbdError;
pub use export::{BlockSizes, ContextSet, ExportInfo, Exports};
pub use plain::parse_plain;
pub use reply::{ErrorBuf, HeadBuf, ReplyTo, StatusChunk};
pub use request::{Command, Request, RequestHeader};
pub use session::{Admitted, Refusal, RequestError, Session};
pub use uri::Uri;
pub use wire::{CommandFlags, Style, TransmissionFlags};
