//! Writing: resolve, submit every part, await them all, then tell the observers of the nodes that were crossed.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use drystone_buf::scan::is_zero;
use smallvec::SmallVec;

use crate::disk::Completion;
use crate::driver::{Access, BufResult, WriteFlags, ZeroFlags};
use crate::graph::policy::DetectZeroes;
use crate::request::device::{is_straight, over, start_write, write_aligned};
use crate::request::event::Event;
use crate::request::flush::flush;
use crate::request::io::Io;
use crate::request::observe::Crossed;
use crate::request::press::Pressed;
use crate::request::read::{join, past_the_largest_disk};
use crate::request::resolve::{DeviceNode, Part, Target, resolve};
use crate::request::zero;

/// As in `request::read`.
const LOADS_MAX: u32 = 1_000;

/// A part of a write, in the order of the disk.
enum Piece<'t> {
    Done(Buf),
    Writing { node: DeviceNode<'t>, completion: Completion },
}

/// Stores `buf`, or makes its range read as zeroes if that comes to the same and the node looks for it.
pub(crate) async fn write(io: Io<'_>, at: GuestOffset, buf: Buf, flags: WriteFlags) -> BufResult {
    if io.node().detects_zeroes() && !flags.unchanged && is_zero(buf.as_slice()) {
        let range = GuestRange::checked(at.get(), buf.len() as u64);
        if let Some(range) = range.filter(|range| !range.is_empty()) {
            let may_unmap = io.node().policy().detect_zeroes == DetectZeroes::Unmap;
            let zero = ZeroFlags { may_unmap, fast_only: false, fua: flags.fua, unchanged: false };
            return (zero::write_zeroes(io, range, zero).await, buf);
        }
    }
    write_as_it_is(io, at, buf, flags).await
}

/// Stores `buf`, whatever is in it.
pub(crate) async fn write_as_it_is(io: Io<'_>, at: GuestOffset, buf: Buf, flags: WriteFlags) -> BufResult {
    store(io, at, buf, flags, None).await
}

/// Stores what the driver of this node has compressed.
pub(crate) async fn write_pressed(io: Io<'_>, pressed: &Pressed, buf: Buf, flags: WriteFlags) -> BufResult {
    let flags = WriteFlags { compressed: true, ..flags };
    store(io, pressed.at(), buf, flags, Some(pressed)).await
}

async fn store(
    io: Io<'_>,
    at: GuestOffset,
    buf: Buf,
    flags: WriteFlags,
    pressed: Option<&Pressed>,
) -> BufResult {
    let Some(range) = GuestRange::checked(at.get(), buf.len() as u64) else {
        return (Err(past_the_largest_disk(io)), buf);
    };
    if let Err(error) = io.demand_write(flags.unchanged).and_then(|()| io.demand_inside(range, true)) {
        return (Err(error), buf);
    }
    io.event(Event::Pwritev).await;
    let mut crossed = Crossed::default();
    let (mut result, buf) = if range.is_empty() {
        (Ok(()), buf)
    } else if flags.compressed {
        write_compressed(io, range, buf, (flags, pressed), &mut crossed).await
    } else {
        write_pieces(io, range, buf, flags, &mut crossed).await
    };
    if flags.fua && result.is_ok() {
        result = flush(io).await;
    }
    crossed.finish(result.is_ok(), flags.unchanged);
    io.event(Event::PwritevDone).await;
    (result.map_err(|error| error.on_node(io.node().name())), buf)
}

/// Hands all of a write to the driver of the node that it is at: where compressed bytes go is for that driver to find, and
/// how the range is cut into clusters.
async fn write_compressed<'t>(
    io: Io<'t>,
    range: GuestRange,
    buf: Buf,
    (flags, pressed): (WriteFlags, Option<&Pressed>),
    crossed: &mut Crossed<'t>,
) -> BufResult {
    let node = io.node();
    if !node.driver().takes_compressed() {
        let text = format!("driver '{}' cannot write compressed data", node.driver().format_name());
        return (Err(Error::new(Kind::Unsupported, text)), buf);
    }
    crossed.note(node, range);
    node.counters.write(range);
    io.sim_point().await;
    // Flushing is done once, at the end.
    let flags = WriteFlags { fua: false, ..flags };
    match pressed {
        Some(pressed) => node.driver().write_pressed(io, range.start(), buf, pressed.parts(), flags).await,
        None => node.driver().write(io, range.start(), buf, flags).await,
    }
}

/// Resolves the start of `range` for writing, loading metadata as often as drivers ask for it. Only the walk that got
/// there is noted in `crossed`.
async fn part_at<'t>(io: Io<'t>, range: GuestRange, crossed: &mut Crossed<'t>) -> Result<Part<'t>> {
    for _ in 0..LOADS_MAX {
        let mut walked = Crossed::default();
        let part = resolve(io, range, Access::Write, Some(&mut walked))?;
        let Target::Load { io: owner, range: wanted } = part.target else {
            crossed.append(walked);
            return Ok(part);
        };
        owner.node().driver().load(owner, wanted, Access::Write).await?;
    }
    Err(Error::new(Kind::Io, "metadata was evicted faster than it was read").on_node(io.node().name()))
}

async fn write_pieces<'t>(
    io: Io<'t>,
    range: GuestRange,
    mut buf: Buf,
    flags: WriteFlags,
    crossed: &mut Crossed<'t>,
) -> BufResult {
    let mut pieces: SmallVec<[Piece<'t>; 4]> = SmallVec::new();
    let mut rest = range;
    let mut result = Ok(());
    while result.is_ok() && !rest.is_empty() {
        let part = match part_at(io, rest, crossed).await {
            Ok(part) => part,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        io.sim_point().await;
        let behind = buf.split_off(usize::try_from(part.len).unwrap_or(usize::MAX));
        let (outcome, piece) = start_piece(io, part.target, buf, flags).await;
        pieces.push(piece);
        buf = behind;
        rest = rest.skip(part.len);
        result = outcome;
    }
    let (outcome, buf) = collect(io, pieces, buf).await;
    (result.and(outcome), buf)
}

async fn start_piece<'t>(
    io: Io<'t>,
    target: Target<'t>,
    buf: Buf,
    flags: WriteFlags,
) -> (Result<()>, Piece<'t>) {
    match target {
        Target::Device { node, at } if is_straight(node.node()) => {
            let completion = start_write(&node, io.local_ref(), at, buf);
            (Ok(()), Piece::Writing { node, completion })
        }
        Target::Device { node: DeviceNode::Walked(device), at } => {
            let (result, buf) = write_aligned(device, at, buf).await;
            device.node().flush.mark_written();
            (result, Piece::Done(buf))
        }
        Target::Ask { io, at } => {
            // Flushing is done once, at the end.
            let (result, buf) =
                io.node().driver().write(io, at, buf, WriteFlags { fua: false, ..flags }).await;
            (result, Piece::Done(buf))
        }
        Target::Enter { io, at, told, event } => {
            told.event(event).await;
            // A box: the child may be told to enter another one. Flushing is done once, at the end.
            let (result, buf) = Box::pin(write(io, at, buf, WriteFlags { fua: false, ..flags })).await;
            (result, Piece::Done(buf))
        }
        Target::Device { node: DeviceNode::Cached(_), .. } | Target::Zero | Target::Load { .. } => {
            unreachable!("a write resolves to a device or a driver")
        }
    }
}

async fn collect(io: Io<'_>, pieces: SmallVec<[Piece<'_>; 4]>, tail: Buf) -> BufResult {
    let mut result = Ok(());
    let mut whole: Option<Buf> = None;
    for piece in pieces {
        let (outcome, buf) = match piece {
            Piece::Done(buf) => (Ok(()), buf),
            Piece::Writing { node, completion } => {
                let (outcome, buf) = over(io, completion.await);
                node.node().flush.mark_written();
                (outcome, buf)
            }
        };
        result = result.and(outcome);
        whole = Some(join(whole, buf));
    }
    (result, join(whole, tail))
}
