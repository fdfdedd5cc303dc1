//! Which freed space is given back by the file, too: by what it was freed for.

use std::sync::atomic::{AtomicU8, Ordering};

use super::refs::Run;

/// Why clusters are not needed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The disk does not need their contents: it was discarded, or made zeroes.
    Request,
    /// An internal snapshot has gone, or another one is active.
    Snapshot,
    /// Tables that are elsewhere now.
    Other,
    /// What they held was written elsewhere. Never given back: new clusters are wanted as fast as these are freed.
    Replaced,
}

/// Clusters that were freed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freed {
    pub(super) run: Run,
    pub(super) cause: Cause,
}

/// Which freed space is given back by the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassDiscard {
    /// What the disk gave back.
    pub request: bool,
    /// What an internal snapshot had.
    pub snapshot: bool,
    /// What tables had.
    pub other: bool,
}

impl PassDiscard {
    /// All that can be.
    pub const ALL: Self = Self { request: true, snapshot: true, other: true };
}

/// The choice in force, which a reopening changes.
pub(super) struct Passes(AtomicU8);

impl Passes {
    pub(super) fn new(chosen: PassDiscard) -> Self {
        let passes = Self(AtomicU8::new(0));
        passes.set(chosen);
        passes
    }

    pub(super) fn set(&self, chosen: PassDiscard) {
        let PassDiscard { request, snapshot, other } = chosen;
        self.0.store(u8::from(request) | u8::from(snapshot) << 1 | u8::from(other) << 2, Ordering::Relaxed);
    }

    /// Whether space that was freed for this is given back.
    pub(super) fn has(&self, cause: Cause) -> bool {
        let bit = match cause {
            Cause::Request => 1,
            Cause::Snapshot => 1 << 1,
            Cause::Other => 1 << 2,
            Cause::Replaced => return false,
        };
        self.0.load(Ordering::Relaxed) & bit != 0
    }
}
