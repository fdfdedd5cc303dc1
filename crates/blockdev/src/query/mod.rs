//! What there is, for whoever asks: looked up in the graph, without entering any gate.
//!
//! | module | what |
//! |---|---|
//! | [`node`] | one node, as `query-named-block-nodes` reports it |
//! | [`graph`] | nodes, users and edges, as `x-debug-query-block-graph` reports them |
//! | [`filename`] | by which name a node can be opened |
//! | `order` | in which order nodes are told |

pub mod filename;
pub mod graph;
pub mod node;
mod order;
