//! Flushing, and knowing when there is nothing to flush.
//!
//! ```text
//!  write done:  e = epoch ; written = max(written, e)        (a store only for the first write of an epoch)
//!  flush:       e = epoch++ ; written <= flushed ? done : device flush ; flushed = max(flushed, e)
//! ```
//! A write that reads epoch `e` has ended before the flush that ends `e` asks its device, so that flush covers it.

use drystone_base::Result;

use crate::disk::DiskOp;
use crate::graph::node::ChildKey;
use crate::request::device::over;
use crate::request::event::Event;
use crate::request::io::Io;
use crate::sync::{AtomicU64, Ordering};

/// Which writes of a device are on stable storage.
pub(crate) struct FlushState {
    /// The epoch of writes that end now; starts at 1.
    epoch: AtomicU64,
    /// The latest epoch with a write in it.
    written: AtomicU64,
    /// The latest epoch all of whose writes are on stable storage.
    flushed: AtomicU64,
}

impl Default for FlushState {
    fn default() -> Self {
        // What was written before the node was opened may not be on stable storage: epoch 1 counts as written.
        Self { epoch: AtomicU64::new(1), written: AtomicU64::new(1), flushed: AtomicU64::new(0) }
    }
}

impl FlushState {
    /// A write to the node's device has ended, well or not.
    #[inline]
    pub(crate) fn mark_written(&self) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        if self.written.load(Ordering::Relaxed) < epoch {
            self.written.fetch_max(epoch, Ordering::SeqCst);
        }
    }

    /// Begins a flush: its epoch, or nothing if there is nothing to flush.
    pub(crate) fn begin(&self) -> Option<u64> {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst);
        let clean = self.flushed.load(Ordering::SeqCst) >= self.written.load(Ordering::SeqCst);
        (!clean).then_some(epoch)
    }

    /// The device has flushed for the flush that got `epoch`.
    pub(crate) fn done(&self, epoch: u64) {
        self.flushed.fetch_max(epoch, Ordering::SeqCst);
    }
}

/// Flushes the node and what it stores things in.
pub(crate) async fn flush(io: Io<'_>) -> Result<()> {
    let node = io.node();
    io.sim_point().await;
    let Some(disk) = node.driver().disk() else {
        if let Some(file) = io.child(ChildKey::File) {
            file.event(Event::FlushToOs).await;
        }
        return node.driver().flush(io).await;
    };
    let Some(epoch) = node.flush.begin() else { return Ok(()) };
    let (result, _) = over(io, disk.submit(io.local_ref(), DiskOp::Flush).await);
    result.map_err(|e| e.on_node(node.name()))?;
    node.flush.done(epoch);
    Ok(())
}
