//! Block status: how a range is allocated, asked layer by layer down to the device.

use drystone_base::{Error, GuestRange, Kind, Result};

use crate::driver::{Access, Place, Status, Tail};
use crate::graph::node::ChildKey;
use crate::request::io::Io;
use crate::runtime::LocalFuture;

/// As in `request::read`.
const LOADS_MAX: u32 = 1_000;

const ZERO: Status =
    Status { len: 0, data: false, zero: true, allocated: false, compressed: false, offset: None, depth: 0 };

/// How the first part of `range` is allocated, looking through at most `layers` backing images.
pub(crate) fn status<'a>(io: Io<'a>, range: GuestRange, layers: u32) -> LocalFuture<'a, Result<Status>> {
    Box::pin(async move {
        io.demand_inside(range, false)?;
        if range.is_empty() {
            return Ok(Status { zero: false, ..ZERO });
        }
        let (range, place) = locate(io, range).await?;
        let status = match place {
            Place::Device { .. } => io.node().driver().device_status(io, io.local_ref(), range).await?,
            Place::Zero { explicit } => Status { len: range.len(), allocated: explicit, ..ZERO },
            Place::Reserved { at, zero: true } => {
                Status { len: range.len(), allocated: true, offset: Some(at.get()), ..ZERO }
            }
            Place::Stored { at } => Status {
                len: range.len(),
                data: true,
                zero: false,
                allocated: true,
                offset: Some(at.get()),
                ..ZERO
            },
            Place::Ask => Status {
                len: range.len(),
                data: true,
                zero: false,
                allocated: true,
                compressed: true,
                ..ZERO
            },
            Place::Load => unreachable!("locate loads"),
            Place::Backing => below(io, range, layers, None).await?,
            Place::Reserved { at, zero: false } => below(io, range, layers, Some(at.get())).await?,
            Place::Child { child, at, tail, transparent } => {
                let layers = if transparent { layers } else { u32::MAX };
                let inner = child_status(io, range, child, (at.in_child().get(), tail, layers)).await?;
                if transparent { inner } else { stored(inner, at.get()) }
            }
        };
        Ok(Status { len: status.len.min(range.len()), ..status })
    })
}

async fn locate(io: Io<'_>, range: GuestRange) -> Result<(GuestRange, Place)> {
    for _ in 0..LOADS_MAX {
        let extent = io.node().driver().locate(io, range, Access::Status)?;
        if extent.place != Place::Load {
            return Ok((range.take(extent.len), extent.place));
        }
        io.node().driver().load(io, range, Access::Status).await?;
    }
    Err(Error::new(Kind::Io, "metadata was evicted faster than it was read").on_node(io.node().name()))
}

/// What a format stores in a child is allocated and data, also where the child has a hole.
fn stored(inner: Status, at: u64) -> Status {
    Status {
        data: true,
        allocated: true,
        compressed: false,
        offset: inner.offset.or(Some(at)),
        depth: 0,
        ..inner
    }
}

/// What the backing image says; where there is none, the node has `offset` for it.
async fn below(io: Io<'_>, range: GuestRange, layers: u32, offset: Option<u64>) -> Result<Status> {
    let nothing = Status { len: range.len(), offset, ..ZERO };
    let Some(backing) = io.child(ChildKey::Backing) else { return Ok(nothing) };
    if layers == 0 {
        return Ok(Status { zero: false, ..nothing });
    }
    match clamp(backing, range.start().get(), range) {
        None => Ok(nothing),
        Some(range) => {
            let inner = status(backing, range, layers - 1).await?;
            Ok(Status { depth: inner.depth + 1, ..inner })
        }
    }
}

async fn child_status(
    io: Io<'_>,
    range: GuestRange,
    key: ChildKey,
    (at, tail, layers): (u64, Tail, u32),
) -> Result<Status> {
    let child = io.child(key).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("the node has no child '{key}'")).on_node(io.node().name())
    })?;
    match (clamp(child, at, range), tail) {
        (Some(inner), _) => status(child, inner, layers).await,
        (None, Tail::Zeroes) => Ok(Status { len: range.len(), ..ZERO }),
        (None, Tail::Error) => {
            Err(Error::new(Kind::InvalidImage, format!("data lies past the end of child '{key}'"))
                .on_node(io.node().name()))
        }
    }
}

fn clamp(child: Io<'_>, at: u64, range: GuestRange) -> Option<GuestRange> {
    let left = child.len().checked_sub(at).filter(|left| *left > 0)?;
    GuestRange::checked(at, range.len().min(left))
}
