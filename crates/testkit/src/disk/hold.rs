//! [`Hold`]: operations that stand still until a test lets them go, so that it waits for events and not for time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use drystone_base::GuestRange;

use super::device::Shared;
use super::op::{OpFilter, OpIndex, OpKind};

/// While it exists, every new operation that its filter lets through stands still. Dropping it lets all of them go.
#[must_use = "dropping it lets everything go"]
pub struct Hold {
    shared: Arc<Shared>,
    id: u64,
}

/// The holds of one disk and the operations that they caught.
#[derive(Debug, Default)]
pub(super) struct Holds {
    born: u64,
    rules: BTreeMap<u64, OpFilter>,
    caught: BTreeMap<OpIndex, Caught>,
    /// Tasks that wait for operations to be caught.
    watchers: Vec<Waker>,
}

#[derive(Debug)]
struct Caught {
    by: u64,
    waker: Option<Waker>,
}

impl Hold {
    pub(super) fn new(shared: &Arc<Shared>, filter: OpFilter) -> Self {
        let mut state = shared.lock();
        let id = state.holds.born;
        state.holds.born += 1;
        state.holds.rules.insert(id, filter);
        Self { shared: Arc::clone(shared), id }
    }

    /// How many operations stand still.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.lock().holds.count(self.id)
    }

    /// Waits until at least `count` operations stand still.
    pub async fn reached(&self, count: usize) {
        std::future::poll_fn(|cx| {
            let holds = &mut self.shared.lock().holds;
            if holds.count(self.id) >= count {
                return Poll::Ready(());
            }
            holds.watchers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Lets the oldest operation go; `false` if none stands still.
    pub fn release_one(&self) -> bool {
        self.shared.lock().holds.release(self.id, 1) == 1
    }

    /// Lets all operations go that stand still now.
    pub fn release_all(&self) -> usize {
        self.shared.lock().holds.release(self.id, usize::MAX)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.holds.rules.remove(&self.id);
        state.holds.release(self.id, usize::MAX);
    }
}

impl Holds {
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Catches a new operation if there is a hold for it.
    pub(super) fn catch(&mut self, op: OpIndex, kind: OpKind, range: GuestRange) -> bool {
        let by = self.rules.iter().find(|(_, filter)| filter.matches(kind, range)).map(|(&id, _)| id);
        if let Some(by) = by {
            self.caught.insert(op, Caught { by, waker: None });
            self.watchers.drain(..).for_each(Waker::wake);
        }
        by.is_some()
    }

    fn count(&self, id: u64) -> usize {
        self.caught.values().filter(|caught| caught.by == id).count()
    }

    fn release(&mut self, id: u64, count_max: usize) -> usize {
        let held = self.caught.iter().filter(|(_, caught)| caught.by == id).map(|(&op, _)| op);
        let freed: Vec<OpIndex> = held.take(count_max).collect();
        for op in &freed {
            if let Some(waker) = self.caught.remove(op).and_then(|caught| caught.waker) {
                waker.wake();
            }
        }
        freed.len()
    }
}

/// Resolves when an operation may go on: nobody holds it, or the power is off.
pub(super) struct Released<'d> {
    pub(super) shared: &'d Shared,
    pub(super) op: OpIndex,
}

impl Future for Released<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        if state.power.is_off() {
            return Poll::Ready(());
        }
        state.power.wake_on_cut(cx.waker());
        match state.holds.caught.get_mut(&self.op) {
            None => Poll::Ready(()),
            Some(caught) => {
                caught.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
