//! The schema: every type, command and event of QMP that this build knows.
//!
//! ```text
//!   qapi_struct! { pub struct SnapshotAdd { node: String, overlay: String } }
//!        │
//!        ├─► a plain struct, members public
//!        ├─► Qapi::parse    Value → struct: unknown, missing and mistyped members are refused by name
//!        ├─► Qapi::write    struct → JSON text
//!        └─► Qapi::describe its entry in query-qmp-schema
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`visit`] | [`Qapi`] and [`Members`]: what a type of the schema can do; scalars, lists, options |
//! | `define` | the macros that define structs, enums, unions, alternates, commands, events |
//! | [`introspect`] | `query-qmp-schema` |
//! | [`types`] | the types, by theme |
//! | [`commands`] | [`commands::Command`] and what each returns |
//! | [`events`] | [`events::Event`] and their rate limits |
//!
//! A name on the wire is the Rust name with dashes (`read_only` is `read-only`, `NullCo` is `null-co`) unless `as` says
//! otherwise; commands and events are spelled out. A member without words of its own means what its name says.
//! Integers are those of the schema: `i64` where it says `int`.

#[macro_use]
mod define;
pub mod commands;
pub mod events;
pub mod introspect;
mod name;
pub mod types;
pub mod visit;

pub use visit::{Members, Notation, Qapi, parse, to_value};
