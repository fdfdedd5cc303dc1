//! The straight path: a read or write that is one operation on one device, begun before anything else is set up.
//!
//! ```text
//!   look up ── one device, aligned, whole range, nobody to tell ──► submit ── done already ──► the caller has its answer
//!      │                                                              │
//!      '── anything else: the ordinary way, from the start            '── not yet: `Work::Submitted`, the ordinary way
//! ```
//! Most requests are of this kind, and those that memory answers are over when they were begun; what it takes to wait, and
//! to run to the end without the caller, is spared them.
//!
//! Invariant: before it says "anything else", nothing has happened. Not here: what may go wrong later ([`super::read`],
//! [`super::write`]), which follow the same rules in the same order.

use std::sync::Arc;

use drystone_base::{GuestOffset, GuestRange, Result};
use drystone_buf::Buf;

use crate::backend;
use crate::disk::{Completion, DiskDone};
use crate::driver::{Access, BufResult, WriteFlags};
use crate::graph::node::Node;
use crate::request::device::{self, Reading, is_straight, start_read, start_write};
use crate::request::io::{Io, Request};
use crate::request::observe::Crossed;
use crate::request::presence::Presence;
use crate::request::resolve::{Part, Target, resolve};
use crate::runtime::LocalRef;

/// What became of an attempt.
pub(crate) enum Begun {
    Done(Result<()>, Buf),
    Submitted(Submitted),
    /// It needs more; here is its buffer.
    NotStraight(Buf),
}

/// A request that a device has not answered yet.
pub(crate) enum Submitted {
    Read { completion: Completion, at: GuestOffset, len: usize },
    Write { completion: Completion, at: GuestOffset, len: usize, node: Arc<Node> },
}

impl Submitted {
    pub(crate) fn accounted(&self) -> (backend::Kind, u64) {
        match self {
            Self::Read { len, .. } => (backend::Kind::Read, *len as u64),
            Self::Write { len, .. } => (backend::Kind::Write, *len as u64),
        }
    }

    /// The same once more, without its buffer: what it reads or writes, if it writes, and how long it is.
    pub(crate) fn again(&self) -> (GuestOffset, bool, usize) {
        match self {
            Self::Read { at, len, .. } => (*at, false, *len),
            Self::Write { at, len, .. } => (*at, true, *len),
        }
    }

    pub(crate) async fn finish(self, io: Io<'_>) -> BufResult {
        let (result, buf) = match self {
            Self::Read { completion, .. } => device::over(io, completion.await),
            Self::Write { completion, node, .. } => {
                let done = device::over(io, completion.await);
                node.flush.mark_written();
                done
            }
        };
        (result.map_err(|error| error.on_node(io.node().name())), buf)
    }
}

/// Begins a read.
pub(crate) fn read(presence: &mut Option<Presence>, local: &LocalRef, at: GuestOffset, buf: Buf) -> Begun {
    attempt(presence, local, backend::Kind::Read, buf, |io, buf| read_at(io, at, buf))
}

/// Begins a write.
pub(crate) fn write(
    presence: &mut Option<Presence>,
    local: &LocalRef,
    at: GuestOffset,
    buf: Buf,
    flags: WriteFlags,
) -> Begun {
    if flags.fua || flags.unchanged || flags.compressed {
        return Begun::NotStraight(buf);
    }
    attempt(presence, local, backend::Kind::Write, buf, |io, buf| write_at(io, at, buf))
}

fn attempt(
    presence: &mut Option<Presence>,
    local: &LocalRef,
    kind: backend::Kind,
    buf: Buf,
    begin: impl FnOnce(Io<'_>, Buf) -> Begun,
) -> Begun {
    // Where the simulator wants to come between look-up and submission, the ordinary way has the place for it.
    if cfg!(feature = "sim") && local.yields_here() {
        return Begun::NotStraight(buf);
    }
    let bytes = buf.len() as u64;
    let Some(inside) = presence.take() else { return Begun::NotStraight(buf) };
    let request = Request::new(inside, local.clone());
    let target = request.presence().root().and_then(|root| Some((root, root.target(request.presence())?)));
    let begun = match target {
        Some((root, node)) => {
            let begun = begin(Io::new(&request, node, root.perm()), buf);
            if let Begun::Done(result, _) = &begun {
                root.count(local.shard(), kind, bytes, result.is_ok());
            }
            begun
        }
        None => Begun::NotStraight(buf),
    };
    *presence = Some(request.into_presence());
    begun
}

/// The whole of `range`, if one look-up finds it.
fn whole<'t>(
    io: Io<'t>,
    range: GuestRange,
    access: Access,
    crossed: Option<&mut Crossed<'t>>,
) -> Option<Target<'t>> {
    if range.is_empty() || io.demand_inside(range, false).is_err() {
        return None;
    }
    let Part { len, target } = resolve(io, range, access, crossed).ok()?;
    (len >= range.len()).then_some(target)
}

fn read_at(io: Io<'_>, at: GuestOffset, mut buf: Buf) -> Begun {
    let range = GuestRange::checked(at.get(), buf.len() as u64);
    match range.and_then(|range| whole(io, range, Access::Read, None)) {
        Some(Target::Device { node, at: place }) if is_straight(node.node()) => {
            let len = buf.len();
            let Reading::Straight(mut completion) = start_read(node.node(), io.local_ref(), place, buf)
            else {
                unreachable!("a device without alignment needs no bounce buffer");
            };
            match completion.try_take() {
                Some(done) => over(io, done),
                None => Begun::Submitted(Submitted::Read { completion, at, len }),
            }
        }
        Some(Target::Zero) => {
            buf.fill_zero();
            Begun::Done(Ok(()), buf)
        }
        _ => Begun::NotStraight(buf),
    }
}

fn write_at(io: Io<'_>, at: GuestOffset, buf: Buf) -> Begun {
    let Some(range) = GuestRange::checked(at.get(), buf.len() as u64) else { return Begun::NotStraight(buf) };
    if io.demand_write(false).is_err() || io.node().detects_zeroes() {
        return Begun::NotStraight(buf);
    }
    let mut crossed = Crossed::default();
    let target = whole(io, range, Access::Write, Some(&mut crossed));
    match target {
        Some(Target::Device { node, at: place }) if is_straight(node.node()) && crossed.is_empty() => {
            let len = buf.len();
            let mut completion = start_write(&node, io.local_ref(), place, buf);
            match completion.try_take() {
                Some(done) => {
                    node.node().flush.mark_written();
                    over(io, done)
                }
                None => Begun::Submitted(Submitted::Write { completion, at, len, node: node.to_arc() }),
            }
        }
        _ => Begun::NotStraight(buf),
    }
}

/// The end of an operation that was over at once. One that the device could not take has not happened: the ordinary way
/// knows how to come again.
fn over(io: Io<'_>, done: DiskDone) -> Begun {
    let is_handed_back = done.again_ns.is_some();
    let (result, buf) = (done.result, done.buf.unwrap_or_else(Buf::empty));
    if is_handed_back {
        return Begun::NotStraight(buf);
    }
    Begun::Done(result.map_err(|error| error.on_node(io.node().name())), buf)
}
