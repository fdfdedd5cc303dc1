//! [`Io`]: one request's view of one node. The only way for a driver to reach its children.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use drystone_base::{Error, GuestOffset, GuestRange, HostOffset, Kind, Result};
use drystone_buf::Buf;

use crate::backend::Root;
use crate::damage::Damage;
use crate::disk::Preallocation;
use crate::driver::{BufResult, Status, WriteFlags, ZeroFlags};
use crate::graph::gate::Gate;
use crate::graph::grace::Stamp;
use crate::graph::node::{ChildKey, Node};
use crate::graph::permission::Perm;
use crate::request::event::Event;
use crate::request::presence::Presence;
use crate::request::serialise::RangeGuard;
use crate::request::{read, status, write, zero};
use crate::runtime::{LocalRef, Shard, sim_point};
use crate::waits::Rank;

/// How long a request is held at most ([`Io::hold`]), in nanoseconds: a minute.
pub const HOLD_NS_MAX: u64 = 60_000_000_000;

/// What all steps of one request share.
pub(crate) struct Request {
    presence: Presence,
    local: LocalRef,
    step_back: Cell<Option<StepBack>>,
}

/// Why a request gave up its ticket before its first visible effect, and when it shall come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepBack {
    pub(crate) until_ns: u64,
}

impl Request {
    pub(crate) fn new(presence: Presence, local: LocalRef) -> Self {
        Self { presence, local, step_back: Cell::new(None) }
    }

    pub(crate) fn presence(&self) -> &Presence {
        &self.presence
    }

    pub(crate) fn into_presence(self) -> Presence {
        self.presence
    }

    pub(crate) fn take_step_back(&self) -> Option<StepBack> {
        self.step_back.take()
    }

    /// The request's name in reports.
    pub(crate) fn who(&self) -> &str {
        self.presence.root().map_or("a change", |root| root.name())
    }
}

/// A request at a node. `Copy`, and alive no longer than the request: it cannot be stored, sent or kept.
#[derive(Clone, Copy)]
pub struct Io<'t> {
    request: &'t Request,
    node: &'t Arc<Node>,
    perm: Perm,
}

impl<'t> Io<'t> {
    pub(crate) fn new(request: &'t Request, node: &'t Arc<Node>, perm: Perm) -> Self {
        Self { request, node, perm }
    }

    /// The request at a child of its node; `None` if the node has no such child.
    #[must_use]
    pub fn child(self, key: ChildKey) -> Option<Self> {
        let edge = self.node.child(key, self.request.presence())?;
        Some(Self { request: self.request, node: &edge.child, perm: edge.perm() })
    }

    /// The request at the child `file`, for drivers that always have one.
    pub fn file(self) -> Result<Self> {
        self.child(ChildKey::File).ok_or_else(|| {
            Error::new(Kind::NotFound, "the node has no child 'file'").on_node(self.node.name())
        })
    }

    /// The node that the request is at.
    #[must_use]
    pub fn node(self) -> &'t Node {
        self.node
    }

    pub(crate) fn node_arc(self) -> Arc<Node> {
        Arc::clone(self.node)
    }

    /// What the request may do here.
    #[must_use]
    pub fn perm(self) -> Perm {
        self.perm
    }

    /// Length of the node's disk in bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        self.node.len()
    }

    /// Whether the node's disk has no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The number of the thread that the request runs on.
    #[must_use]
    pub fn shard(self) -> Shard {
        self.request.local.shard()
    }

    /// [`Local::now_ns`](crate::runtime::Local::now_ns), for [`Self::step_back`]. A request cannot wait for a time: a drain would wait for it, too.
    #[must_use]
    pub fn now_ns(self) -> u64 {
        self.request.local.now_ns()
    }

    pub(crate) fn local_ref(self) -> &'t LocalRef {
        &self.request.local
    }

    pub(crate) fn root(self) -> Option<&'t Arc<Root>> {
        self.request.presence.root()
    }

    pub(crate) fn who(self) -> &'t str {
        self.request.who()
    }

    /// A place where the simulator may let other tasks run.
    pub async fn sim_point(self) {
        sim_point(&*self.request.local).await;
    }

    /// Fills `buf` from `at`.
    pub async fn read(self, at: GuestOffset, buf: Buf) -> BufResult {
        read::read(self, at, buf).await
    }

    /// Reads `len_bytes` bytes at `at` into a new buffer.
    pub async fn read_new(self, at: GuestOffset, len_bytes: usize) -> Result<Buf> {
        let (result, buf) = self.read(at, Buf::zeroed(len_bytes)).await;
        result.map(|()| buf)
    }

    /// Fills `bytes` from `at` of a disk whose bytes are in the memory of this machine, if they are all on one device that is
    /// read without a wait ([`Disk::read_now`](crate::disk::Disk::read_now)); whether it did. Otherwise nothing has happened.
    #[must_use]
    pub fn read_now(self, at: GuestOffset, bytes: &mut [u8]) -> bool {
        read::read_now(self, at, bytes)
    }

    /// Stores `buf` at `at`. Past the end of the disk only if the request may resize it.
    pub async fn write(self, at: GuestOffset, buf: Buf, flags: WriteFlags) -> BufResult {
        write::write(self, at, buf, flags).await
    }

    /// Fills `buf` from byte `at` of the state of a machine that the node keeps.
    pub async fn read_state(self, at: u64, buf: Buf) -> BufResult {
        let (result, buf) = self.node.driver().read_state(self, at, buf).await;
        (result.map_err(|error| error.on_node(self.node.name())), buf)
    }

    /// Stores `buf` at byte `at` of the state of a machine that the node keeps.
    pub async fn write_state(self, at: u64, buf: Buf) -> BufResult {
        if let Err(error) = self.demand_write(false) {
            return (Err(error), buf);
        }
        let (result, buf) = self.node.driver().write_state(self, at, buf).await;
        (result.map_err(|error| error.on_node(self.node.name())), buf)
    }

    /// Makes `range` read as zeroes.
    pub async fn write_zeroes(self, range: GuestRange, flags: ZeroFlags) -> Result<()> {
        zero::write_zeroes(self, range, flags).await
    }

    /// The contents of `range` do not matter any more.
    pub async fn discard(self, range: GuestRange) -> Result<()> {
        zero::discard(self, range).await
    }

    /// Every write that was done before is on stable storage afterwards.
    pub async fn flush(self) -> Result<()> {
        self.event(Event::FlushToDisk).await;
        crate::request::flush::flush(self).await
    }

    /// Sets the length of the node's disk in bytes.
    pub async fn resize(self, len: u64, preallocation: Preallocation) -> Result<()> {
        zero::resize(self, len, preallocation).await
    }

    /// How the first part of `range` is allocated, in this node and those below it.
    pub async fn status(self, range: GuestRange) -> Result<Status> {
        status::status(self, range, u32::MAX).await
    }

    /// As [`Self::status`], looking through at most `layers` backing images. What lies further down is not allocated and
    /// not zero; what no layer has is not allocated and zero.
    pub async fn status_within(self, range: GuestRange, layers: u32) -> Result<Status> {
        status::status(self, range, layers).await
    }

    /// Waits until no other request holds a range of the node that overlaps `range`, and holds it. First come, first
    /// served. A request holds at most one range of one node at a time, and takes ranges of parents before children's.
    pub async fn lock_range(self, range: GuestRange) -> RangeGuard<'t> {
        self.node.ranges.lock(self, range, "range").await
    }

    /// This moment, for space that is being freed: see [`Stamp::has_passed`].
    #[must_use]
    pub fn grace_stamp(self) -> Stamp {
        self.node.grace.stamp()
    }

    /// Gives up the ticket and comes again at `until_ns` (of [`Local::now_ns`](crate::runtime::Local::now_ns)): for a driver that must wait for
    /// something other than a device, before the request's first visible effect. Return the error as it is.
    #[must_use]
    pub fn step_back(self, until_ns: u64) -> Error {
        self.step_back_with(Error::new(Kind::Cancelled, "the request steps back"), until_ns)
    }

    /// As [`Self::step_back`], with what a request is told that cannot come again (one of a change, say).
    #[must_use]
    pub fn step_back_with(self, error: Error, until_ns: u64) -> Error {
        self.note_step_back(until_ns);
        error.on_node(self.node.name())
    }

    /// As [`Self::step_back`], with an error that somebody else has made.
    pub(crate) fn note_step_back(self, until_ns: u64) {
        self.request.step_back.set(Some(StepBack { until_ns }));
    }

    /// Tells the node what is about to happen in it. Costs a look at a flag unless its driver hears events.
    pub async fn event(self, event: Event) {
        if self.node.hears_events() {
            self.node.driver().event(self, event).await;
        }
    }

    /// Says that the node's image is damaged: `text` is what is wrong, `place` where in its file, if that is one place. Once
    /// for an image, beside the error of the request that met it.
    pub fn tell_damage(self, text: String, place: Option<(HostOffset, u64)>) {
        let is_fatal = !self.node.is_read_only();
        let damage = Damage { node: self.node.name().to_owned(), text, place, is_fatal };
        self.node.damages.tell(&damage);
    }

    /// Waits for `release`, for a driver that holds requests so that somebody can see what others do meanwhile. `what` is
    /// what holds it, in reports. It waits no longer than
    /// - until a drain begins that waits for this request: a held request is let go rather than wait for who may be
    ///   waiting for the drain;
    /// - [`HOLD_NS_MAX`]: others may wait for what it holds, and a drain for them.
    ///
    /// The private requests of a change are not held.
    pub async fn hold(self, release: impl Future<Output = ()>, what: String) {
        let Some(root) = self.root() else { return };
        let local = self.local_ref();
        let ranks = (Rank::Gate, Rank::Resource);
        let _waiting = self.node.waits.begin(ranks, self.who(), what, "whoever resumes it".to_owned());
        let mut release = pin!(release);
        let mut closing = pin!(Gate::closing(root.gate()));
        let mut bound = pin!(local.sleep_until(local.now_ns().saturating_add(HOLD_NS_MAX)));
        poll_fn(|cx| {
            let is_over = release.as_mut().poll(cx).is_ready()
                || closing.as_mut().poll(cx).is_ready()
                || bound.as_mut().poll(cx).is_ready();
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Fails unless the request may write here.
    pub(crate) fn demand_write(self, unchanged: bool) -> Result<()> {
        let allowed = if unchanged { self.perm.writes() } else { self.perm.has(Perm::WRITE) };
        if !allowed {
            let text = format!("'{}' writes without having permission '{}'", self.who(), Perm::WRITE);
            return Err(Error::new(Kind::ReadOnly, text).on_node(self.node.name()));
        }
        if self.node.is_read_only() {
            return Err(Error::new(Kind::ReadOnly, "the node is read-only").on_node(self.node.name()));
        }
        if !self.node.is_active() {
            return Err(Error::new(Kind::ReadOnly, "the node is inactive").on_node(self.node.name()));
        }
        Ok(())
    }

    /// Fails unless `range` is inside the disk, or past its end where the request may grow it.
    pub(crate) fn demand_inside(self, range: GuestRange, may_grow: bool) -> Result<()> {
        let len = self.len();
        if range.end().get() <= len || (may_grow && self.perm.has(Perm::RESIZE)) {
            return Ok(());
        }
        Err(Error::new(Kind::OutOfRange, format!("request {range} is outside of the disk of {len} bytes"))
            .on_node(self.node.name()))
    }
}
