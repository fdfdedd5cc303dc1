//! Reading: resolve, submit every part, await them all, the first error wins.

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;
use smallvec::SmallVec;

use crate::driver::{Access, BufResult};
use crate::request::device::{self, Reading, start_read};
use crate::request::io::Io;
use crate::request::resolve::{Part, Target, resolve};

/// How often a driver may ask to load metadata for one part before that is a bug: it can lose its cache entry to others
/// between loading and looking, but not for ever.
const LOADS_MAX: u32 = 1_000;

/// A part of a read, in the order of the disk.
enum Piece {
    Done(Buf),
    Reading(Reading),
}

pub(crate) async fn read(io: Io<'_>, at: GuestOffset, mut buf: Buf) -> BufResult {
    let Some(range) = GuestRange::checked(at.get(), buf.len() as u64) else {
        return (Err(past_the_largest_disk(io)), buf);
    };
    if let Err(error) = io.demand_inside(range, false) {
        return (Err(error), buf);
    }
    if range.is_empty() {
        return (Ok(()), buf);
    }
    let part = match part_at(io, range, Access::Read).await {
        Ok(part) => part,
        Err(error) => return (Err(error), buf),
    };
    io.sim_point().await;
    if part.len < range.len() {
        return read_pieces(io, range, part, buf).await;
    }
    let (result, buf) = match part.target {
        Target::Device { node, at } => start_read(node.node(), io.local_ref(), at, buf).finish(io).await,
        Target::Zero => {
            buf.fill_zero();
            (Ok(()), buf)
        }
        Target::Ask { io, at } => io.node().driver().read(io, at, buf).await,
        Target::Enter { io, at, told, event } => {
            told.event(event).await;
            Box::pin(read(io, at, buf)).await
        }
        Target::Load { .. } => unreachable!("part_at loads"),
    };
    (result.map_err(|error| error.on_node(io.node().name())), buf)
}

/// See [`Io::read_now`].
pub(crate) fn read_now(io: Io<'_>, at: GuestOffset, bytes: &mut [u8]) -> bool {
    let range = GuestRange::checked(at.get(), bytes.len() as u64);
    let Some(range) = range.filter(|range| !range.is_empty() && !io.node().hears_events()) else {
        return false;
    };
    if io.demand_inside(range, false).is_err() {
        return false;
    }
    match resolve(io, range, Access::Read, None) {
        Ok(Part { len, target: Target::Device { node, at } }) => {
            len >= range.len() && device::read_now(node.node(), io.local_ref(), at, bytes)
        }
        _ => false,
    }
}

pub(crate) fn past_the_largest_disk(io: Io<'_>) -> Error {
    Error::new(Kind::OutOfRange, "the request ends past the largest possible disk").on_node(io.node().name())
}

/// Resolves the start of `range`, loading metadata as often as drivers ask for it.
async fn part_at<'t>(io: Io<'t>, range: GuestRange, access: Access) -> Result<Part<'t>> {
    for _ in 0..LOADS_MAX {
        let part = resolve(io, range, access, None)?;
        let Target::Load { io: owner, range: wanted } = part.target else {
            return Ok(Part { len: part.len.min(range.len()), ..part });
        };
        owner.node().driver().load(owner, wanted, access).await?;
    }
    Err(Error::new(Kind::Io, "metadata was evicted faster than it was read").on_node(io.node().name()))
}

async fn read_pieces<'t>(io: Io<'t>, range: GuestRange, first: Part<'t>, mut buf: Buf) -> BufResult {
    let mut pieces: SmallVec<[Piece; 4]> = SmallVec::new();
    let mut rest = range;
    let mut next = Ok(first);
    let mut result = Ok(());
    let tail = loop {
        let part = match next {
            Ok(part) => part,
            Err(error) => {
                result = Err(error);
                break buf;
            }
        };
        let behind = buf.split_off(usize::try_from(part.len).unwrap_or(usize::MAX));
        let (outcome, piece) = start_piece(io, part.target, buf).await;
        pieces.push(piece);
        buf = behind;
        rest = rest.skip(part.len);
        if outcome.is_err() {
            result = outcome;
            break buf;
        }
        if rest.is_empty() {
            break buf;
        }
        next = part_at(io, rest, Access::Read).await;
    };
    let (outcome, buf) = collect(io, pieces, tail).await;
    (result.and(outcome).map_err(|error| error.on_node(io.node().name())), buf)
}

async fn start_piece(io: Io<'_>, target: Target<'_>, mut buf: Buf) -> (Result<()>, Piece) {
    match target {
        Target::Device { node, at } => {
            (Ok(()), Piece::Reading(start_read(node.node(), io.local_ref(), at, buf)))
        }
        Target::Zero => {
            buf.fill_zero();
            (Ok(()), Piece::Done(buf))
        }
        Target::Ask { io, at } => {
            let (result, buf) = io.node().driver().read(io, at, buf).await;
            (result, Piece::Done(buf))
        }
        Target::Enter { io, at, told, event } => {
            told.event(event).await;
            let (result, buf) = Box::pin(read(io, at, buf)).await;
            (result, Piece::Done(buf))
        }
        Target::Load { .. } => unreachable!("part_at loads"),
    }
}

/// Awaits every piece and joins the buffer again.
async fn collect(io: Io<'_>, pieces: SmallVec<[Piece; 4]>, tail: Buf) -> BufResult {
    let mut result = Ok(());
    let mut whole: Option<Buf> = None;
    for piece in pieces {
        let (outcome, buf) = match piece {
            Piece::Done(buf) => (Ok(()), buf),
            Piece::Reading(reading) => reading.finish(io).await,
        };
        result = result.and(outcome);
        whole = Some(join(whole, buf));
    }
    (result, join(whole, tail))
}

/// Appends `next`. A device that lost a buffer (it went away) leaves a gap; the request has failed then, and what is
/// left of its buffer is returned.
pub(crate) fn join(whole: Option<Buf>, next: Buf) -> Buf {
    let Some(mut whole) = whole else { return next };
    match whole.rejoin(next) {
        Ok(()) | Err(_) => whole,
    }
}
