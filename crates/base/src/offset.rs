//! Positions and ranges in bytes.
//!
//! Every node of the graph has a coordinate system of its own: the disk that it shows to the layers above. A position
//! in it is a [`GuestOffset`]. A format that stores that disk in a file finds a [`HostOffset`]: a position in one of its
//! *children*. The only way from one to the other is [`HostOffset::in_child`], which names the crossing.
//!
//! Invariant: no offset and no end of a range exceeds [`LEN_MAX`], so sums of an offset and a length never overflow.

use std::fmt;

/// The largest disk: the largest signed 64-bit number, rounded down to the largest request alignment (2 MiB), so that
/// rounding an offset up cannot overflow either.
pub const LEN_MAX: u64 = (i64::MAX as u64) & !((2 << 20) - 1);

macro_rules! offset_methods {
    ($name:ident) => {
        impl $name {
            /// Position 0.
            pub const ZERO: Self = Self(0);

            /// The position `bytes` from the start, or `None` past [`LEN_MAX`].
            #[must_use]
            pub const fn checked(bytes: u64) -> Option<Self> {
                if bytes <= LEN_MAX { Some(Self(bytes)) } else { None }
            }

            /// The position `bytes` from the start.
            ///
            /// # Panics
            /// Past [`LEN_MAX`]: for values that were checked already. Values from outside go through [`Self::checked`].
            #[must_use]
            #[track_caller]
            pub const fn new(bytes: u64) -> Self {
                assert!(bytes <= LEN_MAX, "offset past LEN_MAX");
                Self(bytes)
            }

            /// Bytes from the start.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The position `bytes` further on, or `None` past [`LEN_MAX`].
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Self::checked(sum),
                    None => None,
                }
            }

            /// The position `bytes` further on.
            ///
            /// # Panics
            /// Past [`LEN_MAX`].
            #[must_use]
            #[track_caller]
            pub const fn plus(self, bytes: u64) -> Self {
                match self.checked_add(bytes) {
                    Some(sum) => sum,
                    None => panic!("offset past LEN_MAX"),
                }
            }

            /// Whether the position is a multiple of `align` (a power of two).
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// Rounded down to a multiple of `align` (a power of two).
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

/// A byte position on the disk that a node shows to whoever uses it. Never a position in the node's own file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GuestOffset(u64);
offset_methods!(GuestOffset);

/// A byte position in a *child* of a node: where a format stores something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HostOffset(u64);
offset_methods!(HostOffset);

impl HostOffset {
    /// The same byte in the coordinates of the child itself.
    #[must_use]
    pub const fn in_child(self) -> GuestOffset {
        GuestOffset(self.0)
    }
}

/// A range of bytes `start .. start + len` of a node's disk; its end does not exceed [`LEN_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestRange {
    start: GuestOffset,
    len: u64,
}

impl GuestRange {
    /// The range, or `None` if its end exceeds [`LEN_MAX`].
    #[must_use]
    pub const fn checked(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) if end <= LEN_MAX => Some(Self { start: GuestOffset(start), len }),
            _ => None,
        }
    }

    /// The range of `len` bytes at `start`.
    ///
    /// # Panics
    /// If its end exceeds [`LEN_MAX`].
    #[must_use]
    #[track_caller]
    pub const fn new(start: GuestOffset, len: u64) -> Self {
        match Self::checked(start.0, len) {
            Some(range) => range,
            None => panic!("range past LEN_MAX"),
        }
    }

    /// First byte.
    #[must_use]
    pub const fn start(self) -> GuestOffset {
        self.start
    }

    /// First byte after the range.
    #[must_use]
    pub const fn end(self) -> GuestOffset {
        GuestOffset(self.start.0 + self.len)
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether the range has no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Whether start and length are multiples of `align` (a power of two).
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        (self.start.0 | self.len) & (align - 1) == 0
    }

    /// Whether the two ranges have a byte in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end().0 && other.start.0 < self.end().0
    }

    /// The smallest range that holds both.
    #[must_use]
    pub fn hull(self, other: Self) -> Self {
        let (start, end) = (self.start.min(other.start), self.end().max(other.end()));
        Self { start, len: end.0 - start.0 }
    }

    /// The smallest range that is a multiple of `align` (a power of two, at most 2 MiB) and holds this one.
    #[must_use]
    pub const fn align_out(self, align: u64) -> Self {
        let start = self.start.0 & !(align - 1);
        let end = (self.start.0 + self.len + (align - 1)) & !(align - 1);
        Self { start: GuestOffset(start), len: end - start }
    }

    /// The first `len` bytes, or the whole range if it is shorter.
    #[must_use]
    pub const fn take(self, len: u64) -> Self {
        Self { start: self.start, len: if len < self.len { len } else { self.len } }
    }

    /// What is left after `len` bytes; empty at the end of the range if it is shorter.
    #[must_use]
    pub const fn skip(self, len: u64) -> Self {
        let n = if len < self.len { len } else { self.len };
        Self { start: GuestOffset(self.start.0 + n), len: self.len - n }
    }
}

impl fmt::Debug for GuestRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.start.0, self.len)
    }
}

impl fmt::Display for GuestRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_cannot_end_past_the_largest_disk() {
        assert!(GuestRange::checked(LEN_MAX, 0).is_some());
        assert!(GuestRange::checked(LEN_MAX, 1).is_none());
        assert!(GuestRange::checked(u64::MAX, u64::MAX).is_none());
    }

    #[test]
    fn aligning_out_the_last_byte_does_not_overflow() {
        let last = GuestRange::new(GuestOffset::new(LEN_MAX - 1), 1);
        assert_eq!(last.align_out(2 << 20).end().get(), LEN_MAX);
    }

    #[test]
    fn take_and_skip_partition_a_range() {
        let range = GuestRange::new(GuestOffset::new(10), 10);
        assert_eq!(range.take(4).end(), range.skip(4).start());
        assert!(range.skip(11).is_empty());
        assert_eq!(range.skip(11).start(), range.end());
    }

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        let a = GuestRange::new(GuestOffset::new(0), 4);
        let b = GuestRange::new(GuestOffset::new(4), 4);
        assert!(!a.overlaps(b));
        assert!(a.overlaps(GuestRange::new(GuestOffset::new(3), 1)));
    }
}
