//! [`Lane`]: one submitter of sequential requests.

use crate::runtime::{Local, LocalRef};

/// One submitter of sequential requests on one I/O thread: a queue slot of an export, one worker of a job.
///
/// Entering the graph and waiting for a peer outside the graph both borrow the lane exclusively, so one lane has at most
/// one ticket, and nobody awaits a socket while holding one. Not `Clone`, not `Send`.
pub struct Lane {
    local: LocalRef,
}

impl Lane {
    /// A lane on the calling thread.
    #[must_use]
    pub fn new(local: LocalRef) -> Self {
        Self { local }
    }

    /// The thread that the lane lives on.
    #[must_use]
    pub fn local(&self) -> &dyn Local {
        &*self.local
    }
}
