//! [`Backend`]: a user's handle on a node, and `Root`: what it stands on.
//!
//! A root is where requests enter the graph: an export, a job, a tool, a driver's background work. It has an edge to one
//! node, the permissions that its user asked for, and a gate. All roots of one job share one gate.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::graph::gate::Gate;
use crate::graph::node::Node;
use crate::graph::permission::Perm;
use crate::graph::slot::{Excluded, Slot};
use crate::request::presence::Presence;
use crate::runtime::Shard;
use crate::waits::Waits;

/// Identifies a root within one graph; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId(pub(crate) u64);

/// What a user of a node may do. Sealed: [`ReadOnly`] or [`ReadWrite`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a mode of using a node",
    label = "a user reads (`ReadOnly`) or reads and writes (`ReadWrite`)"
)]
pub trait Mode: sealed::Sealed + 'static {}

/// A mode in which a user may change the disk: [`ReadWrite`].
#[diagnostic::on_unimplemented(
    message = "a user in mode `{Self}` cannot change the disk",
    label = "this user only reads",
    note = "attach a root as `Backend<ReadWrite>`, with a grant that wants `WRITE`"
)]
pub trait Writes: Mode {}

/// The user reads. Its tickets have no method that writes.
#[derive(Debug)]
pub enum ReadOnly {}
/// The user reads and writes.
#[derive(Debug)]
pub enum ReadWrite {}

impl Mode for ReadOnly {}
impl Mode for ReadWrite {}
impl Writes for ReadWrite {}

mod sealed {
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not a mode of using a node",
        label = "a user reads (`ReadOnly`) or reads and writes (`ReadWrite`)",
        note = "what a ticket can do follows from its mode, so the list is closed"
    )]
    pub trait Sealed {}
    impl Sealed for super::ReadOnly {}
    impl Sealed for super::ReadWrite {}
}

/// A handle on a node through a root of its own. Requests enter with `lane.enter(&backend)`.
///
/// Made by a plan ([`crate::control::Plan::attach_root`]); clones are handles of the same root. The root is taken out of
/// the graph by a plan as well; after that, entering fails.
pub struct Backend<M: Mode> {
    root: Arc<Root>,
    mode: PhantomData<fn() -> M>,
}

impl<M: Mode> Backend<M> {
    pub(crate) fn new(root: Arc<Root>) -> Self {
        Self { root, mode: PhantomData }
    }

    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// The root's identity, for plans that move or remove it.
    #[must_use]
    pub fn id(&self) -> RootId {
        self.root.id
    }

    /// The user's name, as error texts and reports call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.root.name
    }

    /// What the user has done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.root.statistics()
    }
}

impl Backend<ReadWrite> {
    /// A handle of the same root that only reads.
    #[must_use]
    pub fn reader(&self) -> Backend<ReadOnly> {
        Backend::new(Arc::clone(&self.root))
    }
}

impl<M: Mode> Clone for Backend<M> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.root))
    }
}

impl<M: Mode> fmt::Debug for Backend<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({:?})", self.root.name)
    }
}

/// Of `Root::state`: the commit that brings the root in has written its target. The other bits are its permissions.
const ATTACHED: u8 = 0x80;

/// A user of the graph.
pub(crate) struct Root {
    id: RootId,
    name: String,
    gate: Arc<Gate>,
    state: AtomicU8,
    target: Slot<Option<Arc<Node>>>,
    counters: Box<[Counters]>,
    waits: Arc<Waits>,
}

/// One thread's counters of one root; written by that thread only.
#[derive(Default)]
#[repr(align(128))]
struct Counters {
    ops: [AtomicU64; Kind::COUNT],
    bytes: [AtomicU64; Kind::COUNT],
    failed: AtomicU64,
}

/// What a request does, as far as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Zero,
    Discard,
    Flush,
    Other,
}

impl Kind {
    const COUNT: usize = 6;
}

/// Requests of one root since it was made, failed ones apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Completed reads and their bytes.
    pub reads: (u64, u64),
    /// Completed writes and their bytes.
    pub writes: (u64, u64),
    /// Completed requests to write zeroes and their bytes.
    pub zeroes: (u64, u64),
    /// Completed discards and their bytes.
    pub discards: (u64, u64),
    /// Completed flushes.
    pub flushes: u64,
    /// Requests of any kind that failed.
    pub failed: u64,
}

impl Root {
    pub(crate) fn new(id: RootId, name: String, gate: Arc<Gate>, shards: u16, waits: Arc<Waits>) -> Self {
        Self {
            id,
            name,
            gate,
            state: AtomicU8::new(0),
            target: Slot::new(None),
            counters: (0..shards).map(|_| Counters::default()).collect(),
            waits,
        }
    }

    pub(crate) fn id(&self) -> RootId {
        self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    pub(crate) fn waits(&self) -> &Arc<Waits> {
        &self.waits
    }

    pub(crate) fn perm(&self) -> Perm {
        Perm::from_bits(self.state.load(Ordering::Relaxed))
    }

    /// Publishes that the target is written, and what the user may do. By every commit that changes the root.
    pub(crate) fn attach(&self, perm: Perm) {
        self.state.store(perm.bits() | ATTACHED, Ordering::Release);
    }

    /// Whether a commit has brought the root in. A backend can be entered before that, behind a gate that is open for
    /// other roots of its job; the target must not be looked at then, as the commit is about to write it.
    pub(crate) fn is_attached(&self) -> bool {
        self.state.load(Ordering::Acquire) & ATTACHED != 0
    }

    pub(crate) fn target<'t>(&'t self, inside: &'t Presence) -> Option<&'t Arc<Node>> {
        if self.is_attached() { self.target.get(inside).as_ref() } else { None }
    }

    pub(crate) fn replace_target(&self, proof: &Excluded, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        self.target.replace(proof, node)
    }

    /// Counts a finished request. On the thread that ran it.
    pub(crate) fn count(&self, shard: Shard, kind: Kind, bytes: u64, ok: bool) {
        let Some(counters) = self.counters.get(shard.index()) else { return };
        let add = |counter: &AtomicU64, n: u64| {
            counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed)
        };
        if !ok {
            return add(&counters.failed, 1);
        }
        if let (Some(ops), Some(sum)) = (counters.ops.get(kind as usize), counters.bytes.get(kind as usize)) {
            add(ops, 1);
            add(sum, bytes);
        }
    }

    fn statistics(&self) -> Statistics {
        let sum = |pick: &dyn Fn(&Counters) -> Option<&AtomicU64>| -> u64 {
            self.counters.iter().filter_map(pick).map(|n| n.load(Ordering::Relaxed)).sum()
        };
        let pair = |kind: Kind| (sum(&|c| c.ops.get(kind as usize)), sum(&|c| c.bytes.get(kind as usize)));
        Statistics {
            reads: pair(Kind::Read),
            writes: pair(Kind::Write),
            zeroes: pair(Kind::Zero),
            discards: pair(Kind::Discard),
            flushes: pair(Kind::Flush).0,
            failed: sum(&|c| Some(&c.failed)),
        }
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({} {:?})", self.id.0, self.name)
    }
}
