//! Every request enters through a gate. A backend alone, or a node, has no method that does I/O.
use drystone_base::GuestRange;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::control::GraphView;
use drystone_core::graph::node::NodeId;

async fn discard_unseen(disk: &Backend<ReadWrite>, range: GuestRange) {
    disk.discard(range).await; //~ E0599
}

fn flush_what_the_graph_shows(graph: &GraphView<'_>, id: NodeId) {
    let Some(node) = graph.node_handle(id) else { return };
    node.flush(); //~ E0599
}

fn main() {}
