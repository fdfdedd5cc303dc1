//! [`Turns`]: writes are made in the order of the disk, one after the other, on whatever threads.
//!
//! Images then come out the same each time, and what lies together on the disk lies together in the file.
//!
//! Invariant: whoever waits holds nothing, and the piece whose turn it is waits for nobody here.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use super::lock;

/// Whose turn it is.
#[derive(Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Default)]
struct State {
    /// All pieces before this one have had their turn.
    next: u64,
    /// Pieces after it that need none any more.
    over: BTreeSet<u64>,
    waiting: BTreeMap<u64, Waker>,
    is_over: bool,
}

impl Turns {
    /// Waits for the turn of piece `index`. Whether there is one.
    pub(super) async fn wait(&self, index: u64) -> bool {
        poll_fn(|cx| {
            let mut state = lock(&self.0);
            if state.is_over || state.next >= index {
                return Poll::Ready(!state.is_over);
            }
            state.waiting.insert(index, cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Piece `index` needs no turn any more.
    pub(super) fn pass(&self, index: u64) {
        let mut state = lock(&self.0);
        if index < state.next {
            return;
        }
        state.over.insert(index);
        while let Some(first) = state.over.first().copied().filter(|first| *first == state.next) {
            state.over.remove(&first);
            state.next += 1;
        }
        let next = state.next;
        let waiter = state.waiting.remove(&next);
        drop(state);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Nobody gets a turn any more.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.0);
        state.is_over = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }
}
