//! The layers that a stream works on, found in the graph.

use drystone_base::{Error, Kind, Result};
use drystone_core::control::{EdgeInfo, GraphView, NodeInfo};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::role::Role;
use drystone_filter::copy_on_read::Reach;

use super::StreamBase;

/// What lies between the top and the base.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    /// The node that users have.
    pub(super) top: NodeId,
    /// The image in it or, below filters, under it.
    pub(super) image: NodeId,
    /// The nodes below the image whose data is copied, and filters between them, from the top down.
    pub(super) layers: Vec<NodeId>,
    /// Edges from the top to the last of these.
    pub(super) links: Vec<(NodeId, ChildKey)>,
    /// The last image whose data is copied, if there is a base.
    pub(super) bottom: Option<NodeId>,
    /// Whose child the base is.
    pub(super) above_base: Option<NodeId>,
    /// The base as it is now.
    pub(super) base: Option<NodeId>,
    /// The image has a backing image now.
    pub(super) has_backing: bool,
    /// How far down is copied from.
    pub(super) reach: Reach,
    pub(super) len_bytes: u64,
    /// Nodes that become writable for the time of the job.
    pub(super) read_only: Vec<NodeId>,
}

/// Whether a node shows another one and is no image itself. `raw` shows its file's bytes and is an image all the same.
pub(super) fn is_filter(node: &NodeInfo) -> bool {
    node.format_name != "raw" && node.edges.iter().any(|edge| edge.role.has(Role::FILTERED))
}

/// The edge to the next node of a backing chain.
fn next(node: &NodeInfo) -> Option<&EdgeInfo> {
    let is_next = |edge: &&EdgeInfo| match is_filter(node) {
        true => edge.role.has(Role::FILTERED),
        false => edge.role.has(Role::COW),
    };
    node.edges.iter().find(is_next)
}

/// The child of `node` in a backing chain, now.
pub(super) fn below(graph: &GraphView<'_>, node: NodeId) -> Option<NodeId> {
    graph.node(node).as_ref().and_then(next).map(|edge| edge.child)
}

/// The image in `node` or under it.
pub(super) fn unfiltered(graph: &GraphView<'_>, node: NodeId) -> Option<NodeInfo> {
    let mut info = graph.node(node)?;
    while is_filter(&info) {
        info = graph.node(next(&info)?.child)?;
    }
    Some(info)
}

fn no_node() -> Error {
    Error::new(Kind::NotFound, "there is no such node")
}

impl Chain {
    /// The chain below `top`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if a node is not there, [`Kind::InvalidInput`] if `base` is not below `top`.
    pub(super) fn find(graph: &GraphView<'_>, top: NodeId, base: StreamBase) -> Result<Self> {
        let nodes = walk(graph, top)?;
        let top_info = nodes.first().ok_or_else(no_node)?;
        let place = nodes.iter().position(|node| !is_filter(node)).ok_or_else(no_node)?;
        let image = nodes.get(place).ok_or_else(no_node)?;
        let end = end_of(graph, &nodes, base)?;
        if end <= place {
            let text = "a filter cannot be the base of the image that it shows";
            return Err(Error::new(Kind::InvalidInput, text).on_node(image.name.clone()));
        }
        let (above, below) = nodes.split_at_checked(end).unwrap_or((&nodes, &[]));
        let base = below.first().map(|node| node.id);
        let links = above.iter().rev().skip(1).rev();
        let bottom = above.iter().rev().find(|node| !is_filter(node)).map(|node| node.id);
        let images = above.iter().skip(place + 1).filter(|node| !is_filter(node)).count();
        Ok(Self {
            top,
            image: image.id,
            layers: above.iter().skip(1).map(|node| node.id).filter(|id| *id != image.id).collect(),
            links: links.filter_map(|node| Some((node.id, next(node)?.key))).collect(),
            bottom: base.and(bottom),
            above_base: base.and(above.last().map(|node| node.id)),
            base,
            has_backing: next(image).is_some(),
            reach: match base {
                None => Reach::ALL,
                Some(_) => Reach { layers: u32::try_from(images).unwrap_or(u32::MAX), has_base: true },
            },
            len_bytes: top_info.len,
            read_only: read_only(graph, above.get(..=place).unwrap_or_default()),
        })
    }

    /// Whether there is a layer to copy from.
    pub(super) fn has_layers(&self) -> bool {
        self.has_backing && (self.base.is_none() || self.reach.layers > 0)
    }
}

/// Every node of the backing chain of `top`, filters among them.
fn walk(graph: &GraphView<'_>, top: NodeId) -> Result<Vec<NodeInfo>> {
    let mut nodes = vec![graph.node(top).ok_or_else(no_node)?];
    while let Some(edge) = nodes.last().and_then(next) {
        nodes.push(graph.node(edge.child).ok_or_else(no_node)?);
    }
    Ok(nodes)
}

/// How many of `nodes` are above the base.
fn end_of(graph: &GraphView<'_>, nodes: &[NodeInfo], base: StreamBase) -> Result<usize> {
    let (wanted, is_base) = match base {
        StreamBase::None => return Ok(nodes.len()),
        StreamBase::Base(id) => (id, true),
        StreamBase::Bottom(id) => (id, false),
    };
    let name_of = |id: NodeId| graph.node(id).map_or_else(|| "?".to_owned(), |node| node.name);
    let found = nodes.iter().position(|node| node.id == wanted).filter(|place| !is_base || *place > 0);
    let Some(place) = found else {
        let top = nodes.first().map(|node| node.name.clone()).unwrap_or_default();
        let text = format!("node '{}' is not a backing image of '{top}'", name_of(wanted));
        return Err(Error::new(Kind::InvalidInput, text));
    };
    if !is_base && nodes.get(place).is_some_and(is_filter) {
        let text = format!("node '{}' is a filter and cannot be the bottom", name_of(wanted));
        return Err(Error::new(Kind::InvalidInput, text).in_option("bottom"));
    }
    Ok(if is_base { place } else { place + 1 })
}

/// Of nodes that will be written and what they store things in, those that are read-only.
fn read_only(graph: &GraphView<'_>, written: &[NodeInfo]) -> Vec<NodeId> {
    let mut found = Vec::new();
    let mut todo: Vec<NodeInfo> = written.to_vec();
    while let Some(node) = todo.pop() {
        let stores = node.edges.iter().filter(|edge| !edge.role.has(Role::COW));
        todo.extend(stores.filter_map(|edge| graph.node(edge.child)));
        if node.read_only && !found.contains(&node.id) {
            found.push(node.id);
        }
    }
    found
}
