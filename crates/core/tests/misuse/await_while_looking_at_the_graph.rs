//! Whoever looks at the graph does not wait meanwhile.
use drystone_core::control::Task;
use drystone_core::graph::node::NodeId;

async fn drain_each(task: &mut Task<'_>, other: &mut Task<'_>, nodes: &[NodeId]) {
    task.gs().with(|_graph| {
        other.drain(nodes).await; //~ E0728
    });
}

fn main() {}
