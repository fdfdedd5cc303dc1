//! The NBD server: serves nodes of the graph to any number of clients, on any number of I/O threads.
//!
//! ```text
//!   server ── accept ──► connection ── handshake ──► reader ──► slots ──► outbox ──► client
//!      │                     │                                    │
//!      registry (exports)    crowd (who is there)                 graph, through the export's root
//! ```
//! | module | what |
//! |---|---|
//! | `server` | [`NbdServer`]: start, exports, stop |
//! | `export` | exports and the registry of them |
//! | `crowd` | the connections: limits, telling them to go, waiting until they are gone |
//! | `connection`, `handshake` | one connection from greeting to end |
//! | `conn` | what the tasks of a connection share, and its stages |
//! | `reader`, `inbound` | requests off the stream, payloads without copies |
//! | `mailbox`, `slot`, `status` | running one request |
//! | `writer`, `outbox`, `load`, `spare` | replies, the bound on what a client may occupy, buffers used again |
//! | `peer`, `bell` | the client as seen from here; tasks that wake each other |
//!
//! Invariants: a connection lives on one thread; no ticket is alive while a client is waited for, so no drain waits for
//! a client; memory of a connection is bounded ([`Limits`], and a receive chunk per request whose payload lies in it); what
//! breaks the protocol ends its own connection and nothing else.

mod bell;
mod conn;
mod connection;
mod crowd;
mod export;
mod handshake;
mod inbound;
mod load;
mod mailbox;
mod outbox;
mod peer;
mod reader;
mod server;
mod slot;
mod spare;
mod status;
mod writer;

pub use export::{ExportBitmap, ExportOptions};
pub use load::Limits;
pub use server::{ExportStatistics, Listen, NbdServer, Removal, ServerOptions};
