//! What a child is for its parent, and the permissions that follow from it.
//!
//! | role | wants of the child | shares |
//! |---|---|---|
//! | `FILTERED` | what the parent's users want | what the parent's users share |
//! | `COW` | `CONSISTENT_READ` if the parent's users want it | `CONSISTENT_READ`, `WRITE_UNCHANGED`; `WRITE`, `RESIZE` too if the parent's users share `WRITE` or the parent is inactive |
//! | `METADATA` | as the parent's users; `WRITE`, `RESIZE` if the parent is writable; `CONSISTENT_READ` unless it does no I/O | as the parent's users, less `WRITE`, `RESIZE` |
//! | `DATA` | as the parent's users; `WRITE_UNCHANGED` brings `WRITE`; `WRITE` brings `RESIZE` | as the parent's users, less `RESIZE` |
//! | `METADATA` or `DATA`, parent inactive | as above | `WRITE`, `RESIZE` too |

use std::fmt;

use crate::graph::permission::{Grant, Perm};

/// A set of roles that one child plays.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Role(u8);

impl Role {
    /// Stores guest data.
    pub const DATA: Self = Self(0x01);
    /// Stores the parent's own structures.
    pub const METADATA: Self = Self(0x02);
    /// Shows the same disk as the parent: the parent is a filter.
    pub const FILTERED: Self = Self(0x04);
    /// Supplies what the parent has not: the backing image of a copy-on-write overlay.
    pub const COW: Self = Self(0x08);
    /// The child that stands for the parent's file when there is one to choose.
    pub const PRIMARY: Self = Self(0x10);
    /// The file of an image format: data, metadata and primary.
    pub const IMAGE: Self = Self(0x13);
    /// The child of a plain filter.
    pub const FILTER_CHILD: Self = Self(0x14);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every role of `other` is here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Why no child can have this set of roles, if so.
    pub(crate) fn fault(self) -> Option<&'static str> {
        if !self.has_any(Self(0x0f)) {
            Some("it has none of the roles data, metadata, filtered and cow")
        } else if self.has(Self::FILTERED) && self.has_any(Self(0x0b)) {
            Some("a filtered child stores neither data nor metadata and is no backing image")
        } else if self.has(Self::COW) && self.0 != Self::COW.0 {
            Some("a backing image has no other role")
        } else {
            None
        }
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::DATA, "data"),
            (Self::METADATA, "metadata"),
            (Self::FILTERED, "filtered"),
            (Self::COW, "cow"),
            (Self::PRIMARY, "primary"),
        ];
        let mut separator = "";
        for (_, name) in names.iter().filter(|(role, _)| self.has(*role)) {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
        Ok(())
    }
}

/// What the permissions of a child are computed from.
#[derive(Debug, Clone, Copy)]
pub struct ParentState {
    /// What all users of the parent want and share together.
    pub users: Grant,
    /// Whether the parent can write (not read-only).
    pub writable: bool,
    /// Whether the parent is active (see `blockdev-set-active`).
    pub active: bool,
}

/// The permissions of the table above, for a child with `role`.
#[must_use]
pub fn default_grant(role: Role, parent: ParentState) -> Grant {
    let ParentState { users, writable, active } = parent;
    let write_resize = Perm::WRITE.with(Perm::RESIZE);
    if role.has(Role::FILTERED) {
        return users;
    }
    if role.has(Role::COW) {
        let mut shared = Perm::CONSISTENT_READ.with(Perm::WRITE_UNCHANGED);
        if users.shared.has(Perm::WRITE) || !active {
            shared = shared.with(write_resize);
        }
        return Grant { perm: users.perm.and(Perm::CONSISTENT_READ), shared };
    }
    let Grant { mut perm, mut shared } = users;
    if role.has(Role::METADATA) {
        perm = perm.with(Perm::CONSISTENT_READ);
        if writable && active {
            perm = perm.with(write_resize);
        }
        shared = shared.without(write_resize);
    }
    if role.has(Role::DATA) {
        shared = shared.without(Perm::RESIZE);
        if perm.has(Perm::WRITE_UNCHANGED) {
            perm = perm.with(Perm::WRITE);
        }
        if perm.has(Perm::WRITE) {
            perm = perm.with(Perm::RESIZE);
        }
    }
    if !active {
        shared = shared.with(write_resize);
    }
    Grant { perm, shared }
}
