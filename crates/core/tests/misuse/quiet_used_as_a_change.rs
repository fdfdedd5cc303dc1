//! A quiet section lends nothing: no I/O, no edges, no commit.
use drystone_core::control::{Change, Quiet};
use drystone_core::graph::node::NodeId;

async fn settle<'k>(quiet: Quiet) -> Change<'k> {
    quiet //~ E0308
}

fn write_in_a_drain(quiet: &Quiet, node: NodeId) {
    quiet.private(node); //~ E0599
}

fn main() {}
