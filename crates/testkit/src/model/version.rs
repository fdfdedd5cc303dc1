//! One write as the model knows it.

use super::content::Content;

/// Numbers writes in the order in which they began. Number 0 is what the disk held before all of them.
pub(super) type VersionId = u64;

/// A write: of data or zeroes, a discard, or a change of the length.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) content: Content,
    pub(super) begun: u64,
    pub(super) ended: Option<u64>,
    /// It worked, so what was there before cannot be seen any more.
    pub(super) replaces: bool,
    /// A flush that began after its end has ended: a power cut does not change what became of it.
    pub(super) is_durable: bool,
}

impl Version {
    /// What the disk held at first.
    pub(super) fn first(content: Content) -> Self {
        Self { content, begun: 0, ended: Some(0), replaces: true, is_durable: true }
    }

    /// It was over at `moment`.
    pub(super) fn has_ended_before(&self, moment: u64) -> bool {
        self.ended.is_some_and(|ended| ended < moment)
    }
}

/// A version at some place, where it was or could be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: VersionId,
    /// Since when it is known not to be seen here, though its times would allow it.
    pub(super) hidden: Option<u64>,
}

impl Held {
    pub(super) const fn new(id: VersionId) -> Self {
        Self { id, hidden: None }
    }

    pub(super) const fn hide(self, moment: u64) -> Self {
        Self { id: self.id, hidden: Some(moment) }
    }
}
