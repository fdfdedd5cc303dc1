//! Counters of nodes.
//!
//! Requests are counted for devices, which there are none of here. Of a node it is told how far it was written and, if it is
//! a file, what was discarded; all other counters are zero, as they are in the C daemon.

use std::collections::BTreeMap;

use drystone_blockdev::query::node::{NodeReport, nodes};
use drystone_core::control::Task;
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_qmp::schema::types::stats::{
    BlockDeviceStats, BlockStats, BlockStatsSpecific, BlockStatsSpecificData, BlockStatsSpecificFile,
    QueryBlockstats,
};

use super::Outcome;
use crate::daemon::Daemon;
use crate::error::to_qmp;

/// How deep counters are told inside of each other.
const NESTING_MAX: usize = 256;

/// `query-blockstats`. Without `query-nodes` it is about devices.
pub(super) async fn report(daemon: &Daemon, how: &QueryBlockstats) -> Outcome<Vec<BlockStats>> {
    if how.query_nodes != Some(true) {
        return Ok(Vec::new());
    }
    let look = async |task: &mut Task<'_>| Ok(task.gs().with(|graph| nodes(graph, false)));
    let nodes = daemon.on_control(look).await.map_err(|error| to_qmp(&error))?;
    // What the C daemon begins with at its other end.
    let by_id = nodes.iter().map(|node| (node.id, node)).collect();
    Ok(nodes.iter().rev().map(|node| stats(&by_id, node, NESTING_MAX)).collect())
}

fn stats(nodes: &BTreeMap<NodeId, &NodeReport>, node: &NodeReport, nesting: usize) -> BlockStats {
    let child = |key: ChildKey| {
        let (_, child) = node.children.iter().find(|(known, _)| *known == key)?;
        let child = nodes.get(child).filter(|_| nesting > 0)?;
        Some(Box::new(stats(nodes, child, nesting - 1)))
    };
    let wr_highest_offset = i64::try_from(node.activity.written_end).unwrap_or(i64::MAX);
    BlockStats {
        device: None,
        qdev: None,
        node_name: Some(node.name.clone()),
        stats: BlockDeviceStats { wr_highest_offset, ..nothing() },
        driver_specific: specific(node),
        parent: child(ChildKey::File),
        backing: child(ChildKey::Backing),
    }
}

fn specific(node: &NodeReport) -> Option<BlockStatsSpecific> {
    let (discard_nb_ok, discard_bytes_ok) = node.activity.discards;
    let discard_nb_failed = node.activity.discards_failed;
    let discards = BlockStatsSpecificFile { discard_nb_ok, discard_nb_failed, discard_bytes_ok };
    let driver = match node.driver {
        "file" => BlockStatsSpecificData::File(discards),
        "host_device" => BlockStatsSpecificData::HostDevice(discards),
        _ => return None,
    };
    Some(BlockStatsSpecific { driver })
}

fn nothing() -> BlockDeviceStats {
    BlockDeviceStats {
        rd_bytes: 0,
        wr_bytes: 0,
        zone_append_bytes: 0,
        unmap_bytes: 0,
        rd_operations: 0,
        wr_operations: 0,
        zone_append_operations: 0,
        flush_operations: 0,
        unmap_operations: 0,
        rd_total_time_ns: 0,
        wr_total_time_ns: 0,
        zone_append_total_time_ns: 0,
        flush_total_time_ns: 0,
        unmap_total_time_ns: 0,
        wr_highest_offset: 0,
        rd_merged: 0,
        wr_merged: 0,
        zone_append_merged: 0,
        unmap_merged: 0,
        idle_time_ns: None,
        failed_rd_operations: 0,
        failed_wr_operations: 0,
        failed_zone_append_operations: 0,
        failed_flush_operations: 0,
        failed_unmap_operations: 0,
        invalid_rd_operations: 0,
        invalid_wr_operations: 0,
        invalid_zone_append_operations: 0,
        invalid_flush_operations: 0,
        invalid_unmap_operations: 0,
        account_invalid: false,
        account_failed: false,
        timed_stats: Vec::new(),
        rd_latency_histogram: None,
        wr_latency_histogram: None,
        zone_append_latency_histogram: None,
        flush_latency_histogram: None,
    }
}
