//! The chain cache: a long chain of layers that cannot change now costs what one layer costs.
//!
//! A node is *settled* when no user of it or of anything below it holds `WRITE`, `WRITE_UNCHANGED` or `RESIZE`; commits
//! compute that. The walk from a settled node down to a device is remembered in the node, as extents:
//! ```text
//!   offset in the node -> device of a node far below, or zeroes
//! ```
//! Bounded: at most [`EXTENTS_MAX`] extents a node (about 64 bytes each); a window of the disk that is full is forgotten
//! whole. A commit that ends the condition forgets everything and starts a new generation, so that a walk that began in
//! the old one teaches nothing. Which walks read stale places is no question: whoever frees such a place waits for the
//! grace period of the roots that reach it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use drystone_base::GuestOffset;

use crate::graph::node::Node;
use crate::request::resolve::{DeviceNode, Part, Target};

/// Most extents that one node remembers.
const EXTENTS_MAX: usize = 65_536;
/// The disk is remembered in windows of this many bytes, and no extent crosses a window's border.
const WINDOW_BYTES: u64 = 4 << 20;
/// Windows are spread over this many locks.
const STRIPES: usize = 16;

/// Where bytes of a settled node are.
#[derive(Clone)]
pub(crate) enum CachedPlace {
    Device { node: Arc<Node>, at: u64 },
    Zero,
}

struct CachedExtent {
    len: u64,
    place: CachedPlace,
}

/// One node's memory of the walks through it.
#[derive(Default)]
pub(crate) struct ChainCache {
    /// Odd while the node is settled; moves with every change of that.
    generation: AtomicU64,
    stripes: [RwLock<Stripe>; STRIPES],
}

#[derive(Default)]
struct Stripe {
    extents: BTreeMap<u64, CachedExtent>,
}

/// A walk that passes a settled node, from the moment it gets there.
pub(crate) struct Visit<'t> {
    cache: &'t ChainCache,
    generation: u64,
    at: GuestOffset,
}

impl ChainCache {
    pub(crate) fn is_settled(&self) -> bool {
        self.generation.load(Ordering::Acquire) & 1 == 1
    }

    /// A commit has computed whether the node is settled, after a change of something below it (`changed`).
    pub(crate) fn set_settled(&self, settled: bool, changed: bool) {
        let before = self.generation.load(Ordering::Relaxed);
        let was_settled = before & 1 == 1;
        if settled == was_settled && !(settled && changed) {
            return;
        }
        let after = if settled == was_settled { before + 2 } else { before + 1 };
        self.generation.store(after, Ordering::Release);
        for stripe in &self.stripes {
            stripe.write().unwrap_or_else(PoisonError::into_inner).extents.clear();
        }
    }

    /// A walk arrives at `at` of `node`; `None` if the node is not settled.
    pub(crate) fn visit<'t>(&'t self, node: &Node, at: GuestOffset) -> Option<Visit<'t>> {
        let generation = self.generation.load(Ordering::Acquire);
        (generation & 1 == 1 && at.get() < node.len()).then_some(Visit { cache: self, generation, at })
    }

    fn stripe(&self, at: GuestOffset) -> &RwLock<Stripe> {
        let window = usize::try_from(at.get() / WINDOW_BYTES).unwrap_or(usize::MAX);
        match self.stripes.get(window % STRIPES) {
            Some(stripe) => stripe,
            None => unreachable!("a number modulo STRIPES is below it"),
        }
    }
}

impl Visit<'_> {
    /// Where the first bytes are, at most `len_max` of them, if an earlier walk has learnt it.
    pub(crate) fn look_up(&self, len_max: u64) -> Option<(CachedPlace, u64)> {
        let at = self.at.get();
        let stripe = self.cache.stripe(self.at).read().unwrap_or_else(PoisonError::into_inner);
        let (start, extent) = stripe.extents.range(..=at).next_back()?;
        let skip = at - start;
        if skip >= extent.len || self.cache.generation.load(Ordering::Acquire) != self.generation {
            return None;
        }
        let place = match &extent.place {
            CachedPlace::Device { node, at } => CachedPlace::Device { node: Arc::clone(node), at: at + skip },
            CachedPlace::Zero => CachedPlace::Zero,
        };
        Some((place, (extent.len - skip).min(len_max)))
    }

    /// From where the walk is to the end of its window or of the disk.
    pub(crate) fn window_len(&self, len: u64) -> u64 {
        let at = self.at.get();
        let window_end = (at / WINDOW_BYTES + 1) * WINDOW_BYTES;
        window_end.min(len).saturating_sub(at)
    }

    /// The walk has found where the first bytes are.
    pub(crate) fn learn(self, part: &Part<'_>) {
        let place = match &part.target {
            Target::Device { node: DeviceNode::Walked(io), at } => {
                CachedPlace::Device { node: io.node_arc(), at: *at }
            }
            Target::Zero => CachedPlace::Zero,
            Target::Device { node: DeviceNode::Cached(_), .. }
            | Target::Ask { .. }
            | Target::Enter { .. }
            | Target::Load { .. } => {
                return;
            }
        };
        let at = self.at.get();
        let len = part.len.min(self.window_len(u64::MAX));
        let mut stripe = self.cache.stripe(self.at).write().unwrap_or_else(PoisonError::into_inner);
        if self.cache.generation.load(Ordering::Acquire) != self.generation {
            return;
        }
        if stripe.extents.len() >= EXTENTS_MAX / STRIPES {
            stripe.extents.clear();
        }
        stripe.extents.insert(at, CachedExtent { len, place });
    }
}
