//! The code of a stream: finds what lower layers have, piece by piece, and reads it through the filter, which copies it.
//!
//! ```text
//!   disk  |==== done ====|#1#|  #2#  |#3#|..................|      #n#: claimed by a worker
//!                                        ^ cursor                    a long extent that needs nothing moves the cursor
//! ```
//! Workers stop between pieces when the job is to pause or to end, when a piece fails, and when the rate limit is reached;
//! then the job is itself again, waits for what there is to wait for, and they go on. Zeroes are written as zeroes and do
//! not count against the rate limit.

use std::cell::RefCell;

use drystone_base::{Error, GuestOffset, GuestRange, Result};
use drystone_buf::Buf;
use drystone_core::backend::{Backend, ReadWrite};
use drystone_core::driver::ZeroFlags;
use drystone_core::job::Interrupt;
use drystone_core::lane::{Lane, Ticket};
use drystone_filter::copy_on_read::{Need, Reach};

use super::LANES;
use super::end::StreamEnding;
use crate::event::{ErrorAction, Operation};
use crate::join::join_all;
use crate::policy::OnError;
use crate::run::{Meter, Running};

/// Most bytes that one request copies.
const STEP_BYTES_MAX: u64 = 1 << 20;
/// Least bytes that one request copies, however slow the job is.
const STEP_BYTES_MIN: u64 = 64 << 10;
/// Most bytes that one request zeroes.
const ZERO_BYTES_MAX: u64 = 256 << 20;

/// What the code of a stream works with.
pub(super) struct Copying {
    /// Sees the filter.
    copier: Backend<ReadWrite>,
    reach: Reach,
    len_bytes: u64,
    on_error: OnError,
}

/// How far the copy is. Shared by the workers of one thread, never across an await.
struct State {
    /// What has not been claimed yet begins here.
    cursor: u64,
    len_bytes: u64,
    /// Pieces that were given back.
    pending: Vec<GuestRange>,
    failures: Vec<(GuestRange, Error)>,
    /// The rate limit is reached.
    is_full: bool,
}

impl State {
    fn must_stop(&self) -> bool {
        self.is_full || !self.failures.is_empty()
    }

    fn is_done(&self) -> bool {
        self.cursor >= self.len_bytes && self.pending.is_empty()
    }

    fn claim(&mut self, step_bytes: u64) -> Option<GuestRange> {
        if let Some(range) = self.pending.pop() {
            return Some(range);
        }
        let range = GuestRange::checked(self.cursor, step_bytes.min(self.len_bytes - self.cursor))?;
        self.cursor += range.len();
        (!range.is_empty()).then_some(range)
    }

    fn give_back(&mut self, range: GuestRange) {
        if !range.is_empty() {
            self.pending.push(range);
        }
    }

    /// Nothing between here and `end` needs a look: how many bytes of it nobody has claimed.
    fn skip_to(&mut self, end: u64) -> u64 {
        let skipped = end.min(self.len_bytes).saturating_sub(self.cursor);
        self.cursor += skipped;
        skipped
    }

    /// As much more for the worker that has claimed `range` as nobody has claimed, up to `len` bytes in all.
    fn extend(&mut self, range: GuestRange, len: u64) -> GuestRange {
        if self.cursor != range.end().get() || len <= range.len() {
            return range;
        }
        let more = self.skip_to(range.start().get() + len);
        GuestRange::new(range.start(), range.len() + more)
    }
}

/// One worker: what it shares with the others, and its memory.
struct Worker<'s> {
    copying: &'s Copying,
    state: &'s RefCell<State>,
    interrupt: Interrupt,
    meter: Meter,
    buf: Buf,
}

impl Copying {
    pub(super) fn new(copier: Backend<ReadWrite>, ending: &StreamEnding, on_error: OnError) -> Self {
        let len_bytes = if ending.chain().has_layers() { ending.chain().len_bytes } else { 0 };
        Self { copier, reach: ending.chain().reach, len_bytes, on_error }
    }

    /// How much there is to look at.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Most bytes that one request copies, so that there is something to do for every worker.
    fn step_bytes_max(&self) -> u64 {
        (self.len_bytes / (4 * LANES as u64)).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX)
    }

    /// Copies everything. Fails with the first error that was reported, or at the end with the first that was ignored.
    pub(super) async fn run(self, job: &mut Running<'_>) -> Result<()> {
        let state = RefCell::new(State {
            cursor: 0,
            len_bytes: self.len_bytes,
            pending: Vec::new(),
            failures: Vec::new(),
            is_full: false,
        });
        let mut ignored = None;
        while !state.borrow().is_done() {
            job.pace().await?;
            state.borrow_mut().is_full = false;
            let (lanes, interrupt, meter) = job.workers();
            let workers = lanes.iter_mut().map(|lane| {
                let (interrupt, meter) = (interrupt.clone(), meter.clone());
                Worker { copying: &self, state: &state, interrupt, meter, buf: Buf::empty() }.run(lane)
            });
            join_all(workers).await;
            let failures = std::mem::take(&mut state.borrow_mut().failures);
            for (range, error) in failures {
                match job.failed(self.on_error, Operation::Read, &error) {
                    ErrorAction::Report => return Err(error),
                    ErrorAction::Stop => state.borrow_mut().give_back(range),
                    ErrorAction::Ignore => {
                        job.meter().advance(range.len());
                        ignored.get_or_insert(error);
                    }
                }
            }
        }
        // A pause or an end that came with the last piece counts.
        job.pause_point().await?;
        ignored.map_or(Ok(()), Err)
    }
}

impl Worker<'_> {
    async fn run(mut self, lane: &mut Lane) {
        while !self.interrupt.is_set() && !self.state.borrow().must_stop() {
            let step_bytes = self.meter.step_bytes(STEP_BYTES_MIN, self.copying.step_bytes_max());
            // Whole clusters, whatever the speed is.
            let step_bytes = step_bytes / STEP_BYTES_MIN * STEP_BYTES_MIN;
            let Some(range) = self.state.borrow_mut().claim(step_bytes) else { return };
            let Some(mut ticket) = self.interrupt.enter(lane, &self.copying.copier).await else {
                return self.state.borrow_mut().give_back(range);
            };
            let now_ns = ticket.local().now_ns();
            let result = self.piece(&mut ticket, range, now_ns).await;
            drop(ticket);
            if let Err(failure) = result {
                self.state.borrow_mut().failures.push(failure);
            }
        }
    }

    /// Does the first part of `range` and gives back the rest.
    async fn piece(
        &mut self,
        ticket: &mut Ticket<'_, ReadWrite>,
        range: GuestRange,
        now_ns: u64,
    ) -> Result<(), (GuestRange, Error)> {
        let (need, len) = self.look(ticket, range).await.map_err(|error| (range, error))?;
        let part = self.cut(need, range, len);
        let result = match need {
            Need::Nothing => Ok(()),
            Need::Zero => {
                let flags = ZeroFlags { unchanged: true, ..ZeroFlags::default() };
                ticket.write_zeroes(part, flags).await
            }
            // Others have used up what the rate limit allows, since this piece was claimed.
            Need::Copy if self.state.borrow().is_full => {
                self.state.borrow_mut().give_back(part);
                return Ok(());
            }
            Need::Copy => {
                if self.meter.spend(part.len(), now_ns) {
                    self.state.borrow_mut().is_full = true;
                }
                self.copy(ticket, part).await
            }
        };
        result.map_err(|error| (part, error))?;
        self.meter.advance(part.len());
        Ok(())
    }

    /// The part of `range` that is done at once, of which the first `len` bytes have this need: the rest is given back. What
    /// costs the same for many bytes is taken beyond the range, too.
    fn cut(&self, need: Need, range: GuestRange, len: u64) -> GuestRange {
        let mut state = self.state.borrow_mut();
        let range = match need {
            Need::Nothing => {
                self.meter.advance(state.skip_to(range.start().get().saturating_add(len)));
                range
            }
            Need::Zero => state.extend(range, len.min(ZERO_BYTES_MAX)),
            Need::Copy => range,
        };
        state.give_back(range.skip(len));
        range.take(len)
    }

    /// What the first bytes from the start of `range` on need, and how many they are; they may be more than `range` has.
    async fn look(&self, ticket: &mut Ticket<'_, ReadWrite>, range: GuestRange) -> Result<(Need, u64)> {
        let (start, reach) = (range.start().get(), self.copying.reach);
        let rest = GuestRange::checked(start, self.copying.len_bytes - start).unwrap_or(range);
        let status = ticket.status(rest, reach.layers).await?;
        Ok(match status.len {
            0 => (Need::Nothing, range.len()),
            len => (reach.need(status), len),
        })
    }

    /// Reads in order to copy.
    async fn copy(&mut self, ticket: &mut Ticket<'_, ReadWrite>, part: GuestRange) -> Result<()> {
        let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
        let mut buf = std::mem::replace(&mut self.buf, Buf::empty());
        if buf.len() != len {
            buf = Buf::zeroed(len);
        }
        let at: GuestOffset = part.start();
        let (result, buf) = ticket.read(at, buf).await;
        self.buf = buf;
        result
    }
}
