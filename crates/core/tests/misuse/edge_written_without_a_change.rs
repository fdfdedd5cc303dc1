//! Edges are written by the commit of a change and by nothing else.
use drystone_core::graph::node::Node;

fn unlink_children(node: &Node) {
    node.replace_edges(Default::default(), Default::default()); //~ E0624
}

fn main() {}
