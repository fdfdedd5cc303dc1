//! Counters.

use super::blockdev::BlockdevDriver;
use super::common::Empty;

qapi_struct! {
    /// Arguments of `query-blockstats`.
    pub struct QueryBlockstats {
        /// Of nodes, not of devices.
        query_nodes: Option<bool>,
    }
}

qapi_struct! {
    /// The counters of a device or node, and of what is below it.
    pub struct BlockStats {
        device: Option<String>,
        qdev: Option<String>,
        node_name: Option<String>,
        stats: BlockDeviceStats,
        driver_specific: Option<BlockStatsSpecific>,
        /// The child `file`.
        parent: Option<Box<BlockStats>>,
        /// The child `backing`.
        backing: Option<Box<BlockStats>>,
    }
}

qapi_struct! {
    /// Counters since the node was opened.
    pub struct BlockDeviceStats {
        rd_bytes as "rd_bytes": i64,
        wr_bytes as "wr_bytes": i64,
        zone_append_bytes as "zone_append_bytes": i64,
        unmap_bytes as "unmap_bytes": i64,
        rd_operations as "rd_operations": i64,
        wr_operations as "wr_operations": i64,
        zone_append_operations as "zone_append_operations": i64,
        flush_operations as "flush_operations": i64,
        unmap_operations as "unmap_operations": i64,
        rd_total_time_ns as "rd_total_time_ns": i64,
        wr_total_time_ns as "wr_total_time_ns": i64,
        zone_append_total_time_ns as "zone_append_total_time_ns": i64,
        flush_total_time_ns as "flush_total_time_ns": i64,
        unmap_total_time_ns as "unmap_total_time_ns": i64,
        /// The end of the highest write, in bytes.
        wr_highest_offset as "wr_highest_offset": i64,
        rd_merged as "rd_merged": i64,
        wr_merged as "wr_merged": i64,
        zone_append_merged as "zone_append_merged": i64,
        unmap_merged as "unmap_merged": i64,
        idle_time_ns as "idle_time_ns": Option<i64>,
        failed_rd_operations as "failed_rd_operations": i64,
        failed_wr_operations as "failed_wr_operations": i64,
        failed_zone_append_operations as "failed_zone_append_operations": i64,
        failed_flush_operations as "failed_flush_operations": i64,
        failed_unmap_operations as "failed_unmap_operations": i64,
        invalid_rd_operations as "invalid_rd_operations": i64,
        invalid_wr_operations as "invalid_wr_operations": i64,
        invalid_zone_append_operations as "invalid_zone_append_operations": i64,
        invalid_flush_operations as "invalid_flush_operations": i64,
        invalid_unmap_operations as "invalid_unmap_operations": i64,
        account_invalid as "account_invalid": bool,
        account_failed as "account_failed": bool,
        timed_stats as "timed_stats": Vec<BlockDeviceTimedStats>,
        rd_latency_histogram as "rd_latency_histogram": Option<BlockLatencyHistogramInfo>,
        wr_latency_histogram as "wr_latency_histogram": Option<BlockLatencyHistogramInfo>,
        zone_append_latency_histogram as "zone_append_latency_histogram": Option<BlockLatencyHistogramInfo>,
        flush_latency_histogram as "flush_latency_histogram": Option<BlockLatencyHistogramInfo>,
    }
}

qapi_struct! {
    /// Counters of the last seconds.
    pub struct BlockDeviceTimedStats {
        /// In seconds.
        interval_length as "interval_length": i64,
        min_rd_latency_ns as "min_rd_latency_ns": i64,
        max_rd_latency_ns as "max_rd_latency_ns": i64,
        avg_rd_latency_ns as "avg_rd_latency_ns": i64,
        min_wr_latency_ns as "min_wr_latency_ns": i64,
        max_wr_latency_ns as "max_wr_latency_ns": i64,
        avg_wr_latency_ns as "avg_wr_latency_ns": i64,
        min_zone_append_latency_ns as "min_zone_append_latency_ns": i64,
        max_zone_append_latency_ns as "max_zone_append_latency_ns": i64,
        avg_zone_append_latency_ns as "avg_zone_append_latency_ns": i64,
        min_flush_latency_ns as "min_flush_latency_ns": i64,
        max_flush_latency_ns as "max_flush_latency_ns": i64,
        avg_flush_latency_ns as "avg_flush_latency_ns": i64,
        avg_rd_queue_depth as "avg_rd_queue_depth": f64,
        avg_wr_queue_depth as "avg_wr_queue_depth": f64,
        avg_zone_append_queue_depth as "avg_zone_append_queue_depth": f64,
    }
}

qapi_struct! {
    /// Requests by latency.
    pub struct BlockLatencyHistogramInfo {
        /// In nanoseconds, ascending.
        boundaries: Vec<u64>,
        /// One more than boundaries.
        bins: Vec<u64>,
    }
}

qapi_union! {
    /// What only one driver counts.
    pub struct BlockStatsSpecific {}
    /// The driver, and its counters.
    driver: BlockdevDriver => pub enum BlockStatsSpecificData {
        Blkdebug(Empty),
        Blkverify(Empty),
        CopyOnRead(Empty),
        File(BlockStatsSpecificFile),
        HostDevice(BlockStatsSpecificFile),
        Nbd(Empty),
        NullAio(Empty),
        NullCo(Empty),
        Qcow2(Empty),
        Raw(Empty),
    }
}

qapi_struct! {
    /// What files count.
    pub struct BlockStatsSpecificFile {
        discard_nb_ok: u64,
        discard_nb_failed: u64,
        discard_bytes_ok: u64,
    }
}
