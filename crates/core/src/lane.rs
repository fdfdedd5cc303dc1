//! [`Lane`] and [`Ticket`]: how requests enter the graph.
//!
//! ```text
//!   lane.enter(&backend).await  ->  Ticket<'lane, Mode>   one request in flight; borrows the lane
//!   ticket.read(at, buf).await  ->  (Result, Buf)         runs to its end even if the caller goes away
//! ```
//! | capability | right |
//! |---|---|
//! | `&mut Lane` | wait: for a gate, or for a peer outside the graph |
//! | `Ticket<'_, ReadOnly>` | read, flush, ask for block status |
//! | `Ticket<'_, ReadWrite>` | write, zero, discard, resize, too |

use std::marker::PhantomData;
use std::sync::Arc;

use drystone_base::{Error, GuestOffset, GuestRange, Kind, Result};
use drystone_buf::Buf;

use crate::backend::{Backend, Mode, ReadWrite, Root, Writes};
use crate::disk::Preallocation;
use crate::driver::{Status, WriteFlags, ZeroFlags};
use crate::request::offload;
use crate::request::presence::Presence;
use crate::request::press::Pressed;
use crate::request::run::{Finished, Machine, Outcome, Running, Work, enter};
use crate::request::straight::{self, Begun};
use crate::runtime::{Local, LocalRef};

/// One submitter of sequential requests on one I/O thread: a queue slot of an export, one worker of a job.
///
/// Entering the graph and waiting for a peer outside the graph both borrow the lane exclusively, so one lane has at most
/// one ticket, and nobody awaits a socket while holding one. Not `Clone`, not `Send`.
pub struct Lane {
    local: LocalRef,
    /// Where this lane's requests run. Gone while one runs on that nobody waits for.
    place: Option<Box<dyn Machine>>,
    /// The root entered last: spares the count of its owners a write per request.
    root: Option<Arc<Root>>,
}

impl Lane {
    /// A lane on the calling thread.
    #[must_use]
    pub fn new(local: LocalRef) -> Self {
        Self { local, place: None, root: None }
    }

    /// The thread that the lane lives on.
    #[must_use]
    pub fn local(&self) -> &dyn Local {
        &*self.local
    }

    /// A counted handle of the thread that the lane lives on.
    #[must_use]
    pub fn local_ref(&self) -> &LocalRef {
        &self.local
    }

    /// Enters the graph. Waits while the backend's gate is closed (a drain); whoever waits holds nothing.
    pub async fn enter<M: Mode>(&mut self, backend: &Backend<M>) -> Ticket<'_, M> {
        let shard = self.local.shard();
        let presence = match backend.root().gate().try_enter(shard) {
            Some(side) => {
                let root = match self.root.take() {
                    Some(root) if Arc::ptr_eq(&root, backend.root()) => root,
                    _ => Arc::clone(backend.root()),
                };
                Presence::counted(root, shard, side)
            }
            None => enter(backend.root(), &self.local).await,
        };
        Ticket { lane: self, presence: Some(presence), absent: ABANDONED, mode: PhantomData }
    }

    /// A ticket that is not inside: all its operations fail.
    pub(crate) fn refuse<M: Mode>(&mut self, why: &'static str) -> Ticket<'_, M> {
        Ticket { lane: self, presence: None, absent: (Kind::InvalidInput, why), mode: PhantomData }
    }
}

/// Why a ticket is not inside any more.
const ABANDONED: (Kind, &str) = (Kind::Cancelled, "an earlier operation of this ticket was abandoned");

/// One request's presence in the graph, until it is dropped. Its operations run one after the other.
pub struct Ticket<'l, M: Mode> {
    lane: &'l mut Lane,
    /// Gone for good if an operation was abandoned: that operation has taken it along.
    presence: Option<Presence>,
    /// What operations fail with when there is no presence.
    absent: (Kind, &'static str),
    mode: PhantomData<fn() -> M>,
}

impl<M: Mode> Ticket<'_, M> {
    /// A ticket for a sub-task of this request in a lane of its own, counted without asking the gate again. The drain that
    /// waits for this request waits for the sub-task, too.
    ///
    /// # Panics
    /// If `lane` lives on another thread: a thread counts its own requests only.
    pub fn fork<'n>(&self, lane: &'n mut Lane) -> Ticket<'n, M> {
        let (here, there) = (self.lane.local.shard(), lane.local.shard());
        assert_eq!(here, there, "a sub-task was forked into a lane of another thread");
        let presence = self.presence.as_ref().map(Presence::fork);
        Ticket { lane, presence, absent: self.absent, mode: PhantomData }
    }

    /// Fills `buf` from `at` and gives it back. Its contents are unspecified after an error.
    pub async fn read(&mut self, at: GuestOffset, buf: Buf) -> (Result<()>, Buf) {
        let work = match straight::read(&mut self.presence, &self.lane.local, at, buf) {
            Begun::Done(result, buf) => return (result, buf),
            Begun::Submitted(submitted) => Work::Submitted(submitted),
            Begun::NotStraight(buf) => Work::Read { at, buf },
        };
        self.run(work).await.with_buf()
    }

    /// Fills `buf` from byte `at` of the state of a machine that the image keeps beside its disk, and gives it back. Its
    /// contents are unspecified after an error.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the node's format keeps none; those of devices.
    pub async fn read_state(&mut self, at: u64, buf: Buf) -> (Result<()>, Buf) {
        self.run(Work::State { at, buf, writes: false }).await.with_buf()
    }

    /// Every write of this user that was done before is on stable storage afterwards.
    pub async fn flush(&mut self) -> Result<()> {
        self.run(Work::Flush).await.result
    }

    /// How the first part of `range` is allocated, looking through at most `layers` backing images.
    pub async fn status(&mut self, range: GuestRange, layers: u32) -> Result<Status> {
        let Outcome { result, status, .. } = self.run(Work::Status { range, layers }).await;
        result?;
        status.ok_or_else(|| Error::new(Kind::Cancelled, "the request left no answer"))
    }

    /// Has a device copy the first bytes of `range` to `at` of another disk, without the bytes coming through here; how many
    /// they are (1 at least). For those that lie on a device of each disk as they are, where the devices (files) know how.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if it is not possible here and now: read and write instead. The range of `target` may then be
    /// written in part. Those of devices.
    pub async fn copy_to(
        &mut self,
        range: GuestRange,
        target: &Backend<ReadWrite>,
        (at, flags): (GuestOffset, WriteFlags),
    ) -> Result<u64> {
        let absent = |(kind, text): (Kind, &str)| Error::new(kind, text);
        let inside = self.presence.as_ref().ok_or_else(|| absent(self.absent))?;
        if flags.compressed || flags.unchanged {
            return Err(absent((Kind::Unsupported, "a copy by devices is neither compressed nor unseen")));
        }
        let source = offload::source(inside, &self.lane.local, range)?;
        // Not waited for: who is inside of one disk does not wait for another.
        let shard = self.lane.local.shard();
        let Some(side) = target.root().gate().try_enter(shard) else {
            return Err(absent((Kind::Unsupported, "the target is being changed")));
        };
        let presence = Presence::counted(Arc::clone(target.root()), shard, side);
        let work = Work::Copy { at, source, fua: flags.fua };
        let done = Running::start(&mut self.lane.place, &self.lane.local, work, presence).await;
        done.outcome.result.map(|()| done.outcome.copied)
    }

    /// The thread that the request runs on.
    #[must_use]
    pub fn local(&self) -> &dyn Local {
        &*self.lane.local
    }

    /// Length of the disk in bytes; 0 once the backend has no node any more.
    #[must_use]
    pub fn len(&self) -> u64 {
        let target = |presence| Some(Presence::root(presence)?.target(presence)?.len());
        self.presence.as_ref().and_then(target).unwrap_or(0)
    }

    /// Whether the disk has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn run(&mut self, work: Work) -> Outcome {
        let Some(presence) = self.presence.take() else {
            let (kind, text) = self.absent;
            return Outcome::without_answer(Err(Error::new(kind, text)), work.into_buf());
        };
        let Finished { outcome, presence } =
            Running::start(&mut self.lane.place, &self.lane.local, work, presence).await;
        self.presence = presence;
        outcome
    }
}

impl<M: Mode> Ticket<'_, M> {
    /// Stores `buf` at `at` and gives it back. After an error, any of the old and new bytes may be in the range.
    pub async fn write(&mut self, at: GuestOffset, buf: Buf, flags: WriteFlags) -> (Result<()>, Buf)
    where
        M: Writes,
    {
        let work = match straight::write(&mut self.presence, &self.lane.local, at, buf, flags) {
            Begun::Done(result, buf) => return (result, buf),
            Begun::Submitted(submitted) => Work::Submitted(submitted),
            Begun::NotStraight(buf) => Work::Write { at, buf, flags },
        };
        self.run(work).await.with_buf()
    }

    /// Lets the driver compress `bytes`, which are to be written at `at`, in their place, if it can do so before it stores them.
    /// They are then given to [`Self::write_pressed`] with the answer; without one they are as they were. Computes only, on
    /// this thread, milliseconds for each MiB.
    #[must_use = "the bytes are of no use without the answer"]
    pub fn press(&self, at: GuestOffset, bytes: &mut [u8]) -> Option<Pressed>
    where
        M: Writes,
    {
        let presence = self.presence.as_ref()?;
        Pressed::make(presence.root()?.target(presence)?, at, bytes)
    }

    /// As [`Self::write`] with [`WriteFlags::compressed`], of what [`Self::press`] has made, by this or another ticket of the same
    /// backend: `pressed` is its answer, `buf` the bytes.
    pub async fn write_pressed(&mut self, pressed: Pressed, buf: Buf, flags: WriteFlags) -> (Result<()>, Buf)
    where
        M: Writes,
    {
        self.run(Work::Pressed { pressed, buf, flags }).await.with_buf()
    }

    /// Stores `buf` at byte `at` of the state of a machine that the image keeps beside its disk, and gives it back. After an
    /// error, any of the old and new bytes may be there.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the node's format keeps none, [`Kind::TooLarge`] past the largest state; those of devices.
    pub async fn write_state(&mut self, at: u64, buf: Buf) -> (Result<()>, Buf)
    where
        M: Writes,
    {
        self.run(Work::State { at, buf, writes: true }).await.with_buf()
    }

    /// Makes `range` read as zeroes.
    pub async fn write_zeroes(&mut self, range: GuestRange, flags: ZeroFlags) -> Result<()>
    where
        M: Writes,
    {
        self.run(Work::Zero { range, flags }).await.result
    }

    /// The contents of `range` do not matter any more.
    pub async fn discard(&mut self, range: GuestRange) -> Result<()>
    where
        M: Writes,
    {
        self.run(Work::Discard(range)).await.result
    }

    /// Sets the length of the disk in bytes. Only for a user that was granted `RESIZE`.
    pub async fn resize(&mut self, len: u64, preallocation: Preallocation) -> Result<()>
    where
        M: Writes,
    {
        self.run(Work::Resize { len, preallocation }).await.result
    }
}

impl<M: Mode> Drop for Ticket<'_, M> {
    fn drop(&mut self) {
        if let Some(presence) = self.presence.take() {
            self.lane.root = presence.retire(&self.lane.local);
        }
    }
}

impl Outcome {
    fn with_buf(self) -> (Result<()>, Buf) {
        (self.result, self.buf.unwrap_or_else(Buf::empty))
    }
}
