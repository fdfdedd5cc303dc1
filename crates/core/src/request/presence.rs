//! [`Presence`]: how a request is inside the graph, counted until it is dropped.

use std::marker::PhantomData;
use std::sync::Arc;

use drystone_base::planted::{Mistake, is_planted};

use crate::backend::Root;
use crate::graph::gate::Side;
use crate::runtime::{LocalRef, Shard, StaysOnItsThread, yield_now};

/// A request's right to be inside. Stays on the thread that entered.
pub(crate) struct Presence {
    way: Way,
    _thread: PhantomData<StaysOnItsThread>,
}

enum Way {
    /// Through the gate of a root.
    Gate { root: Arc<Root>, shard: Shard, side: Side },
    /// As part of a change or an opening: everybody else is kept out of what it can reach.
    Private,
    /// Not any more.
    Left,
}

impl Presence {
    /// For a passage that the gate of `root` has counted.
    pub(crate) fn counted(root: Arc<Root>, shard: Shard, side: Side) -> Self {
        Self { way: Way::Gate { root, shard, side }, _thread: PhantomData }
    }

    /// For the private I/O of a change or an opening.
    pub(crate) fn private() -> Self {
        Self { way: Way::Private, _thread: PhantomData }
    }

    /// The root that the request came through; none for private I/O.
    pub(crate) fn root(&self) -> Option<&Arc<Root>> {
        match &self.way {
            Way::Gate { root, .. } => Some(root),
            Way::Private | Way::Left => None,
        }
    }

    /// Counts a sub-task that is inside in its own right, without asking the gate.
    pub(crate) fn fork(&self) -> Self {
        match &self.way {
            Way::Gate { root, shard, side } => {
                let side = root.gate().fork(*shard, *side);
                Self::counted(Arc::clone(root), *shard, side)
            }
            Way::Private | Way::Left => Self::private(),
        }
    }

    /// Leaves, and gives back the root for the lane's next request. `local` is the thread that entered.
    pub(crate) fn retire(mut self, local: &LocalRef) -> Option<Arc<Root>> {
        if is_planted(Mistake::CountAfterWake) {
            return self.leave_late(local);
        }
        self.leave()
    }

    /// Planted: the two halves of leaving the wrong way round, and something happens between them.
    fn leave_late(&mut self, local: &LocalRef) -> Option<Arc<Root>> {
        let Way::Gate { root, shard, side } = std::mem::replace(&mut self.way, Way::Left) else {
            return None;
        };
        root.gate().tell_drainers();
        let gate = Arc::clone(root.gate());
        local.spawn(Box::pin(async move {
            yield_now().await;
            gate.count_out(shard, side);
        }));
        Some(root)
    }

    fn leave(&mut self) -> Option<Arc<Root>> {
        match std::mem::replace(&mut self.way, Way::Left) {
            Way::Gate { root, shard, side } => {
                root.gate().leave(shard, side);
                Some(root)
            }
            Way::Private | Way::Left => None,
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.leave();
    }
}
