//! [`PlayedThread`]: work on its way to a thread that is played.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use drystone_core::runtime::{LocalRef, Shard};

use crate::task::Starter;

/// Where work for one thread is left. Dropped, it lets the task that collects it end.
pub(crate) struct PlayedThread {
    shard: Shard,
    letters: Arc<Letters>,
}

#[derive(Default)]
struct Letters(Mutex<State>);

#[derive(Default)]
struct State {
    left: VecDeque<Starter>,
    is_over: bool,
    collector: Option<Waker>,
}

impl PlayedThread {
    /// A task of `local` collects what is left for it.
    pub(super) fn new(local: &LocalRef) -> Self {
        let letters = Arc::new(Letters::default());
        local.spawn(Box::pin(Arc::clone(&letters).collect(Rc::clone(local))));
        Self { shard: local.shard(), letters }
    }

    pub(crate) fn shard(&self) -> Shard {
        self.shard
    }

    /// Leaves `work` for the thread. `false` if it has ended.
    pub(crate) fn start(&self, work: Starter) -> bool {
        let mut state = self.letters.state();
        if state.is_over {
            return false;
        }
        state.left.push_back(work);
        let collector = state.collector.take();
        drop(state);
        collector.into_iter().for_each(Waker::wake);
        true
    }
}

impl Drop for PlayedThread {
    fn drop(&mut self) {
        let mut state = self.letters.state();
        state.is_over = true;
        let collector = state.collector.take();
        drop(state);
        collector.into_iter().for_each(Waker::wake);
    }
}

impl Letters {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn collect(self: Arc<Self>, local: LocalRef) {
        while let Some(work) = self.next().await {
            local.spawn(work(Rc::clone(&local)));
        }
    }

    async fn next(&self) -> Option<Starter> {
        poll_fn(|cx| {
            let mut state = self.state();
            if let Some(work) = state.left.pop_front() {
                return Poll::Ready(Some(work));
            }
            if state.is_over {
                return Poll::Ready(None);
            }
            state.collector = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}
