//! The order in which nodes are told: that of the C daemon.
//!
//! ```text
//!   added last ──────────────► added first
//!   [ backing images, node, files ]  [ backing images, node, files ]  …      what was added with a node stands beside it
//! ```
//! A node that users have made has a place of its own; others stand beside the first node that has them below it.

use std::collections::{BTreeMap, BTreeSet};

use drystone_core::control::{GraphView, NodeView};
use drystone_core::graph::node::{ChildKey, NodeId};

/// What is to be done about a node.
#[derive(Clone, Copy)]
enum Step {
    /// Go to it: what it has below has its turn before and behind it.
    Visit(usize),
    /// Tell it.
    Tell(usize),
}

/// Every node of the graph once. Linear in nodes and edges, but for looking up the ends of edges.
pub(super) fn in_order<'g>(graph: &'g GraphView<'_>) -> Vec<NodeView<'g>> {
    let nodes: Vec<NodeView<'g>> = graph.views().rev().collect();
    let beside = beside(&nodes);
    let below = |view: NodeView<'g>, wants_backing: bool| {
        let children = view.children().rev();
        let wanted = children.filter(move |(key, _)| (*key == ChildKey::Backing) == wants_backing);
        wanted.filter_map(|(_, child)| beside.get(&child).copied().map(Step::Visit))
    };
    let mut is_told = vec![false; nodes.len()];
    let mut told = Vec::with_capacity(nodes.len());
    for (start, _) in nodes.iter().enumerate().filter(|(_, view)| !beside.contains_key(&view.id())) {
        // The next step is the last one.
        let mut todo = vec![Step::Visit(start)];
        while let Some(step) = todo.pop() {
            let (Step::Visit(at) | Step::Tell(at)) = step;
            let (Some(view), Some(is_told)) = (nodes.get(at), is_told.get_mut(at)) else { continue };
            match step {
                _ if *is_told => {}
                Step::Visit(_) => {
                    todo.extend(below(*view, false));
                    todo.push(Step::Tell(at));
                    todo.extend(below(*view, true));
                }
                Step::Tell(_) => {
                    *is_told = true;
                    told.push(*view);
                }
            }
        }
    }
    told
}

/// Where the nodes are that stand beside others: children that users have not made themselves.
fn beside(nodes: &[NodeView<'_>]) -> BTreeMap<NodeId, usize> {
    let children: BTreeSet<NodeId> =
        nodes.iter().flat_map(|view| view.children()).map(|(_, child)| child).collect();
    let places = nodes.iter().zip(0..).filter(|(view, _)| !view.is_owned() && children.contains(&view.id()));
    places.map(|(view, at)| (view.id(), at)).collect()
}
