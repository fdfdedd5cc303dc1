//! QMP without I/O: bytes in, typed commands out; typed answers and events in, bytes out.
//!
//! ```text
//!   bytes ──► wire::Decoder ──► Value ──► Session ──► Command ──► (the daemon) ──► Session::answer ──► bytes
//!                                          ▲                          │
//!   --blockdev driver=raw,file.driver=…    │ one definition of every   └──► Event ──► Session::event ──► bytes
//!        └──► keyval ──► Value ──► schema types ──► introspect (query-qmp-schema)
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`wire`] | JSON: a stream cut into values by structure, and ASCII text out |
//! | [`session`] | one monitor: greeting, negotiation, requests in order, who gets events |
//! | [`schema`] | every type, command and event; parsing, encoding and introspection from one definition each |
//! | [`limiter`] | events that come too often |
//! | [`keyval`] | the same types written as `key=value,nested.key=value` on a command line |
//!
//! Source: `docs/interop/qmp-spec.rst`, cited as `Spec "Section"`; names, types and optionality of members are those of
//! release 10.0. Where a text leaves a choice, the behaviour of the installed release is followed; the tests hold
//! recordings of it.
//!
//! Invariants: nothing here does I/O, waits or reads a clock; no input panics; memory is bounded by
//! [`wire::Limits`] whatever a client sends; a request is refused for its form before anything is done.
#![forbid(unsafe_code)]

mod error;
pub mod keyval;
pub mod limiter;
pub mod schema;
pub mod session;
pub mod wire;

pub use error::{ErrorClass, QmpError};
pub use limiter::Limiter;
pub use serde_json::Value;
pub use session::{Incoming, Pending, Session};
