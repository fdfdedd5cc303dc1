//! Permissions: what a user of a node needs, and what it tolerates from others.
//!
//! Every edge (from a root or from a parent node) carries two sets: the permissions that it *wants* and those that it
//! *shares*, that is, tolerates other edges on the same node to want. The numbers are also those of the image locks in
//! files (byte 100 + bit: wanted; byte 200 + bit: not shared), so they must not change.

use std::fmt;

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Perm(u8);

impl Perm {
    /// No permission.
    pub const NONE: Self = Self(0);
    /// Reads return a coherent state of the disk.
    pub const CONSISTENT_READ: Self = Self(0x01);
    /// Change what the disk shows.
    pub const WRITE: Self = Self(0x02);
    /// Write without changing what the disk shows (copy on read). [`Self::WRITE`] implies that it is possible.
    pub const WRITE_UNCHANGED: Self = Self(0x04);
    /// Change the length.
    pub const RESIZE: Self = Self(0x08);
    /// Every permission.
    pub const ALL: Self = Self(0x0f);

    /// The four single permissions, in the order of their bits.
    pub const EACH: [Self; 4] = [Self::CONSISTENT_READ, Self::WRITE, Self::WRITE_UNCHANGED, Self::RESIZE];

    /// The set with these bits; bits that mean nothing are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The bits, as in the image locks.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set less the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether every permission of `other` is here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any permission of `other` is here.
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is any permission to write data.
    #[must_use]
    pub const fn writes(self) -> bool {
        self.has_any(Self::WRITE.with(Self::WRITE_UNCHANGED))
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn name(self) -> &'static str {
        match self {
            Self::CONSISTENT_READ => "consistent read",
            Self::WRITE => "write",
            Self::WRITE_UNCHANGED => "write unchanged",
            Self::RESIZE => "resize",
            _ => "?",
        }
    }
}

impl fmt::Display for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        for one in Self::EACH.into_iter().filter(|one| self.has(*one)) {
            write!(f, "{separator}{}", one.name())?;
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Debug for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// What one edge wants of a node, and what it lets others want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Wanted.
    pub perm: Perm,
    /// Tolerated from others.
    pub shared: Perm,
}

impl Grant {
    /// Wants nothing and tolerates everything.
    pub const PASSIVE: Self = Self { perm: Perm::NONE, shared: Perm::ALL };
}
