//! From names and options to opened nodes.
//!
//! ```text
//!   "top.qcow2", settings ──spec──> what to open ──open──> Opening, top node, layers, warnings ──> a plan
//! ```
//! | module | what |
//! |---|---|
//! | [`options`] | options as JSON and dotted keys say them |
//! | `name`, `spec` | names and options taken apart |
//! | [`settings`] | what every node has, and what its children take over |
//! | [`formats`] | the formats, probing |
//! | [`policy`] | what images may name |
//! | [`request`], [`open`], [`report`] | opening |
//! | [`create`] | new images |
//!
//! Invariants: an image decides only what a policy lets it decide; a guess about a format is never written to. Does not
//! know: exports, jobs, QMP, command lines.
#![forbid(unsafe_code)]

pub mod create;
pub mod formats;
pub mod name;
pub mod open;
pub mod options;
pub mod policy;
pub mod report;
pub mod request;
pub mod settings;
mod spec;
