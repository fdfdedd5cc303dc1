//! Running a request to its end.
//!
//! A request is a state machine in a reusable box of its lane. The caller's future only *drives* it: dropped half way,
//! it hands the box to the thread's executor, which finishes the request; the ticket's presence goes along, so a drain
//! waits for it. In steady state nothing is allocated.
//!
//! A request that must wait for something other than a device steps back before its first visible effect: it leaves the
//! graph, waits, and enters again; its buffer, place and deadline stay with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;

use crate::backend::{self, Root};
use crate::disk::Preallocation;
use crate::driver::{Status, WriteFlags, ZeroFlags};
use crate::graph::gate::Enter;
use crate::graph::node::Node;
use crate::request::io::{Io, Request};
use crate::request::offload;
use crate::request::presence::Presence;
use crate::request::press::Pressed;
use crate::request::straight::Submitted;
use crate::runtime::LocalRef;
use crate::waits::Rank;

/// What a request does.
pub(crate) enum Work {
    Read {
        at: GuestOffset,
        buf: Buf,
    },
    Write {
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    },
    /// What a driver has compressed.
    Pressed {
        pressed: Pressed,
        buf: Buf,
        flags: WriteFlags,
    },
    /// A read or write of a machine's state.
    State {
        at: u64,
        buf: Buf,
        writes: bool,
    },
    Zero {
        range: GuestRange,
        flags: ZeroFlags,
    },
    Discard(GuestRange),
    Flush,
    Resize {
        len: u64,
        preallocation: Preallocation,
    },
    Status {
        range: GuestRange,
        layers: u32,
    },
    /// The disk gets what another one has.
    Copy {
        at: GuestOffset,
        source: offload::Source,
        fua: bool,
    },
    /// A read or write that a device has already.
    Submitted(Submitted),
}

/// What a finished request leaves.
pub(crate) struct Outcome {
    pub(crate) result: Result<()>,
    pub(crate) buf: Option<Buf>,
    pub(crate) status: Option<Status>,
    /// How many bytes were copied.
    pub(crate) copied: u64,
}

/// What a finished request gives back to its ticket.
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    /// None if the request stepped back and its root had left the graph when it came again.
    pub(crate) presence: Option<Presence>,
}

/// A reusable place for one running request.
pub(crate) trait Machine {
    fn start(&mut self, work: Work, presence: Presence, local: LocalRef);
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Finished>;
}

struct Place<F, R> {
    make: F,
    running: Pin<Box<Option<R>>>,
}

impl<F, R> Machine for Place<F, R>
where
    F: Fn(Work, Presence, LocalRef) -> R,
    R: Future<Output = Finished>,
{
    fn start(&mut self, work: Work, presence: Presence, local: LocalRef) {
        assert!(self.running.is_none(), "a lane started a request before the last one had ended");
        self.running.set(Some((self.make)(work, presence, local)));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Finished> {
        let Some(running) = self.running.as_mut().as_pin_mut() else {
            panic!("a request was polled after its end");
        };
        let finished = std::task::ready!(running.poll(cx));
        self.running.set(None);
        Poll::Ready(finished)
    }
}

/// A place that has never run a request.
pub(crate) fn new_machine() -> Box<dyn Machine> {
    Box::new(Place { make: run, running: Box::pin(None) })
}

/// Drives a started request to its end, for nobody.
struct Detached(Box<dyn Machine>);

impl Future for Detached {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx).map(drop)
    }
}

/// The caller's hold on a running request. Dropping it detaches from the request.
pub(crate) struct Running<'l> {
    place: &'l mut Option<Box<dyn Machine>>,
    local: &'l LocalRef,
    done: bool,
}

impl<'l> Running<'l> {
    pub(crate) fn start(
        place: &'l mut Option<Box<dyn Machine>>,
        local: &'l LocalRef,
        work: Work,
        presence: Presence,
    ) -> Self {
        place.get_or_insert_with(new_machine).start(work, presence, local.clone());
        Self { place, local, done: false }
    }
}

impl Future for Running<'_> {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        let Some(machine) = self.place.as_mut() else { panic!("a request was polled after its end") };
        let finished = std::task::ready!(machine.poll(cx));
        self.done = true;
        Poll::Ready(finished)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.done
            && let Some(machine) = self.place.take()
        {
            self.local.spawn(Box::pin(Detached(machine)));
        }
    }
}

async fn run(work: Work, presence: Presence, local: LocalRef) -> Finished {
    let (kind, bytes) = work.accounted();
    let mut work = work;
    let mut presence = presence;
    loop {
        let request = Request::new(presence, local.clone());
        let (mut outcome, again) = attempt(&request, work).await;
        let wish = request.take_step_back().filter(|_| outcome.result.is_err());
        let step_back = wish.filter(|_| again.is_whole(&outcome));
        if wish.is_some() && step_back.is_none() {
            outcome.result = Err(Error::new(Kind::Io, "a device went away with a part of the request"));
        }
        let back = request.into_presence();
        let (Some(step_back), Some(root)) = (step_back, back.root().cloned()) else {
            if let Some(root) = back.root() {
                root.count(local.shard(), kind, bytes, outcome.result.is_ok());
            }
            return Finished { outcome, presence: Some(back) };
        };
        drop(back);
        local.sleep_until(step_back.until_ns).await;
        work = again.with_buf(outcome.buf);
        presence = enter(&root, &local).await;
    }
}

/// Enters through the gate of `root`, waiting while it is closed.
pub(crate) async fn enter(root: &Arc<Root>, local: &LocalRef) -> Presence {
    let shard = local.shard();
    let side = match root.gate().try_enter(shard) {
        Some(side) => side,
        None => {
            let what = format!("the gate of '{}'", root.name());
            let ranks = (Rank::Nothing, Rank::Gate);
            let _waiting = root.waits().begin(ranks, root.name(), what, "a drain".to_owned());
            Enter::new(Arc::clone(root.gate()), shard).await
        }
    };
    Presence::counted(Arc::clone(root), shard, side)
}

/// One go at a request; also what is needed for another.
async fn attempt(request: &Request, work: Work) -> (Outcome, Again) {
    let Some((node, perm)) =
        request.presence().root().and_then(|root| Some((root.target(request.presence())?, root.perm())))
    else {
        let result = Err(Error::new(Kind::NotFound, format!("'{}' has no node any more", request.who())));
        let again = work.again();
        return (Outcome::without_answer(result, work.into_buf()), again);
    };
    let (result, work) = work.for_node(node);
    let again = work.again();
    if result.is_err() {
        return (Outcome::without_answer(result, work.into_buf()), again);
    }
    let io = Io::new(request, node, perm);
    let (mut status, mut back, mut copied) = (None, None, 0);
    let result = match work {
        Work::Submitted(submitted) => keep(&mut back, submitted.finish(io).await),
        Work::Read { at, buf } => keep(&mut back, io.read(at, buf).await),
        Work::Write { at, buf, flags } => keep(&mut back, io.write(at, buf, flags).await),
        Work::Pressed { pressed, buf, flags } => {
            keep(&mut back, crate::request::write::write_pressed(io, &pressed, buf, flags).await)
        }
        Work::State { at, buf, writes: false } => keep(&mut back, io.read_state(at, buf).await),
        Work::State { at, buf, writes: true } => keep(&mut back, io.write_state(at, buf).await),
        Work::Zero { range, flags } => io.write_zeroes(range, flags).await,
        Work::Discard(range) => io.discard(range).await,
        Work::Flush => crate::request::flush::flush(io).await,
        Work::Resize { len, preallocation } => io.resize(len, preallocation).await,
        Work::Copy { at, source, fua } => {
            offload::copy(io, at, source, fua).await.map(|bytes| copied = bytes)
        }
        Work::Status { range, layers } => {
            crate::request::status::status(io, range, layers).await.map(|found| status = Some(found))
        }
    };
    (Outcome { result, buf: back, status, copied }, again)
}

fn keep(place: &mut Option<Buf>, (result, buf): (Result<()>, Buf)) -> Result<()> {
    *place = Some(buf);
    result
}

impl Outcome {
    pub(crate) fn without_answer(result: Result<()>, buf: Option<Buf>) -> Self {
        Self { result, buf, status: None, copied: 0 }
    }
}

/// A request without its buffer, whose length it remembers.
enum Again {
    Read(GuestOffset, usize),
    Write(GuestOffset, WriteFlags, usize),
    Pressed(Pressed, WriteFlags, usize),
    State(u64, bool, usize),
    Other(Work),
    /// It never steps back.
    Never,
}

impl Again {
    /// Whether the buffer came back whole. A device that goes away keeps its part: the request must not be tried again
    /// with the rest, and succeed.
    fn is_whole(&self, outcome: &Outcome) -> bool {
        match self {
            Self::Read(_, len)
            | Self::Write(_, _, len)
            | Self::Pressed(_, _, len)
            | Self::State(_, _, len) => outcome.buf.as_ref().is_some_and(|buf| buf.len() == *len),
            Self::Other(_) => true,
            Self::Never => false,
        }
    }

    fn with_buf(self, buf: Option<Buf>) -> Work {
        match self {
            Self::Read(at, _) => Work::Read { at, buf: buf.unwrap_or_else(Buf::empty) },
            Self::Write(at, flags, _) => Work::Write { at, buf: buf.unwrap_or_else(Buf::empty), flags },
            Self::Pressed(pressed, flags, _) => {
                Work::Pressed { pressed, buf: buf.unwrap_or_else(Buf::empty), flags }
            }
            Self::State(at, writes, _) => Work::State { at, buf: buf.unwrap_or_else(Buf::empty), writes },
            Self::Other(work) => work,
            Self::Never => unreachable!("what is never whole again does not come again"),
        }
    }
}

impl Work {
    fn again(&self) -> Again {
        Again::Other(match self {
            Self::Read { at, buf } => return Again::Read(*at, buf.len()),
            Self::Write { at, buf, flags } => return Again::Write(*at, *flags, buf.len()),
            Self::Pressed { pressed, buf, flags } => {
                return Again::Pressed(pressed.clone(), *flags, buf.len());
            }
            Self::State { at, buf, writes } => return Again::State(*at, *writes, buf.len()),
            Self::Submitted(submitted) => {
                return match submitted.again() {
                    (at, false, len) => Again::Read(at, len),
                    (at, true, len) => Again::Write(at, WriteFlags::default(), len),
                };
            }
            Self::Copy { .. } => return Again::Never,
            Self::Zero { range, flags } => Self::Zero { range: *range, flags: *flags },
            Self::Discard(range) => Self::Discard(*range),
            Self::Flush => Self::Flush,
            Self::Resize { len, preallocation } => Self::Resize { len: *len, preallocation: *preallocation },
            Self::Status { range, layers } => Self::Status { range: *range, layers: *layers },
        })
    }

    pub(crate) fn into_buf(self) -> Option<Buf> {
        match self {
            Self::Read { buf, .. }
            | Self::Write { buf, .. }
            | Self::Pressed { buf, .. }
            | Self::State { buf, .. } => Some(buf),
            _ => None,
        }
    }

    /// What it is at `node`: bytes that another node has compressed are made what they were.
    fn for_node(self, node: &Arc<Node>) -> (Result<()>, Self) {
        match self {
            Self::Pressed { pressed, mut buf, flags } if !pressed.is_by(node) => {
                let result = pressed.undo(buf.as_mut_slice());
                let flags = WriteFlags { compressed: true, ..flags };
                (result, Self::Write { at: pressed.at(), buf, flags })
            }
            work => (Ok(()), work),
        }
    }

    fn accounted(&self) -> (backend::Kind, u64) {
        match self {
            Self::Read { buf, .. } => (backend::Kind::Read, buf.len() as u64),
            Self::Write { buf, .. } | Self::Pressed { buf, .. } => (backend::Kind::Write, buf.len() as u64),
            // Nothing of the disk.
            Self::State { .. } => (backend::Kind::Other, 0),
            Self::Zero { range, .. } => (backend::Kind::Zero, range.len()),
            Self::Copy { source, .. } => (backend::Kind::Write, source.len()),
            Self::Discard(range) => (backend::Kind::Discard, range.len()),
            Self::Flush => (backend::Kind::Flush, 0),
            Self::Resize { .. } | Self::Status { .. } => (backend::Kind::Other, 0),
            Self::Submitted(submitted) => submitted.accounted(),
        }
    }
}
