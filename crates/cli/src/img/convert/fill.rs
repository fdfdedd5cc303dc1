//! From opened disks to a full target.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_core::backend::ReadWrite;
use drystone_core::driver::{WriteFlags, ZeroFlags};
use drystone_core::graph::node::ChildKey;
use drystone_format::qcow2::driver::Qcow2;
use drystone_job::copy::spec::{CopySource, CopySpec, Order, Own, Zeroes};

use super::Source;
use super::args::Request;
use crate::tool::Tool;
use crate::tool::disk::Disk;

/// Zeroes are looked for in blocks of at most this many bytes.
const BLOCK_BYTES_MAX: u64 = 1 << 20;
/// The blocks when nobody looks for zeroes.
const BLOCK_BYTES: u64 = 4096;

/// What is known of the target.
struct Target {
    /// Length of its clusters in bytes, if it has such.
    cluster_bytes: Option<u64>,
    /// Length of its backing image.
    backing_bytes: Option<u64>,
    /// It is no file: what is on it when it is new is not known.
    keeps_contents: bool,
    /// It has a place for compressed clusters.
    takes_compressed: bool,
    /// It is at a server.
    is_remote: bool,
}

/// Copies everything.
///
/// # Errors
/// The first of those of reading and writing.
pub(super) async fn fill(
    tool: &Tool,
    request: &Request,
    sources: &[Source],
    disk: &Disk<ReadWrite>,
) -> Result<()> {
    let target = look_at(tool, disk).await?;
    let is_raw = target.cluster_bytes.is_none();
    if request.is_compressed && !target.takes_compressed {
        return Err(Error::new(Kind::Unsupported, "the target takes no compressed clusters"));
    }
    let has_backing = request.has_backing()?;
    let len_bytes = sources.iter().map(|source| source.len_bytes).sum();
    let source_of = |source: &Source| CopySource {
        backend: source.backend.clone(),
        start: 0,
        len_bytes: source.len_bytes,
    };
    let block_bytes = match request.sparse_bytes {
        0 => BLOCK_BYTES,
        sparse => BLOCK_BYTES_MAX.min(1 << sparse.ilog2()),
    };
    // Clusters that have their space already need not be filled with zeroes.
    let cluster_bytes = target.cluster_bytes.filter(|_| request.is_compressed || !request.is_preallocated());
    let unit_bytes = BLOCK_BYTES.min(block_bytes).max(cluster_bytes.unwrap_or(0));
    let spec = CopySpec {
        sources: sources.iter().map(source_of).collect(),
        target: disk.backend.clone(),
        unit_bytes,
        block_bytes: block_bytes.max(unit_bytes),
        zeroes: match request.sparse_bytes {
            0 => Zeroes::Written,
            bytes_min => Zeroes::Found { bytes_min },
        },
        zero_from: zero_from(tool, request, disk, &target, len_bytes).await?,
        own: Own::top(if has_backing { target.backing_bytes.unwrap_or(0) } else { 0 }),
        flags: WriteFlags { compressed: request.is_compressed, ..disk.flags },
        offloads: request.offloads,
        // A format gives out space in the order of writes: its images come out the same each time, and what is compressed lies
        // close together.
        order: match request.is_unordered || is_raw {
            false => Order::Disk,
            true if request.is_compressed => Order::Ready,
            true => Order::Free,
        },
        bytes_per_second: request.bytes_per_second,
        salvages: request.salvages,
    };
    tool.copy(spec, request.workers, request.is_quiet).await
}

async fn look_at(tool: &Tool, disk: &Disk<ReadWrite>) -> Result<Target> {
    let top = disk.node;
    let file = disk.layers.first().and_then(|layer| layer.file).unwrap_or(top);
    tool.on_control(async move |task| {
        Ok(task.gs().with(|graph| {
            let qcow2 = graph.node_handle(top);
            let qcow2 = qcow2.as_ref().and_then(|node| node.driver_as::<Qcow2>());
            let backing = graph.child(top, ChildKey::Backing).and_then(|backing| graph.node(backing));
            let file = graph.node(file).map_or("", |file| file.format_name);
            Target {
                takes_compressed: graph.node_handle(top).is_some_and(|node| node.driver().takes_compressed()),
                cluster_bytes: qcow2.map(|image| image.header_now().cluster().bytes()),
                backing_bytes: backing.map(|backing| backing.len),
                keeps_contents: file != "file",
                is_remote: file == "nbd",
            }
        }))
    })
    .await
}

/// From where on the first `len_bytes` of the target read as zeroes. A target that is there already is made to, if that is
/// quick.
async fn zero_from(
    tool: &Tool,
    request: &Request,
    disk: &Disk<ReadWrite>,
    target: &Target,
    len_bytes: u64,
) -> Result<u64> {
    if request.is_target_zero && target.backing_bytes.is_some() {
        let text = "a target with a backing file does not read as zeroes";
        return Err(Error::new(Kind::InvalidInput, text).in_option("target-is-zero"));
    }
    if request.has_backing()? {
        return Ok(target.backing_bytes.unwrap_or(0));
    }
    let keeps_contents = target.keeps_contents && target.cluster_bytes.is_none();
    let is_new = !request.skips_creation && !keeps_contents;
    if is_new || request.is_target_zero || len_bytes == 0 {
        return Ok(0);
    }
    if request.sparse_bytes == 0 || target.backing_bytes.is_some() {
        return Ok(u64::MAX);
    }
    // What is behind the sources stays as it is.
    let range = GuestRange::new(GuestOffset::ZERO, len_bytes);
    if target.is_remote {
        // What a server gives back to zero a disk at once, it would have to find anew for each write.
        let status = tool.lane().enter(&disk.backend).await.status(range, u32::MAX).await?;
        return Ok(if status.zero && status.len >= len_bytes { 0 } else { u64::MAX });
    }
    let flags = ZeroFlags { may_unmap: true, fast_only: true, ..ZeroFlags::default() };
    match tool.lane().enter(&disk.backend).await.write_zeroes(range, flags).await {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == Kind::Unsupported => Ok(u64::MAX),
        Err(error) => Err(error),
    }
}
