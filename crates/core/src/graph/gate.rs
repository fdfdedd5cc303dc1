//! Gates: where requests enter the graph, and where a drain waits for them.
//!
//! ```text
//!   enter:  count += 1 ; fence ; closed?  --no-->  inside
//!                                         --yes->  count -= 1 ; fence ; wake drainers ; queue and wait
//!   leave:  count -= 1 ; fence ; closed?  --yes->  wake drainers
//!   close:  closed += 1 ; then wait until all counts are zero
//!   open:   closed -= 1 ; at zero everybody who waits is *admitted*: counted in, in order, before the gate can close again
//! ```
//! Counts are per I/O thread and written by that thread only (plain loads and stores); a passage cannot leave its thread,
//! as its type is not `Send`. Sequentially consistent fences order "count, then look at closed" against "close, then look
//! at counts".
//!
//! Whoever enters and backs out counts for a moment, also at a gate that has been empty and closed for long. So a gate is
//! *quiet* once it was seen empty while closed, and until it opens; whether it looks empty later says nothing.
//!
//! **Grace periods.** Counts have two sides. A passage counts on the side of the current phase; the phase advances when
//! the *other* side is empty. After three advances every request that had begun before the first of them has ended
//! (two would do if an advance were atomic; a third covers one that was under way).
//!
//! Invariants: `closed` is zero or a passage that is inside had entered before it became non-zero, or was admitted;
//! a waiter is in the queue only while the gate is closed. Not here: which nodes are quiet and which gates that closes
//! (`graph::publish`).

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use drystone_base::planted::{Mistake, is_planted};

use crate::runtime::Shard;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, fence, lock};

/// Advances of the phase after which every request that had begun before the first of them has ended.
const ADVANCES_FOR_GRACE: u64 = 3;

/// One root's (or one job's) entrance to the graph.
pub(crate) struct Gate {
    /// How many quiet nodes are reached from behind this gate. Open when zero.
    closed: AtomicU32,
    /// Advances of the phase so far; the lowest bit is the side that new passages count on. Never wraps.
    phase: AtomicU64,
    /// Passages that were admitted by `open` on behalf of waiters; written by any thread.
    admitted: AtomicU32,
    /// Nobody has been inside since the gate closed. Set when that was seen, by the control thread only.
    quiet: AtomicBool,
    counts: Box<[Count]>,
    queue: Mutex<Queue>,
}

/// One thread's counts, alone in its cache lines.
#[repr(align(128))]
struct Count([AtomicU32; 2]);

#[derive(Default)]
struct Queue {
    next_id: u64,
    waiting: VecDeque<(u64, Waker)>,
    admitted: BTreeSet<u64>,
    drainers: Vec<Waker>,
    /// Passages that want to know when the gate closes.
    held: Vec<(u64, Waker)>,
}

/// How a passage is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// On the thread's own count of this phase side (0 or 1).
    Own(u8),
    /// On the gate's count of admitted waiters.
    Admitted,
}

/// A moment of a gate, to ask later whether every request that began before it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Gate {
    /// An open gate for graphs with I/O threads `0 .. shards`; born closed if `closed` is not zero.
    pub(crate) fn new(shards: u16, closed: u32) -> Self {
        Self {
            closed: AtomicU32::new(closed),
            phase: AtomicU64::new(0),
            admitted: AtomicU32::new(0),
            quiet: AtomicBool::new(closed != 0),
            counts: (0..shards).map(|_| Count([AtomicU32::new(0), AtomicU32::new(0)])).collect(),
            queue: Mutex::new(Queue::default()),
        }
    }

    fn count(&self, shard: Shard, side: u8) -> &AtomicU32 {
        let Some(Count([even, odd])) = self.counts.get(shard.index()) else {
            panic!("thread {} is not one of this graph's {} threads", shard.index(), self.counts.len());
        };
        if side == 0 { even } else { odd }
    }

    /// Enters if the gate is open.
    pub(crate) fn try_enter(&self, shard: Shard) -> Option<Side> {
        if self.closed.load(Ordering::Relaxed) != 0 {
            // Spares the drainers a count that comes and goes. The look that matters is the one below.
            return None;
        }
        let side = u8::from(self.phase.load(Ordering::Relaxed) & 1 == 1);
        let count = self.count(shard, side);
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Acquire) == 0 {
            return Some(Side::Own(side));
        }
        self.leave(shard, Side::Own(side));
        None
    }

    /// Counts a sub-task of a request that is inside already, without asking the gate.
    pub(crate) fn fork(&self, shard: Shard, of: Side) -> Side {
        match of {
            Side::Own(side) => {
                let count = self.count(shard, side);
                count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            Side::Admitted => {
                self.admitted.fetch_add(1, Ordering::Relaxed);
            }
        }
        of
    }

    /// Leaves. `shard` is the thread that entered, and the calling one.
    pub(crate) fn leave(&self, shard: Shard, side: Side) {
        self.count_out(shard, side);
        self.tell_drainers();
    }

    /// The first half of leaving. Drainers do not hear of it before the second.
    pub(crate) fn count_out(&self, shard: Shard, side: Side) {
        match side {
            Side::Own(side) => {
                let count = self.count(shard, side);
                let before = count.load(Ordering::Relaxed);
                assert!(before > 0, "a passage left twice");
                count.store(before - 1, Ordering::Release);
            }
            Side::Admitted => {
                self.admitted.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// The second half of leaving.
    pub(crate) fn tell_drainers(&self) {
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Relaxed) == 0 {
            return;
        }
        let drainers = std::mem::take(&mut lock(&self.queue).drainers);
        for waker in drainers {
            waker.wake();
        }
    }

    /// Ready once the gate is closed: for a passage that is inside and waits for nothing that a drain could wait for.
    pub(crate) fn closing(gate: &Arc<Self>) -> Closing<'_> {
        Closing { gate, id: None }
    }

    /// Whether the gate is closed now. For assertions and reports.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed_count() != 0
    }

    /// How many quiet places are reached from behind the gate.
    pub(crate) fn closed_count(&self) -> u32 {
        self.closed.load(Ordering::SeqCst)
    }

    /// Sets the number of quiet nodes that are reached from behind the gate. Control thread only.
    ///
    /// Going to zero opens the gate and admits everybody who waits at this moment.
    pub(crate) fn set_closed(&self, quiet_nodes: u32) {
        let mut wakers = Vec::new();
        {
            let mut queue = lock(&self.queue);
            let admit = if quiet_nodes == 0 { std::mem::take(&mut queue.waiting) } else { VecDeque::new() };
            for (id, waker) in admit {
                self.admitted.fetch_add(1, Ordering::Relaxed);
                queue.admitted.insert(id);
                wakers.push(waker);
            }
            if quiet_nodes == 0 {
                self.quiet.store(false, Ordering::Relaxed);
            } else {
                wakers.extend(queue.held.drain(..).map(|(_, waker)| waker));
            }
            self.closed.store(quiet_nodes, Ordering::Release);
            fence(Ordering::SeqCst);
        }
        for waker in wakers {
            waker.wake();
        }
    }

    /// Whether the gate is closed and nobody is inside, nor will be before it opens. Control thread only.
    pub(crate) fn is_quiet(&self) -> bool {
        if !self.is_closed() {
            return false;
        }
        if !self.quiet.load(Ordering::Relaxed) && self.is_idle() {
            self.quiet.store(true, Ordering::Relaxed);
        }
        self.quiet.load(Ordering::Relaxed)
    }

    /// Whether nobody counts at this moment.
    pub(crate) fn is_idle(&self) -> bool {
        fence(Ordering::SeqCst);
        let none_admitted = self.admitted.load(Ordering::Acquire) == 0;
        (none_admitted || is_planted(Mistake::SnapshotMissesWrite))
            && self
                .counts
                .iter()
                .all(|Count(sides)| sides.iter().all(|side| side.load(Ordering::Acquire) == 0))
    }

    /// Ready when nobody is inside; for a gate that is closed and stays so until the caller opens it. Control thread only.
    pub(crate) fn poll_quiet(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_quiet() {
            return Poll::Ready(());
        }
        {
            let mut queue = lock(&self.queue);
            if !queue.drainers.iter().any(|waker| waker.will_wake(cx.waker())) {
                queue.drainers.push(cx.waker().clone());
            }
        }
        if self.is_quiet() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// This moment, for [`Self::has_passed`].
    pub(crate) fn moment(&self) -> Moment {
        fence(Ordering::SeqCst);
        Moment(self.phase.load(Ordering::SeqCst) + ADVANCES_FOR_GRACE)
    }

    /// Whether every request that began before `moment` has ended. Advances the phase if it can; never waits.
    pub(crate) fn has_passed(&self, moment: Moment) -> bool {
        let mut phase = self.phase.load(Ordering::Acquire);
        while phase < moment.0 {
            match self.try_advance() {
                Some(next) => phase = next,
                None => return false,
            }
        }
        true
    }

    fn try_advance(&self) -> Option<u64> {
        let _one_at_a_time = lock(&self.queue);
        let phase = self.phase.load(Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let other = usize::from(phase & 1 == 0);
        let empty = self.admitted.load(Ordering::Acquire) == 0
            && self
                .counts
                .iter()
                .all(|Count(sides)| sides.get(other).is_none_or(|side| side.load(Ordering::Acquire) == 0));
        if !empty {
            return None;
        }
        let next = phase + 1;
        self.phase.store(next, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Some(next)
    }
}

/// Waits until a gate closes. Dropping it gives that up.
pub(crate) struct Closing<'g> {
    gate: &'g Gate,
    id: Option<u64>,
}

impl Future for Closing<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = lock(&self.gate.queue);
        // `set_closed` changes the count under the queue's lock, and wakes whoever is in the list then.
        if self.gate.closed.load(Ordering::Relaxed) != 0 {
            return Poll::Ready(());
        }
        let id = self.id.unwrap_or(queue.next_id);
        match queue.held.iter_mut().find(|(held, _)| *held == id) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => queue.held.push((id, cx.waker().clone())),
        }
        if self.id.is_none() {
            queue.next_id += 1;
        }
        drop(queue);
        self.id = Some(id);
        Poll::Pending
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            lock(&self.gate.queue).held.retain(|(held, _)| *held != id);
        }
    }
}

/// Waits at a gate and enters. Dropping it gives up the place, or the admission if it was granted already.
pub(crate) struct Enter {
    gate: Arc<Gate>,
    shard: Shard,
    place: Option<u64>,
}

impl Enter {
    pub(crate) fn new(gate: Arc<Gate>, shard: Shard) -> Self {
        Self { gate, shard, place: None }
    }
}

impl Future for Enter {
    type Output = Side;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Side> {
        loop {
            if let Some(id) = self.place {
                let mut queue = lock(&self.gate.queue);
                if queue.admitted.remove(&id) {
                    drop(queue);
                    self.place = None;
                    return Poll::Ready(Side::Admitted);
                }
                if let Some((_, waker)) = queue.waiting.iter_mut().find(|(waiting, _)| *waiting == id) {
                    waker.clone_from(cx.waker());
                }
                return Poll::Pending;
            }
            if let Some(side) = self.gate.try_enter(self.shard) {
                return Poll::Ready(side);
            }
            let mut queue = lock(&self.gate.queue);
            // `set_closed` changes the count under the queue's lock, so a gate that is closed here admits us later.
            if self.gate.closed.load(Ordering::Relaxed) != 0 {
                let id = queue.next_id;
                queue.next_id += 1;
                queue.waiting.push_back((id, cx.waker().clone()));
                drop(queue);
                self.place = Some(id);
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        let Some(id) = self.place else { return };
        let was_admitted = {
            let mut queue = lock(&self.gate.queue);
            queue.waiting.retain(|(waiting, _)| *waiting != id);
            queue.admitted.remove(&id)
        };
        if was_admitted {
            self.gate.leave(self.shard, Side::Admitted);
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
#[path = "gate_tests.rs"]
mod tests;
