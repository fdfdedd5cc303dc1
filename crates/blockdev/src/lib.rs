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
//! | [`backing`] | another name for the backing file in a header |
//! | [`draft`] | commands that change the graph, composed into one plan: add, delete, snapshot, reopen |
//! | [`given`] | what a node was given when it was opened or reopened |
//! | [`mod@bitmap`] | dirty bitmaps as users ask for them |
//! | `known` | options by name: which a reopen can change |
//! | [`mod@resize`] | another length for a disk |
//! | [`snapshots`] | internal snapshots |
//! | [`query`] | reports of nodes and of the graph |
//!
//! Invariants: an image decides only what a policy lets it decide; a guess about a format is never written to. Does not
//! know: exports, jobs, QMP, command lines.
#![forbid(unsafe_code)]

pub mod alone;
pub mod backing;
pub mod bitmap;
pub mod create;
pub mod draft;
pub mod formats;
pub mod given;
mod json;
mod known;
pub mod name;
pub mod nbd;
pub mod open;
pub mod options;
pub mod policy;
pub mod query;
pub mod report;
pub mod request;
pub mod resize;
pub mod settings;
pub mod snapshots;
mod spec;
