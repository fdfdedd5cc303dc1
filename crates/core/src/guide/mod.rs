//! Chapters to read. There is no code here.
//!
//! | chapter | for whom |
//! |---|---|
//! | [`changing_the_graph`] | whoever opens, replaces, reopens or removes nodes while they are in use |
//! | [`functions`] | whoever asks what a function may do, and where it may be called |

pub mod changing_the_graph;
pub mod functions;
