//! The graph as a drawing: nodes, users, and who wants what of whom.

use drystone_blockdev::query::graph::{EdgeReport, PlaceKind, PlaceReport};
use drystone_core::control::Task;
use drystone_core::graph::permission::Perm;
use drystone_qmp::schema::types::graph::{
    BlockPermission, XDbgBlockGraph, XDbgBlockGraphEdge, XDbgBlockGraphNode, XDbgBlockGraphNodeType,
};

use super::Outcome;
use crate::daemon::Daemon;
use crate::error::to_qmp;

/// `x-debug-query-block-graph`.
pub(super) async fn report(daemon: &Daemon) -> Outcome<XDbgBlockGraph> {
    let look = async |task: &mut Task<'_>| Ok(task.gs().with(drystone_blockdev::query::graph::graph));
    let report = daemon.on_control(look).await.map_err(|error| to_qmp(&error))?;
    Ok(XDbgBlockGraph {
        nodes: report.places.into_iter().map(place).collect(),
        edges: report.edges.iter().map(edge).collect(),
    })
}

fn place(place: PlaceReport) -> XDbgBlockGraphNode {
    let (r#type, name) = match place.kind {
        PlaceKind::Node => (XDbgBlockGraphNodeType::BlockDriver, place.name),
        // Users other than jobs have no names of their own in the C daemon's drawing.
        PlaceKind::User => (XDbgBlockGraphNodeType::BlockBackend, String::new()),
        PlaceKind::Job => (XDbgBlockGraphNodeType::BlockJob, place.name),
    };
    XDbgBlockGraphNode { id: place.id, r#type, name }
}

fn edge(edge: &EdgeReport) -> XDbgBlockGraphEdge {
    XDbgBlockGraphEdge {
        parent: edge.parent,
        child: edge.child,
        name: edge.name.clone(),
        perm: permissions(edge.grant.perm),
        shared_perm: permissions(edge.grant.shared),
    }
}

fn permissions(perm: Perm) -> Vec<BlockPermission> {
    let all = [
        (Perm::RESIZE, BlockPermission::Resize),
        (Perm::WRITE_UNCHANGED, BlockPermission::WriteUnchanged),
        (Perm::WRITE, BlockPermission::Write),
        (Perm::CONSISTENT_READ, BlockPermission::ConsistentRead),
    ];
    all.into_iter().filter(|(bit, _)| perm.has(*bit)).map(|(_, name)| name).collect()
}
