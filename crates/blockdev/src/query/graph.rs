//! [`GraphReport`]: nodes, users and edges, as `x-debug-query-block-graph` reports them.

use std::collections::BTreeMap;

use drystone_core::control::GraphView;
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::Grant;

/// What an end of an edge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKind {
    /// A node.
    Node,
    /// A user of a node that is no job: an export, a tool.
    User,
    /// A job.
    Job,
}

/// An end of an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceReport {
    /// Its number in this report, from 1 on.
    pub id: u64,
    /// What it is.
    pub kind: PlaceKind,
    /// Its name.
    pub name: String,
}

/// An edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeReport {
    /// The number of the parent.
    pub parent: u64,
    /// The number of the child.
    pub child: u64,
    /// What the child is called there: `file`, `backing`, ...; `root` for users.
    pub name: String,
    /// What the parent wants and shares.
    pub grant: Grant,
}

/// Nodes, users and edges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GraphReport {
    /// Nodes and users.
    pub places: Vec<PlaceReport>,
    /// Edges.
    pub edges: Vec<EdgeReport>,
}

/// What there is now, the newest nodes first, then users.
#[must_use]
pub fn graph(graph: &GraphView<'_>) -> GraphReport {
    let nodes = graph.nodes();
    let mut report = GraphReport::default();
    let number = |index: usize| u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1);
    let numbers: BTreeMap<NodeId, u64> =
        nodes.iter().enumerate().map(|(index, node)| (node.id, number(index))).collect();
    let number_of = |id: NodeId| numbers.get(&id).copied();
    for (index, node) in nodes.iter().enumerate().rev() {
        report.places.push(PlaceReport { id: number(index), kind: PlaceKind::Node, name: node.name.clone() });
        for edge in &node.edges {
            let Some(child) = number_of(edge.child) else { continue };
            let name = edge.key.to_string();
            report.edges.push(EdgeReport { parent: number(index), child, name, grant: edge.grant });
        }
    }
    for (index, root) in graph.roots().into_iter().filter(|root| root.node.is_some()).enumerate() {
        let id = number(nodes.len() + index);
        let kind = if root.stays { PlaceKind::Job } else { PlaceKind::User };
        report.places.push(PlaceReport { id, kind, name: root.name });
        if let Some(child) = root.node.and_then(number_of) {
            report.edges.push(EdgeReport { parent: id, child, name: "root".to_owned(), grant: root.grant });
        }
    }
    report
}
