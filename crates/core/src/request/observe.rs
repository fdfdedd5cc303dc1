//! Write observers: who is told, per node, that a range of it was written.
//!
//! Every node has one word of them; a request notes each node that it crosses whose word is not zero, with the range in
//! that node's coordinates, and tells them after its last I/O and before it is acknowledged, on errors too: a failed
//! write may have changed bytes.

use std::sync::{Arc, Mutex, PoisonError};

use drystone_base::GuestRange;
use smallvec::SmallVec;

use crate::bitmap::NodeBitmaps;
use crate::disk::Disk;
use crate::graph::node::Node;

/// Somebody who must know which ranges of a node were written (a dirty bitmap, a write threshold).
pub trait WriteObserver: Send + Sync + 'static {
    /// `range` of the node was written, zeroed or discarded, or may have been (a failed request). Called on the I/O
    /// thread of the request, before it is acknowledged. Must not wait.
    fn written(&self, range: GuestRange);
}

/// The observers of one node: its dirty bitmaps, and others.
#[derive(Default)]
pub(crate) struct Observers {
    /// They have the word that is the only thing that a request looks at when there are no observers.
    pub(crate) bitmaps: NodeBitmaps,
    list: Mutex<Vec<Arc<dyn WriteObserver>>>,
}

impl Observers {
    pub(crate) fn any(&self) -> bool {
        self.bitmaps.recorder.any()
    }

    pub(crate) fn add(&self, observer: Arc<dyn WriteObserver>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(observer);
        self.bitmaps.recorder.add_listener();
    }

    pub(crate) fn remove(&self, observer: &Arc<dyn WriteObserver>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let before = list.len();
        list.retain(|known| !Arc::ptr_eq(known, observer));
        for _ in list.len()..before {
            self.bitmaps.recorder.remove_listener();
        }
    }

    fn tell(&self, range: GuestRange) {
        if self.bitmaps.recorder.mark(range) {
            for observer in self.list.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                observer.written(range);
            }
        }
    }
}

/// The nodes that a write crosses on its way down and that must be told when it has ended.
#[derive(Default)]
pub(crate) struct Crossed<'t> {
    observed: SmallVec<[(&'t Node, GuestRange); 2]>,
    grown: SmallVec<[(&'t Node, u64); 2]>,
}

impl<'t> Crossed<'t> {
    /// Notes that the request passes `range` of `node`.
    #[inline]
    pub(crate) fn note(&mut self, node: &'t Node, range: GuestRange) {
        if node.observers.any() {
            self.observed.push((node, range));
        }
        if range.end().get() > node.len() {
            self.grown.push((node, range.end().get()));
        }
    }

    /// Whether nobody has to be told anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.observed.is_empty() && self.grown.is_empty()
    }

    /// Adds the nodes of one walk.
    #[inline]
    pub(crate) fn append(&mut self, walked: Self) {
        self.observed.extend(walked.observed);
        self.grown.extend(walked.grown);
    }

    /// The last I/O of the request has ended. Nobody is told of one that was to leave what the disks show `unchanged`.
    #[inline]
    pub(crate) fn finish(self, ok: bool, unchanged: bool) {
        // Lengths first: a bitmap has no bits past the end of its disk.
        for (node, end) in self.grown {
            // Of a failed request, a device that grows may have stored something: reads must go there from now on, not
            // only once another write has made it longer. What it does not have reads as zeroes.
            if ok || node.driver().disk().is_some_and(Disk::can_grow) {
                node.grow_len(end);
            }
        }
        for (node, range) in self.observed.into_iter().filter(|_| !unchanged) {
            node.observers.tell(range);
        }
    }
}
