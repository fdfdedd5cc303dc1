//! The graph: nodes, edges, gates, and the rules about who may do what.

pub mod activity;
pub(crate) mod check;
pub(crate) mod gate;
pub mod grace;
pub mod node;
pub mod permission;
pub mod policy;
pub(crate) mod publish;
pub mod role;
pub(crate) mod shape;
pub(crate) mod slot;
