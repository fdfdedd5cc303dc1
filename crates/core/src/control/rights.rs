//! The right to change: which changes may run at the same time.
//!
//! | set | what is in it |
//! |---|---|
//! | `write` | nodes and roots whose edges, options or mode change, or that begin or cease to be written; quiet meanwhile |
//! | `users` | nodes whose users want or share something else in all, or all of whose users move |
//! | `left` | nodes that lose a user, also if those who stay want and share the same |
//! | `read` | nodes that private I/O can reach, and all of which the permissions were computed: drivers have prepared for those |
//! | `names` | of nodes that come |
//! | `demanded` | nodes that have to be free of jobs or overlays |
//! | `taken` | nodes that get a job or an overlay |
//!
//! Two changes conflict if what one changes (`write`, `users`) meets what the other sees (`write`, `read`), if both take
//! users from one node (each may rely on the other's), if one takes a node that the other demands to be free, or if both
//! bring in one name. So a change that was admitted stays allowed until its commit, with the permissions that its drivers
//! have prepared for; the commit asserts it. Overlays that come to share a base do not conflict, except for the first.
//!
//! Conflicting changes are admitted in the order in which they asked, each for all its sets at once, so nobody holds one
//! part and waits for another.

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
    pub(crate) users: BTreeSet<NodeId>,
    pub(crate) left: BTreeSet<NodeId>,
    pub(crate) read: BTreeSet<NodeId>,
    pub(crate) names: BTreeSet<String>,
    pub(crate) demanded: BTreeSet<NodeId>,
    pub(crate) taken: BTreeSet<NodeId>,
}

impl Sets {
    fn changes_what_sees(&self, other: &Self) -> bool {
        let written = || self.write.iter().filter_map(|place| place.node());
        !self.write.is_disjoint(&other.write)
            || written().any(|id| other.read.contains(&id))
            || self.users.iter().any(|id| other.read.contains(id) || other.write.contains(&Place::Node(*id)))
            || !self.taken.is_disjoint(&other.demanded)
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.changes_what_sees(other)
            || other.changes_what_sees(self)
            || !self.left.is_disjoint(&other.left)
            || !self.names.is_disjoint(&other.names)
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
