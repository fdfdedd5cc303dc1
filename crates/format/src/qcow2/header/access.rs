//! What an image may be opened for, as far as its header says.
//!
//! | header | reading | writing |
//! |---|---|---|
//! | an unknown incompatible feature, encryption, a raw data file that is none | no | no |
//! | dirty bit: refcounts may be wrong | yes | no, until repaired (the driver does that before its first write) |
//! | corrupt bit | yes | no, until repaired |
//! | an unknown autoclear feature | yes | yes; [`Header::for_writing`] first |
//!
//! Persistent bitmaps are kept up to date by whoever writes.

use super::{Crypt, Header, HeaderChange, HeaderError};
use crate::qcow2::feature::{Autoclear, AutoclearBit, IncompatibleBit};

/// What an image may be opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing.
    ReadWrite,
    /// Reading only.
    ReadOnly(ReadOnlyReason),
    /// Nothing.
    Refused(RefusedReason),
}

/// Why an image cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadOnlyReason {
    /// The dirty bit: it was not closed after lazy refcount updates.
    #[error(
        "the image was not closed properly and its refcounts may be wrong; it needs a repair before it is written"
    )]
    Dirty,
    /// The corrupt bit.
    #[error("the image is marked as corrupt; it needs a repair before it is written")]
    Corrupt,
}

/// Why an image cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// Features that must be understood and are not.
    #[error("the image uses features that are not supported: {}", .0.join(", "))]
    Features(Vec<String>),
    /// The guest's data is encrypted.
    #[error("the image is encrypted ({0:?}), which is not supported")]
    Encrypted(Crypt),
    /// A data file that is a raw image, and none.
    #[error("the image says that its data file is a raw image, and that it has none")]
    NoDataFile,
}

impl Header {
    /// What the image may be opened for.
    #[must_use]
    pub fn access(&self) -> Access {
        if let Some(reason) = self.refused() {
            return Access::Refused(reason);
        }
        if self.incompatible.has(IncompatibleBit::Corrupt) {
            return Access::ReadOnly(ReadOnlyReason::Corrupt);
        }
        if self.incompatible.has(IncompatibleBit::Dirty) {
            return Access::ReadOnly(ReadOnlyReason::Dirty);
        }
        Access::ReadWrite
    }

    /// The header that must be on disk, durably, before the first write to the image: without the autoclear features that
    /// this build does not keep true. `None` if that is the header as it is.
    ///
    /// # Errors
    /// As [`Self::changed`].
    pub fn for_writing(&self) -> Result<Option<Self>, HeaderError> {
        let kept = Autoclear::EMPTY
            .with(AutoclearBit::Bitmaps, self.extensions.bitmaps().is_some())
            .with(AutoclearBit::RawExternalData, self.is_data_raw());
        if self.autoclear == kept {
            return Ok(None);
        }
        self.changed(&HeaderChange { autoclear: Some(kept), ..HeaderChange::default() }).map(Some)
    }

    /// Whether the data has a file of its own that is a raw image of the disk.
    #[must_use]
    pub fn is_data_raw(&self) -> bool {
        self.l2().has_data_file() && self.autoclear.has(AutoclearBit::RawExternalData)
    }

    fn refused(&self) -> Option<RefusedReason> {
        let unknown = self.incompatible.unknown();
        if !unknown.is_empty() {
            return Some(RefusedReason::Features(unknown.names(&self.extensions.feature_names())));
        }
        if self.crypt != Crypt::None {
            return Some(RefusedReason::Encrypted(self.crypt));
        }
        let is_raw = self.autoclear.has(AutoclearBit::RawExternalData);
        let is_alone = is_raw && !self.incompatible.has(IncompatibleBit::ExternalData);
        is_alone.then_some(RefusedReason::NoDataFile)
    }
}
