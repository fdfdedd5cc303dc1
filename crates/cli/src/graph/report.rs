//! [`Report`]: the block graph as plain data, for printing here or there.

use std::collections::BTreeMap;

use drystone_core::control::{EdgeInfo, GraphView, NodeInfo};
use drystone_core::graph::node::NodeId;
use drystone_core::graph::permission::{Grant, Perm};
use drystone_protocol::file::HostFile;
use serde::{Deserialize, Serialize};

/// Every node and every user of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The nodes, in the order in which they were opened.
    pub(crate) nodes: Vec<Node>,
    /// Who uses them: exports, tools.
    pub(crate) users: Vec<User>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Its driver.
    pub(crate) driver: String,
    /// Length of its disk in bytes.
    pub(crate) len_bytes: u64,
    /// Nobody writes.
    pub(crate) read_only: bool,
    /// The file's path, if it is a file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) path: Option<String>,
    /// What it lies on.
    pub(crate) children: Vec<Child>,
}

/// An edge from a node to one below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Child {
    /// Which child: `file`, `backing`, ...
    pub(crate) child: String,
    /// What it is for.
    pub(crate) roles: Vec<String>,
    /// Name of the node below.
    pub(crate) node: String,
    /// What is wanted of it and left to others.
    #[serde(flatten)]
    pub(crate) grant: Permissions,
}

/// A user of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct User {
    /// Its name.
    pub(crate) name: String,
    /// Name of the node; none if it has lost it.
    pub(crate) node: Option<String>,
    /// What it wants and leaves to others.
    #[serde(flatten)]
    pub(crate) grant: Permissions,
}

/// Permissions by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Permissions {
    /// Wanted.
    pub(crate) wants: Vec<String>,
    /// Left to others.
    pub(crate) shares: Vec<String>,
}

impl Report {
    /// What there is now.
    pub(crate) fn of(graph: &GraphView<'_>) -> Self {
        let nodes = graph.nodes();
        let names: BTreeMap<NodeId, String> = nodes.iter().map(|node| (node.id, node.name.clone())).collect();
        let name_of = |id: NodeId| names.get(&id).cloned();
        let users = graph.roots().into_iter().map(|root| User {
            name: root.name,
            node: root.node.and_then(name_of),
            grant: Permissions::of(root.grant),
        });
        let users = users.collect();
        let nodes = nodes.iter().map(|node| Node::of(graph, node, &names)).collect();
        Self { nodes, users }
    }

    /// The node called `name`.
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The nodes that are nobody's child and that nobody uses.
    pub(crate) fn unused(&self) -> impl Iterator<Item = &Node> {
        let is_child =
            |name: &str| self.nodes.iter().flat_map(|node| &node.children).any(|child| child.node == name);
        let is_used = |name: &str| self.users.iter().any(|user| user.node.as_deref() == Some(name));
        self.nodes.iter().filter(move |node| !is_child(&node.name) && !is_used(&node.name))
    }
}

impl Node {
    fn of(graph: &GraphView<'_>, info: &NodeInfo, names: &BTreeMap<NodeId, String>) -> Self {
        let handle = graph.node_handle(info.id);
        let file = handle.as_deref().and_then(|node| node.driver_as::<HostFile>());
        Self {
            name: info.name.clone(),
            driver: info.format_name.to_owned(),
            len_bytes: info.len,
            read_only: info.read_only,
            path: file.map(|file| file.path().to_string_lossy().into_owned()),
            children: info.edges.iter().map(|edge| Child::of(edge, names)).collect(),
        }
    }
}

impl Child {
    fn of(edge: &EdgeInfo, names: &BTreeMap<NodeId, String>) -> Self {
        Self {
            child: edge.key.to_string(),
            roles: format!("{:?}", edge.role).split('|').map(str::to_owned).collect(),
            node: names.get(&edge.child).cloned().unwrap_or_default(),
            grant: Permissions::of(edge.grant),
        }
    }
}

impl Permissions {
    fn of(grant: Grant) -> Self {
        let names = |perm: Perm| {
            let each = Perm::EACH.into_iter().filter(|one| perm.has(*one));
            each.map(|one| one.to_string().replace(' ', "-")).collect()
        };
        Self { wants: names(grant.perm), shares: names(grant.shared) }
    }
}
