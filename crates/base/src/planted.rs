//! Mistakes that the simulation must find: twelve that a careless author could have made, each in the place where it would
//! have been made.
//!
//! | mistake | what goes wrong | where |
//! |---|---|---|
//! | [`ForgottenUndrain`](Mistake::ForgottenUndrain) | a change that fails keeps its nodes quiet for ever | `core`: `control/change.rs` |
//! | [`CountAfterWake`](Mistake::CountAfterWake) | a request that leaves wakes the drain, then takes itself off the count | `core`: `request/presence.rs` |
//! | [`RootBornOpen`](Mistake::RootBornOpen) | a root that comes to a quiet node lets requests in | `core`: `control/plan.rs`, `control/commit.rs` |
//! | [`EdgeReused`](Mistake::EdgeReused) | requests keep going to a child that a change has replaced | `core`: `control/commit.rs` |
//! | [`TicketHeldOutside`](Mistake::TicketHeldOutside) | a ticket is held while a client takes no replies | `export`: `nbd/writer.rs` |
//! | [`FreedReused`](Mistake::FreedReused) | freed clusters are used again while requests may be reading there | `format`: `qcow2/driver/free.rs` |
//! | [`MappingBeforeData`](Mistake::MappingBeforeData) | a mapping can be on disk before what it points to | `format`: `qcow2/driver/store.rs` |
//! | [`CountsBeforeMapping`](Mistake::CountsBeforeMapping) | clusters are freed while the mapping on disk still has them | `format`: `qcow2/driver/write.rs` |
//! | [`ZeroesResurrected`](Mistake::ZeroesResurrected) | copy-on-write brings back what zeroes have replaced | `format`: `qcow2/driver/read.rs` |
//! | [`SnapshotMissesWrite`](Mistake::SnapshotMissesWrite) | a snapshot overlooks a write, which goes through to the old layer | `core`: `graph/gate.rs` |
//! | [`SnapshotKeepsFlags`](Mistake::SnapshotKeepsFlags) | what an internal snapshot shares is written in place | `format`: `qcow2/driver/snapshot.rs` |
//! | [`ShrinkBesideWrites`](Mistake::ShrinkBesideWrites) | a write to what is cut off makes a file long again | `blockdev`: `resize.rs` |
//!
//! Invariant: without the feature `planted`, which only the simulation asks for, [`is_planted`] is the constant `false` and
//! nothing of a mistake is in the program.

#[cfg(feature = "planted")]
use std::sync::atomic::{AtomicU8, Ordering};

/// A mistake that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// A change that fails after it has drained leaves its section open.
    ForgottenUndrain = 1,
    /// Leaving a gate wakes those who wait for the count before it goes down, and not after.
    CountAfterWake,
    /// The gate of a new root is open from the start, and does not take over that a node below it is quiet.
    RootBornOpen,
    /// A commit takes an edge for the same as before because it has the same name.
    EdgeReused,
    /// Whoever waits for a client to take replies is inside the graph meanwhile.
    TicketHeldOutside,
    /// Freed clusters leave quarantine without a grace period.
    FreedReused,
    /// There is no flush between data and counts, and the mapping that refers to them.
    MappingBeforeData,
    /// Replaced clusters go into quarantine before the mapping without them is on disk.
    CountsBeforeMapping,
    /// What surrounds a write to a zeroed cluster is taken from the space that the cluster has kept.
    ZeroesResurrected,
    /// A drain does not count those who were let in when the one before it ended.
    SnapshotMissesWrite,
    /// An internal snapshot leaves the flags in place that say that nobody shares a cluster.
    SnapshotKeepsFlags,
    /// A disk becomes shorter while requests are at it.
    ShrinkBesideWrites,
}

/// Whether the program contains `mistake`. A test plants it; every other program says `false`.
#[cfg(not(feature = "planted"))]
#[must_use]
#[inline]
pub const fn is_planted(_mistake: Mistake) -> bool {
    false
}

#[cfg(feature = "planted")]
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Whether the program contains `mistake`. Any thread.
#[cfg(feature = "planted")]
#[must_use]
#[inline]
pub fn is_planted(mistake: Mistake) -> bool {
    PLANTED.load(Ordering::Relaxed) == mistake as u8
}

/// From now on the program contains this mistake and no other, or none. While nothing of a graph exists.
#[cfg(feature = "planted")]
pub fn plant(mistake: Option<Mistake>) {
    PLANTED.store(mistake.map_or(0, |mistake| mistake as u8), Ordering::Relaxed);
}
