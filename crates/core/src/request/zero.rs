//! Writing zeroes, discarding and resizing.
//!
//! A node with a device is served here, with the parts of the range that its alignment allows; other nodes are asked.
//! Where a driver or device cannot zero a range by itself, zero bytes are written, in bounded pieces.

use drystone_base::{Error, GuestRange, Kind, Result};
use drystone_buf::Buf;

use crate::disk::{Disk, DiskOp, Preallocation};
use crate::driver::{WriteFlags, ZeroFlags};
use crate::graph::permission::Perm;
use crate::request::device::{is_straight, over};
use crate::request::event::Event;
use crate::request::flush::flush;
use crate::request::io::Io;
use crate::request::observe::Crossed;
use crate::request::write;

/// Most zero bytes that are written at once.
const ZERO_BUF_BYTES: u64 = 1 << 20;

pub(crate) async fn write_zeroes(io: Io<'_>, range: GuestRange, flags: ZeroFlags) -> Result<()> {
    io.demand_write(flags.unchanged)?;
    io.demand_inside(range, true)?;
    if range.is_empty() {
        return Ok(());
    }
    let flags = ZeroFlags { may_unmap: flags.may_unmap && !io.node().policy().ignores_discards, ..flags };
    io.event(Event::PwritevZero).await;
    let mut crossed = Crossed::default();
    crossed.note(io.node(), range);
    io.node().counters.write(range);
    let mut result = zero_here(io, range, flags).await;
    if flags.fua && result.is_ok() {
        result = flush(io).await;
    }
    crossed.finish(result.is_ok(), flags.unchanged);
    io.event(Event::PwritevDone).await;
    result.map_err(|error| error.on_node(io.node().name()))
}

async fn zero_here(io: Io<'_>, range: GuestRange, flags: ZeroFlags) -> Result<()> {
    let fast = match io.node().driver().disk() {
        Some(disk) => zero_device(io, disk, range, flags).await,
        None => io.node().driver().write_zeroes(io, range, ZeroFlags { fua: false, ..flags }).await,
    };
    match fast {
        Err(error) if error.kind() == Kind::Unsupported && !flags.fast_only => {
            write_zero_bytes(io, range, flags.unchanged).await
        }
        result => result,
    }
}

async fn zero_device(io: Io<'_>, disk: &dyn Disk, range: GuestRange, flags: ZeroFlags) -> Result<()> {
    let (head, middle, tail) = split_aligned(range, io.node().request_alignment());
    if !middle.is_empty() {
        // A misaligned write reads and writes back more than its own bytes: it must not bring back what is zeroed here.
        let _range = if is_straight(io.node()) { None } else { Some(io.lock_range(middle).await) };
        let op =
            DiskOp::WriteZeroes { range: middle, may_unmap: flags.may_unmap, fast_only: flags.fast_only };
        let (result, _) = over(io, disk.submit(io.local_ref(), op).await);
        io.node().flush.mark_written();
        result?;
    }
    for edge in [head, tail] {
        write_zero_bytes(io, edge, flags.unchanged).await?;
    }
    Ok(())
}

/// Head and tail that are not aligned, and what lies between.
fn split_aligned(range: GuestRange, align: u32) -> (GuestRange, GuestRange, GuestRange) {
    let align = u64::from(align);
    let start = range.start().get().next_multiple_of(align).min(range.end().get());
    let end = range.end().align_down(align).get().max(start);
    let head = range.take(start - range.start().get());
    let middle = range.skip(head.len()).take(end - start);
    (head, middle, range.skip(head.len() + middle.len()))
}

async fn write_zero_bytes(io: Io<'_>, range: GuestRange, unchanged: bool) -> Result<()> {
    let mut rest = range;
    let mut buf: Option<Buf> = None;
    while !rest.is_empty() {
        let step = rest.take(ZERO_BUF_BYTES);
        let len = usize::try_from(step.len()).unwrap_or(0);
        let zeroes = match buf.take() {
            Some(zeroes) if zeroes.len() == len => zeroes,
            _ => Buf::zeroed(len),
        };
        let flags = WriteFlags { unchanged, ..WriteFlags::default() };
        let (result, zeroes) = write::write_as_it_is(io, step.start(), zeroes, flags).await;
        result?;
        buf = Some(zeroes);
        rest = rest.skip(step.len());
    }
    Ok(())
}

pub(crate) async fn discard(io: Io<'_>, range: GuestRange) -> Result<()> {
    io.demand_write(false)?;
    io.demand_inside(range, false)?;
    if range.is_empty() || io.node().policy().ignores_discards {
        return Ok(());
    }
    let mut crossed = Crossed::default();
    crossed.note(io.node(), range);
    let result = match io.node().driver().disk() {
        Some(disk) => {
            let (_, middle, _) = split_aligned(range, io.node().request_alignment());
            discard_device(io, disk, middle).await
        }
        None => io.node().driver().discard(io, range).await,
    };
    crossed.finish(result.is_ok(), false);
    result.map_err(|error| error.on_node(io.node().name()))
}

async fn discard_device(io: Io<'_>, disk: &dyn Disk, range: GuestRange) -> Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let (result, _) = over(io, disk.submit(io.local_ref(), DiskOp::Discard(range)).await);
    io.node().flush.mark_written();
    io.node().counters.discard(range, result.is_ok());
    match result {
        // Discarding is advice.
        Err(error) if error.kind() == Kind::Unsupported => Ok(()),
        result => result,
    }
}

pub(crate) async fn resize(io: Io<'_>, len: u64, preallocation: Preallocation) -> Result<()> {
    io.demand_write(false)?;
    if !io.perm().has(Perm::RESIZE) {
        let text = format!("'{}' resizes without having permission '{}'", io.who(), Perm::RESIZE);
        return Err(Error::new(Kind::ReadOnly, text).on_node(io.node().name()));
    }
    if len > drystone_base::LEN_MAX {
        return Err(Error::new(Kind::OutOfRange, "the new length exceeds the largest possible disk")
            .on_node(io.node().name()));
    }
    let result = match io.node().driver().disk() {
        Some(disk) => {
            let op = DiskOp::Truncate { len, preallocation };
            let (result, _) = over(io, disk.submit(io.local_ref(), op).await);
            io.node().flush.mark_written();
            result
        }
        None => io.node().driver().resize(io, len, preallocation).await,
    };
    result.map_err(|error| error.on_node(io.node().name()))?;
    io.node().set_len(io.node().driver().len_resized(io, len));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_base::GuestOffset;

    #[test]
    fn a_range_splits_into_aligned_middle_and_edges() {
        let parts = |start, len| {
            let (head, middle, tail) = split_aligned(GuestRange::new(GuestOffset::new(start), len), 512);
            (head.len(), middle.len(), tail.len())
        };
        assert_eq!(parts(0, 1024), (0, 1024, 0));
        assert_eq!(parts(1, 1024), (511, 512, 1));
        assert_eq!(parts(1, 100), (100, 0, 0));
        assert_eq!(parts(511, 2), (1, 0, 1));
    }
}
