//! Clusters whose subclusters differ, and clusters of any kind seen subcluster by subcluster.
//! ```text
//!  subcluster     31  ...  3  2  1  0
//!  has data        0       0  1  1  0      the bytes are in the cluster's place
//!  reads as zeroes 0       1  0  0  0
//!                  │       │  └──┴─ Part::Data
//!                  │       └─ Part::Zero
//!                  └─ Part::Unallocated: the backing file, or zeroes
//! ```
//! A cluster without subclusters is one that consists of one.
//!
//! Invariant: what [`Mixed::entry`] returns is the same for the same bits: a cluster of one kind is never [`L2Entry::Mixed`].

use super::{Allocated, L2Entry};
use crate::qcow2::l2::L2Format;

/// A cluster subcluster by subcluster, one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mixed {
    /// The cluster that holds the data, or is set aside for it.
    pub place: Option<Allocated>,
    /// Subclusters that have data there.
    pub data: u32,
    /// Subclusters that read as zeroes.
    pub zero: u32,
}

/// What a subcluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It reads as the backing file does, or as zeroes.
    Unallocated,
    /// It reads as zeroes.
    Zero,
    /// Its bytes are in the cluster's place.
    Data,
    /// Its bytes are in the cluster's compressed data.
    Compressed,
}

impl Mixed {
    /// As a bitmap says it (spec "Extended L2 Entries").
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub(super) const fn of_bitmap(place: Option<Allocated>, bitmap: u64) -> Self {
        Self { place, data: bitmap as u32, zero: (bitmap >> 32) as u32 }
    }

    /// The entry that says this.
    ///
    /// # Panics
    /// If a cluster is set aside for nothing where clusters have no subclusters: no such entry exists.
    #[must_use]
    pub fn entry(self, l2: L2Format) -> L2Entry {
        let all = l2.all_subclusters();
        match self {
            Self { place: Some(place), data, zero: 0 } if data == all => L2Entry::Data(place),
            Self { place, data: 0, zero } if zero == all => L2Entry::Zero(place),
            Self { place: None, data: 0, zero: 0 } => L2Entry::Unallocated,
            mixed => {
                assert!(l2.is_extended(), "a cluster without subclusters is of one kind");
                L2Entry::Mixed(mixed)
            }
        }
    }

    /// What subcluster `index` is.
    #[must_use]
    pub const fn part(self, index: u32) -> Part {
        match (self.data >> index & 1, self.zero >> index & 1) {
            (1, _) => Part::Data,
            (_, 1) => Part::Zero,
            _ => Part::Unallocated,
        }
    }
}

impl L2Entry {
    /// The cluster seen subcluster by subcluster; a compressed one has data in all of them, and no place.
    #[must_use]
    pub const fn subclusters(self, l2: L2Format) -> Mixed {
        let (data, zero) = match self {
            Self::Mixed(mixed) => return mixed,
            Self::Unallocated => (0, 0),
            Self::Zero(_) => (0, l2.all_subclusters()),
            Self::Data(_) | Self::Compressed(_) => (l2.all_subclusters(), 0),
        };
        Mixed { place: self.place(), data, zero }
    }

    /// What subcluster `index` is.
    #[must_use]
    pub const fn part(self, index: u32) -> Part {
        match self {
            Self::Unallocated => Part::Unallocated,
            Self::Zero(_) => Part::Zero,
            Self::Data(_) => Part::Data,
            Self::Compressed(_) => Part::Compressed,
            Self::Mixed(mixed) => mixed.part(index),
        }
    }

    /// What subcluster `index` is, and how many subclusters from there on are the same: at least 1.
    #[must_use]
    pub const fn run(self, index: u32, l2: L2Format) -> (Part, u32) {
        let part = self.part(index);
        let left = l2.subclusters() - index;
        let Self::Mixed(Mixed { data, zero, .. }) = self else { return (part, left) };
        let same = match part {
            Part::Data | Part::Compressed => data,
            Part::Zero => zero & !data,
            Part::Unallocated => !(data | zero),
        };
        let count = (same >> index).trailing_ones();
        (part, if count < left { count } else { left })
    }
}
