//! Nothing that is borrowed from the graph leaves the closure that looks at it, so no iterator goes stale at an await.
use drystone_core::control::{GraphView, Gs, Task};

async fn look_across_an_await(task: &mut Task<'_>) {
    let graph = task.gs().with(|graph| graph); //~ lifetime
    drop(graph.nodes());
}

fn keep(gs: &Gs) {
    let mut kept: Option<&GraphView<'_>> = None;
    gs.with(|graph| kept = Some(graph)); //~ lifetime
    drop(kept.map(|graph| graph.nodes()));
}

fn main() {}
