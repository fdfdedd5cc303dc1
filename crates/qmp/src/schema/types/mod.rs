//! The types of the schema, by theme. Their names are those of the QMP reference, which says more about each.
//!
//! | module | what |
//! |---|---|
//! | [`common`] | what several themes share |
//! | [`control`] | versions, capabilities, names of commands |
//! | [`blockdev`] | options of nodes |
//! | [`graph`] | commands that change or draw the graph |
//! | [`info`] | what is told about nodes and images |
//! | [`stats`] | counters |
//! | [`job`] | jobs and what they tell |
//! | [`export`] | the NBD server and exports |
//! | [`object`] | objects such as I/O threads, and their properties |
//! | [`socket`] | addresses |
//! | [`monitor`] | monitors and their channels, on the command line only |

pub mod bitmap;
pub mod blockdev;
pub mod common;
pub mod control;
pub mod export;
pub mod graph;
pub mod info;
pub mod job;
pub mod monitor;
pub mod object;
pub mod socket;
pub mod stats;
