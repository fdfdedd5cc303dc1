//! `copy-on-read`: what is read and lies in a lower layer is written to the topmost one on the way.
//!
//! ```text
//!   [ copy-on-read ]
//!          | file
//!       [ top ] --backing--> [ ... ] --backing--> [ bottom ] --backing--> [ base ]
//!          ^                    |_____________________|                     |
//!          '------ copied when read ------------------'                     '- not copied
//! ```
//! | range of the disk | a read |
//! |---|---|
//! | top has it | is passed on |
//! | a layer down to `bottom` has it | is copied: bytes as bytes, zeroes as zeroes |
//! | no layer down to `bottom` has it, because one of them is shorter | is copied as zeroes: the base may be longer |
//! | the base has it, or nobody | is passed on |
//!
//! A copy holds a range lock from the look at the layers to the end of its write, and so does every write, zeroing and
//! discard that passes the filter: what a guest writes is never replaced by an older copy. So nobody may write to the top
//! around the filter: a plan that inserts one moves all users of the top to it, and [`entry`] says where users attach who
//! come later.
//!
//! Invariant: the bytes that the disk shows do not change. So a copy that fails costs a reader nothing, who has the bytes
//! already; a user that holds `WRITE_UNCHANGED` itself reads in order to copy and is told. For such a user
//! [`ZeroFlags::unchanged`] zeroes what the lower layers show as zeroes, whichever of them that comes from, and nothing
//! else.
//!
//! Not here: who decides what to read (a guest, or `block-stream`).

use drystone_base::{GuestOffset, GuestRange, LEN_MAX, Result};
use drystone_buf::Buf;
use drystone_buf::scan::is_zero;
use drystone_core::control::{GraphView, NewNode};
use drystone_core::disk::Preallocation;
use drystone_core::driver::{
    Access, BufResult, Driver, Extent, NodeFacts, StageRequest, Staged, Status, WriteFlags, ZeroFlags,
};
use drystone_core::graph::node::{ChildKey, NodeId};
use drystone_core::graph::permission::{Grant, Perm};
use drystone_core::graph::role::{ParentState, Role};
use drystone_core::request::event::Event;
use drystone_core::request::io::Io;
use drystone_core::runtime::LocalFuture;

use crate::same_length::{self, Reopening};
use crate::through;

/// The driver's name.
const FORMAT_NAME: &str = "copy-on-read";

/// The driver.
#[derive(Debug)]
pub struct CopyOnRead {
    bottom: Option<NodeId>,
}

/// How far down is copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// How many backing images below the top.
    pub layers: u32,
    /// There is one more, which is not copied from.
    pub has_base: bool,
}

impl Reach {
    /// All layers.
    pub const ALL: Self = Self { layers: u32::MAX, has_base: false };

    /// What the first bytes of `range` need, and how many they are.
    async fn look(self, top: Io<'_>, range: GuestRange) -> Result<(Need, u64)> {
        let inside = range.take(top.len().saturating_sub(range.start().get()));
        if inside.is_empty() {
            return Ok((Need::Nothing, range.len()));
        }
        let status = top.status_within(inside, self.layers).await?;
        Ok((self.need(status), status.len))
    }

    /// What a range needs whose status is `status`, looking through [`Self::layers`] backing images of the top.
    #[must_use]
    pub fn need(self, status: Status) -> Need {
        let Status { allocated, zero, depth, .. } = status;
        match (allocated, zero) {
            (true, _) if depth == 0 => Need::Nothing,
            (true, false) => Need::Copy,
            (true, true) => Need::Zero,
            // It ended at a layer that is shorter, and would not if that layer went away.
            (false, true) if self.has_base => Need::Zero,
            (false, _) => Need::Nothing,
        }
    }

    /// Whether nothing of `range` has to be copied.
    async fn is_settled(self, top: Io<'_>, range: GuestRange) -> Result<bool> {
        let (need, len) = self.look(top, range).await?;
        Ok(need == Need::Nothing && len >= range.len())
    }
}

/// What a filter wants of its child: what its users want, and to write what they would have seen anyway. Nobody writes
/// around it.
#[must_use]
pub fn file_grant(parent: ParentState) -> Grant {
    let ParentState { users: Grant { perm, shared }, active, .. } = parent;
    if !active {
        return Grant { perm, shared };
    }
    let around = Perm::WRITE.with(Perm::WRITE_UNCHANGED).with(Perm::RESIZE);
    Grant { perm: perm.with(Perm::WRITE_UNCHANGED), shared: shared.without(around) }
}

/// Where a user of `node` attaches that writes: the filter above it, or above that, if there is one; else the node itself.
#[must_use]
pub fn entry(graph: &GraphView<'_>, node: NodeId) -> NodeId {
    let filters = graph.nodes().into_iter().filter(|info| info.format_name == FORMAT_NAME);
    let above: Vec<(NodeId, NodeId)> =
        filters.filter_map(|info| Some((info.edges.first()?.child, info.id))).collect();
    let mut entry = node;
    while let Some((_, filter)) = above.iter().find(|(child, _)| *child == entry) {
        entry = *filter;
    }
    entry
}

/// What is to be done with the first bytes of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The top has them, or they are not to be copied.
    Nothing,
    /// A lower layer has bytes.
    Copy,
    /// Lower layers show zeroes that the base might not.
    Zero,
}

impl CopyOnRead {
    /// A filter that copies from all layers below its child, or from those down to `bottom`. `bottom` must stay below the
    /// child while the filter is there: freeze the edges between them.
    #[must_use]
    pub fn new(bottom: Option<NodeId>) -> Self {
        Self { bottom }
    }

    /// A node with this driver on `file`, a disk of `len_bytes` bytes. It goes with its last user.
    #[must_use]
    pub fn node(self, name: Option<String>, file: NodeId, len_bytes: u64) -> NewNode {
        NewNode {
            name,
            driver: Box::new(self),
            facts: NodeFacts { len: len_bytes, request_alignment: 1, read_only: false },
            children: vec![(ChildKey::File, Role::FILTER_CHILD, file)],
            owned: false,
            force_share: false,
        }
    }

    /// The lowest layer that is copied from.
    #[must_use]
    pub fn bottom(&self) -> Option<NodeId> {
        self.bottom
    }

    /// The layers that are copied from, as they are now.
    fn reach(&self, top: Io<'_>) -> Reach {
        let Some(bottom) = self.bottom else { return Reach::ALL };
        let mut layers = 0;
        let mut at = top;
        loop {
            let backing = at.child(ChildKey::Backing);
            if at.node().id() == bottom {
                return Reach { layers, has_base: backing.is_some() };
            }
            layers += u32::from(backing.is_some());
            match backing.or_else(|| at.child(ChildKey::File)) {
                Some(child) => at = child,
                None => return Reach::ALL,
            }
        }
    }

    /// Reads a range whose layers nobody changes meanwhile, copying what has to be.
    async fn read_and_copy(&self, io: Io<'_>, top: Io<'_>, at: GuestOffset, buf: Buf) -> BufResult {
        let reach = self.reach(top);
        let mut copier = Copier { io, top, zeroes: None };
        let mut done: Option<Buf> = None;
        let (mut at, mut rest, mut result) = (at, buf, Ok(()));
        while !rest.is_empty() && result.is_ok() {
            let range = GuestRange::new(at, rest.len() as u64);
            let (need, len) = match reach.look(top, range).await {
                Ok(found) => found,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            let behind = rest.split_off(usize::try_from(len).unwrap_or(usize::MAX));
            let (outcome, part) = copier.read_part(at, rest, need).await;
            at = at.plus(len.min(range.len()));
            done = Some(join(done, part));
            rest = behind;
            result = outcome;
        }
        let copied = copier.store_zeroes().await;
        (result.and(copied), join(done, rest))
    }
}

/// Copies the parts of one read. Zeroes that follow each other are copied at once, however they were found: whole clusters
/// of them take no space.
struct Copier<'t> {
    io: Io<'t>,
    top: Io<'t>,
    /// Zeroes that are still to be copied.
    zeroes: Option<GuestRange>,
}

impl Copier<'_> {
    /// Reads a part of a range that needs one thing, and copies it.
    async fn read_part(&mut self, at: GuestOffset, mut buf: Buf, need: Need) -> BufResult {
        let range = GuestRange::new(at, buf.len() as u64);
        match need {
            Need::Nothing => {
                let copied = self.store_zeroes().await;
                let (result, buf) = self.top.read(at, buf).await;
                (result.and(copied), buf)
            }
            Need::Zero => {
                buf.fill_zero();
                self.add_zeroes(range);
                (Ok(()), buf)
            }
            Need::Copy => {
                let (result, buf) = self.top.read(at, buf).await;
                if result.is_err() {
                    return (result, buf);
                }
                self.io.sim_point().await;
                if is_zero(buf.as_slice()) {
                    self.add_zeroes(range);
                    return (Ok(()), buf);
                }
                let before = self.store_zeroes().await;
                let flags = WriteFlags { unchanged: true, ..WriteFlags::default() };
                self.top.event(Event::CorWrite).await;
                let (copied, buf) = self.top.write(at, buf, flags).await;
                let is_whole = buf.len() as u64 == range.len();
                let copied = if is_whole { self.judged(copied) } else { copied };
                (before.and(copied), buf)
            }
        }
    }

    fn add_zeroes(&mut self, range: GuestRange) {
        self.zeroes = Some(self.zeroes.map_or(range, |before| before.hull(range)));
    }

    async fn store_zeroes(&mut self) -> Result<()> {
        let Some(range) = self.zeroes.take() else { return Ok(()) };
        self.top.event(Event::CorWrite).await;
        let copied = self.top.write_zeroes(range, UNCHANGED_ZEROES).await;
        self.judged(copied)
    }

    /// A copy that failed matters to whoever wants copies.
    fn judged(&self, copied: Result<()>) -> Result<()> {
        if reads_to_copy(self.io) { copied } else { Ok(()) }
    }
}

const UNCHANGED_ZEROES: ZeroFlags =
    ZeroFlags { may_unmap: false, fast_only: false, fua: false, unchanged: true };

/// Whether the user wants copies, not bytes: see the module's invariant.
fn reads_to_copy(io: Io<'_>) -> bool {
    io.perm().has(Perm::WRITE_UNCHANGED)
}

/// Joins parts of one buffer. A device that lost its part leaves a gap; the request has failed then.
fn join(done: Option<Buf>, next: Buf) -> Buf {
    let Some(mut done) = done else { return next };
    match done.rejoin(next) {
        Ok(()) | Err(_) => done,
    }
}

fn whole_disk() -> GuestRange {
    GuestRange::new(GuestOffset::ZERO, LEN_MAX)
}

impl Driver for CopyOnRead {
    fn format_name(&self) -> &'static str {
        FORMAT_NAME
    }

    fn locate(&self, io: Io<'_>, range: GuestRange, access: Access) -> Result<Extent> {
        through::locate(io, range, access)
    }

    fn read<'a>(&'a self, io: Io<'a>, at: GuestOffset, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let top = match io.file() {
                Ok(top) => top,
                Err(error) => return (Err(error), buf),
            };
            let range = GuestRange::new(at, buf.len() as u64);
            match self.reach(top).is_settled(top, range).await {
                // Once the top has something, it has it for ever.
                Ok(true) => return top.read(at, buf).await,
                Ok(false) => {}
                Err(error) => return (Err(error), buf),
            }
            let _range = io.lock_range(range).await;
            self.read_and_copy(io, top, at, buf).await
        })
    }

    fn read_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(through::read_state(io, at, buf))
    }

    fn write_state<'a>(&'a self, io: Io<'a>, at: u64, buf: Buf) -> LocalFuture<'a, BufResult> {
        Box::pin(through::write_state(io, at, buf))
    }

    fn takes_compressed(&self) -> bool {
        true
    }

    fn write<'a>(
        &'a self,
        io: Io<'a>,
        at: GuestOffset,
        buf: Buf,
        flags: WriteFlags,
    ) -> LocalFuture<'a, BufResult> {
        Box::pin(async move {
            let top = match io.file() {
                Ok(top) => top,
                Err(error) => return (Err(error), buf),
            };
            let _range = io.lock_range(GuestRange::new(at, buf.len() as u64)).await;
            top.write(at, buf, flags).await
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        io: Io<'a>,
        range: GuestRange,
        flags: ZeroFlags,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let top = io.file()?;
            let _range = io.lock_range(range).await;
            if !flags.unchanged {
                return top.write_zeroes(range, flags).await;
            }
            // Who asks may have a base in mind that this filter knows nothing of: a filter above it, with a bottom.
            let reach = Reach { has_base: true, ..self.reach(top) };
            let mut rest = range;
            while !rest.is_empty() {
                let (need, len) = reach.look(top, rest).await?;
                if need == Need::Zero {
                    io.sim_point().await;
                    top.write_zeroes(rest.take(len), flags).await?;
                }
                rest = rest.skip(len);
            }
            Ok(())
        })
    }

    fn discard<'a>(&'a self, io: Io<'a>, range: GuestRange) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let top = io.file()?;
            let _range = io.lock_range(range).await;
            top.discard(range).await
        })
    }

    fn flush<'a>(&'a self, io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move { io.file()?.flush().await })
    }

    /// Nothing is in memory here. So a filter can leave while the disk below it fails.
    fn store<'a>(&'a self, _io: Io<'a>) -> LocalFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn resize<'a>(
        &'a self,
        io: Io<'a>,
        len: u64,
        preallocation: Preallocation,
    ) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            let top = io.file()?;
            let _range = io.lock_range(whole_disk()).await;
            top.resize(len, preallocation).await
        })
    }

    /// A plan that inserts a filter was made some time ago: the disk may have grown since.
    fn stage<'a>(&'a self, request: &'a StageRequest<'a>) -> LocalFuture<'a, Result<Box<dyn Staged>>> {
        same_length::stage(request, Reopening::Refused)
    }

    fn grant(&self, _child: ChildKey, _role: Role, parent: ParentState) -> Grant {
        file_grant(parent)
    }
}
