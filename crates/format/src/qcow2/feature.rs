//! Feature bits of the header, and what to call them.
//!
//! | set | a program that does not know a bit |
//! |---|---|
//! | [`Incompatible`] | must not open the image |
//! | [`Compatible`] | ignores it and keeps it |
//! | [`Autoclear`] | clears it before its first write |
//!
//! Invariant: the three sets are different types; a bit of one cannot be asked of another. Bits that are not known are
//! kept as they were read.
//! Not here: what follows from the bits ([`super::header::Access`]).

use std::fmt;
use std::marker::PhantomData;

use super::extension::FeatureName;

/// Features that must be understood to open the image (spec "Header": `incompatible_features`).
pub type Incompatible = FeatureSet<IncompatibleBit>;
/// Features that may be ignored (spec "Header": `compatible_features`).
pub type Compatible = FeatureSet<CompatibleBit>;
/// Features that a writer which does not know them clears (spec "Header": `autoclear_features`).
pub type Autoclear = FeatureSet<AutoclearBit>;

/// The features of one of the three sets.
pub trait FeatureBit: Copy + 'static {
    /// Which set, as feature name tables number them (spec "Feature name table").
    const TYPE: u8;
    /// Every feature of this set that the specification names, with the name that images give it.
    const KNOWN: &'static [(Self, &'static str)];

    /// The bit's number.
    fn number(self) -> u8;
}

/// Features that must be understood to open the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncompatibleBit {
    /// Refcounts may be wrong: they were being updated lazily.
    Dirty = 0,
    /// Any structure may be wrong: damage was detected.
    Corrupt = 1,
    /// Guest clusters are in another file.
    ExternalData = 2,
    /// Compressed clusters are not deflate streams.
    CompressionType = 3,
    /// L2 entries are 16 bytes long and describe subclusters.
    ExtendedL2 = 4,
}

/// Features that may be ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompatibleBit {
    /// Writers may set the dirty bit and postpone refcount updates.
    LazyRefcounts = 0,
}

/// Features that a writer which does not know them clears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoclearBit {
    /// The persistent bitmaps are consistent with the disk.
    Bitmaps = 0,
    /// The external data file is a consistent raw image.
    RawExternalData = 1,
}

impl FeatureBit for IncompatibleBit {
    const TYPE: u8 = 0;
    const KNOWN: &'static [(Self, &'static str)] = &[
        (Self::Dirty, "dirty bit"),
        (Self::Corrupt, "corrupt bit"),
        (Self::ExternalData, "external data file"),
        (Self::CompressionType, "compression type"),
        (Self::ExtendedL2, "extended L2 entries"),
    ];

    fn number(self) -> u8 {
        self as u8
    }
}

impl FeatureBit for CompatibleBit {
    const TYPE: u8 = 1;
    const KNOWN: &'static [(Self, &'static str)] = &[(Self::LazyRefcounts, "lazy refcounts")];

    fn number(self) -> u8 {
        self as u8
    }
}

impl FeatureBit for AutoclearBit {
    const TYPE: u8 = 2;
    const KNOWN: &'static [(Self, &'static str)] =
        &[(Self::Bitmaps, "bitmaps"), (Self::RawExternalData, "raw external data")];

    fn number(self) -> u8 {
        self as u8
    }
}

/// A set of features, known and unknown ones.
pub struct FeatureSet<B> {
    raw: u64,
    of: PhantomData<B>,
}

impl<B: FeatureBit> FeatureSet<B> {
    /// No feature.
    pub const EMPTY: Self = Self::from_raw(0);

    /// The set as the header stores it.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self { raw, of: PhantomData }
    }

    /// The number that the header stores.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.raw
    }

    /// Whether a feature is in the set.
    #[must_use]
    pub fn has(self, bit: B) -> bool {
        self.raw & mask(bit) != 0
    }

    /// The set with a feature added or taken out.
    #[must_use]
    pub fn with(self, bit: B, present: bool) -> Self {
        Self::from_raw(if present { self.raw | mask(bit) } else { self.raw & !mask(bit) })
    }

    /// The features that the specification, as this build knows it, does not name.
    #[must_use]
    pub fn unknown(self) -> Self {
        Self::from_raw(B::KNOWN.iter().fold(self.raw, |raw, &(bit, _)| raw & !mask(bit)))
    }

    /// The features of `self` that are not in `other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self::from_raw(self.raw & !other.raw)
    }

    /// Whether no feature is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.raw == 0
    }

    /// What to call the features of the set: the image's own names where it has them, else the bit's number.
    #[must_use]
    pub fn names(self, table: &[FeatureName]) -> Vec<String> {
        (0..64u8)
            .filter(|&number| self.raw >> number & 1 != 0)
            .map(|number| name::<B>(number, table))
            .collect()
    }
}

fn mask<B: FeatureBit>(bit: B) -> u64 {
    1 << bit.number()
}

fn name<B: FeatureBit>(number: u8, table: &[FeatureName]) -> String {
    let known = B::KNOWN.iter().find(|(bit, _)| bit.number() == number);
    let named = table.iter().find(|entry| entry.set == B::TYPE && entry.bit == number);
    match (known, named) {
        (Some((_, name)), _) => (*name).to_owned(),
        (None, Some(entry)) if !entry.name.is_empty() => entry.name.clone(),
        _ => format!("bit {number}"),
    }
}

impl<B> Clone for FeatureSet<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for FeatureSet<B> {}

impl<B> PartialEq for FeatureSet<B> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<B> Eq for FeatureSet<B> {}

impl<B: FeatureBit> fmt::Debug for FeatureSet<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names(&[])).finish()
    }
}

/// The feature name table that new images carry: every feature that the specification names.
pub(super) fn standard_names() -> Vec<FeatureName> {
    fn of<B: FeatureBit>() -> impl Iterator<Item = FeatureName> {
        B::KNOWN.iter().map(|&(bit, name)| FeatureName {
            set: B::TYPE,
            bit: bit.number(),
            name: name.to_owned(),
        })
    }
    of::<IncompatibleBit>().chain(of::<CompatibleBit>()).chain(of::<AutoclearBit>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_bits_are_kept_and_told_apart() {
        let set = Incompatible::from_raw(1 << 40 | 0b10);
        assert!(set.has(IncompatibleBit::Corrupt));
        assert_eq!(set.unknown().raw(), 1 << 40);
        assert_eq!(
            set.with(IncompatibleBit::Corrupt, false).with(IncompatibleBit::Dirty, true).raw(),
            1 << 40 | 1
        );
        assert!(set.minus(set).is_empty());
    }

    #[test]
    fn the_image_names_what_this_build_does_not_know() {
        let entry = |set, bit, name: &str| FeatureName { set, bit, name: name.into() };
        let table =
            [entry(1, 40, "of another set"), entry(0, 40, "folding"), entry(0, 0, "lies"), entry(0, 41, "")];
        let set = Incompatible::from_raw(1 << 41 | 1 << 40 | 1);
        assert_eq!(set.names(&table), ["dirty bit", "folding", "bit 41"]);
    }
}
