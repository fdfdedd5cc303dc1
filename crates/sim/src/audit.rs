//! What must hold of the graph at any moment between two changes, and a description of it that two moments can be
//! compared by.
//!
//! | rule | what is compared |
//! |---|---|
//! | edges lead to nodes of the graph, and in no circle | nodes and edges |
//! | what a node's users want and share is what its edges and roots say, together | nodes, edges and roots |
//! | nobody wants what another does not share; nobody writes to a read-only node | the same |
//! | whoever reaches a quiet node waits | nodes and roots |
//! | a node that nobody asked for by name has a parent | nodes, edges and roots |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use drystone_core::backend::RootId;
use drystone_core::control::{GraphView, NodeInfo, RootInfo};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};

/// The graph, and who has an edge to which node.
struct Picture {
    nodes: BTreeMap<NodeId, NodeInfo>,
    roots: Vec<RootInfo>,
    users: BTreeMap<NodeId, Vec<(String, Grant)>>,
}

impl Picture {
    fn of(graph: &GraphView<'_>) -> Self {
        let nodes: BTreeMap<NodeId, NodeInfo> =
            graph.nodes().into_iter().map(|node| (node.id, node)).collect();
        let mut users: BTreeMap<NodeId, Vec<(String, Grant)>> = BTreeMap::new();
        for node in nodes.values() {
            for edge in &node.edges {
                users.entry(edge.child).or_default().push((format!("node '{}'", node.name), edge.grant));
            }
        }
        let roots: Vec<RootInfo> = graph.roots();
        for root in &roots {
            if let Some(node) = root.node {
                users.entry(node).or_default().push((format!("'{}'", root.name), root.grant));
            }
        }
        Self { nodes, roots, users }
    }

    fn check_edges(&self) {
        let mut done = BTreeSet::new();
        let mut left: Vec<&NodeInfo> = self.nodes.values().collect();
        // Nodes whose children are all done are done; a circle never is.
        while !left.is_empty() {
            let before = left.len();
            left.retain(|node| {
                let is_done = node.edges.iter().all(|edge| done.contains(&edge.child));
                if is_done {
                    done.insert(node.id);
                }
                !is_done
            });
            let names = || left.iter().map(|node| node.name.as_str()).collect::<Vec<_>>();
            assert!(left.len() < before, "a circle, or an edge to nowhere: {:?}", names());
        }
    }

    fn check_users(&self, node: &NodeInfo) {
        let users = self.users.get(&node.id).map(Vec::as_slice).unwrap_or_default();
        let mut all = Grant::PASSIVE;
        for (_, grant) in users {
            all = Grant { perm: all.perm.with(grant.perm), shared: all.shared.and(grant.shared) };
        }
        assert_eq!(node.users, all, "what the users of '{}' want: {users:?}", node.name);
        for (place, (name, wants)) in users.iter().enumerate() {
            for (_, (keeper, shares)) in users.iter().enumerate().filter(|(other, _)| *other != place) {
                let extra = wants.perm.without(shares.shared);
                assert!(
                    extra.is_empty(),
                    "{name} has '{extra}' on '{}', which {keeper} does not share",
                    node.name
                );
            }
        }
        let writes = all.perm.writes();
        assert!(!(node.read_only && writes), "'{}' is read-only and has a writer: {users:?}", node.name);
        assert!(node.owned || !users.is_empty(), "nobody uses '{}', and it is there", node.name);
    }

    fn below(&self, top: NodeId) -> BTreeSet<NodeId> {
        let mut found = BTreeSet::new();
        let mut left = vec![top];
        while let Some(id) = left.pop() {
            if found.insert(id) {
                left.extend(
                    self.nodes.get(&id).iter().flat_map(|node| node.edges.iter().map(|edge| edge.child)),
                );
            }
        }
        found
    }

    fn check_gate(&self, root: &RootInfo) {
        let Some(node) = root.node else { return };
        let is_quiet = |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.quiet > 0);
        let quiet = self.below(node).into_iter().find(is_quiet);
        let name = quiet.and_then(|id| self.nodes.get(&id)).map_or("", |node| node.name.as_str());
        assert!(quiet.is_none() || root.closed, "'{}' can enter, and '{name}' is quiet", root.name);
    }
}

/// Checks every rule.
///
/// # Panics
/// If one is broken.
pub(crate) fn demand_sound(graph: &GraphView<'_>) {
    let picture = Picture::of(graph);
    picture.check_edges();
    picture.nodes.values().for_each(|node| picture.check_users(node));
    picture.roots.iter().for_each(|root| picture.check_gate(root));
}

/// Everything that a change could have changed, one node or user per line.
pub(crate) fn describe(graph: &GraphView<'_>) -> String {
    let mut text = String::new();
    for NodeInfo { id, name, read_only, active, owned, users, edges, .. } in graph.nodes() {
        let _ = writeln!(
            text,
            "{name} {id:?} read-only {read_only} active {active} owned {owned} {users:?} {edges:?}"
        );
    }
    for RootInfo { id, name, node, grant, stays, .. } in graph.roots() {
        if node.is_some() {
            let _ = writeln!(text, "{name} {id:?} at {node:?} {grant:?} stays {stays}");
        }
    }
    text
}

/// The images of the chain below `top`, from there down; filters are passed.
pub(crate) fn chain(graph: &GraphView<'_>, top: NodeId) -> Vec<NodeInfo> {
    let mut found = Vec::new();
    let mut next = graph.node(top);
    while let Some(node) = next {
        let is_filter = node.format_name == "copy-on-read";
        let wanted = if is_filter { "file" } else { "backing" };
        let edge = node.edges.iter().find(|edge| edge.key.to_string() == wanted);
        next = edge.and_then(|edge| graph.node(edge.child));
        if !is_filter {
            found.push(node);
        }
    }
    found
}

/// Whether requests of `user` can get to `node`.
pub(crate) fn reaches(graph: &GraphView<'_>, user: RootId, node: NodeId) -> bool {
    let picture = Picture::of(graph);
    let top = picture.roots.iter().find(|root| root.id == user).and_then(|root| root.node);
    top.is_some_and(|top| picture.below(top).contains(&node))
}

/// Writing needs one of these.
pub(crate) const WRITES: Perm = Perm::WRITE.with(Perm::WRITE_UNCHANGED);
