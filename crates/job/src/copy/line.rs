//! [`Line`]: what workers have read is written in the order of the disk, or in that in which it comes, by whichever of them is
//! there.
//!
//! ```text
//!  worker 1   read #4 ── hand in ── write #4, #5, #6: all that is there ── read #8 ...
//!  worker 2   read #5 ── hand in ── wait ····┘ └── read #7 ...
//!  worker 3   read #6 ── hand in ── wait ·········┘
//! ```
//! Images then come out the same each time, what lies together on the disk lies together in the file, and the kernel, which
//! has one lock for a file, is asked by one thread at a time, without a thread waking another one for each write.
//!
//! Invariants: there is one writer at most, and it waits for nobody here; whoever waits has handed in its piece. Not here:
//! how something is written.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use super::lock;

/// Pieces on their way to the target.
pub(super) struct Line<T>(Mutex<State<T>>);

struct State<T> {
    /// Pieces that were handed in without a number of their own.
    arrived: u64,
    /// All pieces before this one are written.
    next: u64,
    ready: BTreeMap<u64, T>,
    waiting: BTreeMap<u64, Waker>,
    is_writing: bool,
    is_over: bool,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(Mutex::new(State {
            arrived: 0,
            next: 0,
            ready: BTreeMap::new(),
            waiting: BTreeMap::new(),
            is_writing: false,
            is_over: false,
        }))
    }
}

impl<T> Line<T> {
    /// Piece `index` is ready. Whether the caller has to write, until [`Self::next`] has nothing for it.
    pub(super) fn hand_in(&self, index: u64, piece: T) -> bool {
        let mut state = lock(&self.0);
        state.ready.insert(index, piece);
        let begins = !state.is_writing && !state.is_over && state.ready.contains_key(&state.next);
        state.is_writing |= begins;
        begins
    }

    /// As [`Self::hand_in`], of a piece that comes behind those that were handed in before; also its number. Either all pieces
    /// of a line have numbers of their own, or none has.
    pub(super) fn hand_in_last(&self, piece: T) -> (u64, bool) {
        let index = {
            let mut state = lock(&self.0);
            state.arrived += 1;
            state.arrived - 1
        };
        (index, self.hand_in(index, piece))
    }

    /// What the writer writes next, its number first.
    pub(super) fn next(&self) -> Option<(u64, T)> {
        let mut state = lock(&self.0);
        let index = state.next;
        let piece = if state.is_over { None } else { state.ready.remove(&index) };
        state.is_writing = piece.is_some();
        piece.map(|piece| (index, piece))
    }

    /// The writer has written piece `index`.
    pub(super) fn done(&self, index: u64) {
        let waiter = {
            let mut state = lock(&self.0);
            state.next = index + 1;
            state.waiting.remove(&index)
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Waits until piece `index` is written, or nothing more is.
    pub(super) async fn written(&self, index: u64) {
        poll_fn(|cx| {
            let mut state = lock(&self.0);
            if state.is_over || state.next > index {
                return Poll::Ready(());
            }
            state.waiting.insert(index, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Nothing more is written.
    pub(super) fn stop(&self) {
        let (waiting, ready) = {
            let mut state = lock(&self.0);
            state.is_over = true;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.ready))
        };
        waiting.into_values().for_each(Waker::wake);
        drop(ready);
    }
}
