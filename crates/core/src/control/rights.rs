//! The right to change: which changes may run at the same time.
//!
//! A change declares what it writes (nodes and roots whose edges, options or mode change), what it reads (nodes that its
//! private I/O can reach) and whose users it changes. Two changes conflict if what one writes meets anything of the other's, or if both
//! change the users of one node. Conflicting changes are admitted in the order in which they asked, each for all its sets
//! at once, so nobody holds one part and waits for another.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::control::gs::Inner;
use crate::graph::node::NodeId;
use crate::graph::shape::Place;
use crate::waits::{Rank, Waiting};

/// What a change touches, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) write: BTreeSet<Place>,
    pub(crate) read: BTreeSet<NodeId>,
    pub(crate) users: BTreeSet<NodeId>,
}

impl Sets {
    fn writes_any_of(&self, other: &Self) -> bool {
        !self.write.is_disjoint(&other.write)
            || self.write.iter().any(|place| match place {
                Place::Node(id) => other.read.contains(id) || other.users.contains(id),
                Place::Root(_) => false,
            })
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.writes_any_of(other) || other.writes_any_of(self) || !self.users.is_disjoint(&other.users)
    }
}

/// Who has the right to change what, and who waits for it, oldest first.
#[derive(Default)]
pub(crate) struct Rights {
    next_id: u64,
    entries: Vec<Entry>,
}

struct Entry {
    id: u64,
    sets: Sets,
    waker: Option<Waker>,
}

/// The right to change some sets, or a place in the queue for it. Given back when dropped.
pub(crate) struct Right {
    inner: Rc<Inner>,
    id: u64,
}

impl Right {
    /// Waits until no older change conflicts.
    pub(crate) async fn acquire(inner: &Rc<Inner>, sets: Sets) -> Self {
        let id = {
            let mut rights = inner.rights.borrow_mut();
            let id = rights.next_id;
            rights.next_id += 1;
            rights.entries.push(Entry { id, sets, waker: None });
            id
        };
        let right = Self { inner: Rc::clone(inner), id };
        let mut waiting: Option<Waiting> = None;
        poll_fn(|cx| {
            let mut rights = right.inner.rights.borrow_mut();
            if !rights.is_blocked(id) {
                return Poll::Ready(());
            }
            if let Some(entry) = rights.entries.iter_mut().find(|entry| entry.id == id) {
                entry.waker = Some(cx.waker().clone());
            }
            waiting.get_or_insert_with(|| {
                let what = "the right to change its nodes".to_owned();
                let ranks = (Rank::Nothing, Rank::Change);
                right.inner.waits.begin(ranks, "a change", what, "an earlier change".to_owned())
            });
            Poll::Pending
        })
        .await;
        right
    }
}

impl Rights {
    fn is_blocked(&self, id: u64) -> bool {
        let Some(own) = self.entries.iter().find(|entry| entry.id == id) else { return false };
        self.entries.iter().take_while(|entry| entry.id != id).any(|older| older.sets.conflicts(&own.sets))
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        let wakers: Vec<Waker> = {
            let mut rights = self.inner.rights.borrow_mut();
            rights.entries.retain(|entry| entry.id != self.id);
            rights.entries.iter_mut().filter_map(|entry| entry.waker.take()).collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }
}
