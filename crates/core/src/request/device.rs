//! I/O on a node's own device: alignment, and bouncing only where the device demands it.
//!
//! A device may demand that offset, length and memory are multiples of its alignment (O_DIRECT). An aligned operation
//! goes through as it is. A misaligned read goes through a larger buffer; a misaligned write reads, patches and writes
//! the aligned range around it, under a range lock of the node that every write to such a device takes.

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;

use crate::disk::{Completion, DiskDone, DiskOp};
use crate::driver::BufResult;
use crate::graph::node::Node;
use crate::request::io::Io;
use crate::request::resolve::DeviceNode;
use crate::runtime::LocalRef;

/// A read that was submitted.
pub(crate) enum Reading {
    Straight(Completion),
    /// Into a larger buffer; `skip` bytes of it come before the wanted ones.
    Bounced {
        completion: Completion,
        skip: usize,
        buf: Buf,
    },
}

fn is_aligned(align: u64, at: u64, buf: &Buf) -> bool {
    let Ok(align_memory) = usize::try_from(align) else { return false };
    (at | buf.len() as u64) & (align - 1) == 0 && buf.is_aligned(align_memory)
}

fn submit(node: &Node, local: &LocalRef, op: DiskOp) -> Completion {
    match node.driver().disk() {
        Some(disk) => disk.submit(local, op),
        None => unreachable!("a driver located bytes on a device that it has not"),
    }
}

fn around(align: u64, at: u64, len: usize) -> (GuestRange, usize) {
    let range = GuestRange::new(GuestOffset::new(at), len as u64);
    let outer = range.align_out(align);
    let skip = usize::try_from(at - outer.start().get()).unwrap_or(usize::MAX);
    (outer, skip)
}

fn bounce_buf(outer: GuestRange) -> Buf {
    Buf::zeroed(usize::try_from(outer.len()).unwrap_or(usize::MAX))
}

/// Starts to fill `buf` from `at` of the device.
pub(crate) fn start_read(node: &Node, local: &LocalRef, at: u64, buf: Buf) -> Reading {
    let align = u64::from(node.request_alignment());
    if align == 1 || is_aligned(align, at, &buf) {
        return Reading::Straight(submit(node, local, DiskOp::Read { at, buf }));
    }
    let (outer, skip) = around(align, at, buf.len());
    let op = DiskOp::Read { at: outer.start().get(), buf: bounce_buf(outer) };
    Reading::Bounced { completion: submit(node, local, op), skip, buf }
}

/// Fills `bytes` from `at` of a device without alignment, if that takes no wait.
pub(crate) fn read_now(node: &Node, local: &LocalRef, at: u64, bytes: &mut [u8]) -> bool {
    is_straight(node) && node.driver().disk().is_some_and(|disk| disk.read_now(local, at, bytes))
}

impl Reading {
    pub(crate) async fn finish(self, io: Io<'_>) -> BufResult {
        match self {
            Self::Straight(completion) => over(io, completion.await),
            Self::Bounced { completion, skip, mut buf } => {
                let (result, bounce) = over(io, completion.await);
                if result.is_ok() {
                    let len = buf.len();
                    let Some(bytes) = bounce.as_slice().get(skip..skip + len) else {
                        unreachable!("the bounce buffer holds the range that it was made around");
                    };
                    buf.as_mut_slice().copy_from_slice(bytes);
                }
                (result, buf)
            }
        }
    }
}

/// What an operation leaves to its request, which steps back if the device has lost it.
pub(crate) fn over(io: Io<'_>, done: DiskDone) -> BufResult {
    if let Some(until_ns) = done.again_ns {
        io.note_step_back(until_ns);
    }
    (done.result, done.buf.unwrap_or_else(Buf::empty))
}

/// Whether a write can go to the device as it is, without waiting for others.
pub(crate) fn is_straight(node: &Node) -> bool {
    node.request_alignment() == 1
}

/// Starts to store `buf` at `at` of a device without alignment.
pub(crate) fn start_write(node: &DeviceNode<'_>, local: &LocalRef, at: u64, buf: Buf) -> Completion {
    submit(node.node(), local, DiskOp::Write { at, buf, fua: false })
}

/// Stores `buf` at `at` of a device that demands alignment.
pub(crate) async fn write_aligned(io: Io<'_>, at: u64, buf: Buf) -> BufResult {
    let node = io.node();
    let align = u64::from(node.request_alignment());
    let (outer, skip) = around(align, at, buf.len());
    let _range = io.lock_range(outer).await;
    if is_aligned(align, at, &buf) {
        return over(io, submit(node, io.local_ref(), DiskOp::Write { at, buf, fua: false }).await);
    }
    let result = patch(io, outer, skip, &buf).await;
    (result, buf)
}

async fn patch(io: Io<'_>, outer: GuestRange, skip: usize, buf: &Buf) -> Result<()> {
    let (node, local) = (io.node(), io.local_ref());
    let at = outer.start().get();
    let read = DiskOp::Read { at, buf: bounce_buf(outer) };
    let (result, mut bounce) = over(io, submit(node, local, read).await);
    result?;
    let Some(middle) = bounce.as_mut_slice().get_mut(skip..skip + buf.len()) else {
        unreachable!("the bounce buffer holds the range that it was made around");
    };
    middle.copy_from_slice(buf.as_slice());
    io.sim_point().await;
    over(io, submit(node, local, DiskOp::Write { at, buf: bounce, fua: false }).await).0
}
