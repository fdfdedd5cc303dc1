//! How the check reads: bounded, and with zeroes behind the end of the file.
//!
//! Invariants: `Source::read_at` is asked for bytes of the file only, at most [`WINDOW_BYTES`] of a long table or one
//! cluster at a time. The header, the active L1 table and the refcounts say how many tables there are, each of which
//! fits into the file; so reading them is bounded by the file's length, unless they overlap: [`Reader::spend`] ends that.
//! Not here: what the bytes mean.

use std::future::Future;

use drystone_base::{Error, HostOffset, Kind, Result};

use super::SECTOR_BYTES;

/// Long tables are read in pieces of this many bytes.
pub(super) const WINDOW_BYTES: usize = 256 << 10;
/// What may be read in addition to twice the file, so that small overlaps are looked at in full.
const EXTRA_BYTES: u64 = 64 << 20;

/// Where a check reads the image from.
pub trait Source {
    /// Length of the file in bytes; must not change while a check runs.
    ///
    /// The check sees the file in sectors of 512 bytes, as the C tool does: a last one that is not whole counts.
    fn len_bytes(&self) -> u64;

    /// Exactly `len_bytes` bytes at `at`, all of them inside of the file; at most a cluster or 256 KiB, whichever is
    /// more.
    fn read_at(&self, at: HostOffset, len_bytes: usize) -> impl Future<Output = Result<Vec<u8>>>;
}

/// Reads from a source as long as it may.
#[derive(Debug)]
pub(super) struct Reader<'a, S> {
    source: &'a S,
    /// What can be read.
    len_readable: u64,
    /// The same, in whole sectors.
    len_file: u64,
    allowed_bytes: u64,
}

impl<'a, S: Source> Reader<'a, S> {
    pub(super) fn new(source: &'a S) -> Self {
        let len_readable = source.len_bytes();
        let len_file = len_readable.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(len_readable);
        let allowed_bytes = len_file.saturating_mul(2).saturating_add(EXTRA_BYTES);
        Self { source, len_readable, len_file, allowed_bytes }
    }

    /// Length of the file in bytes, a multiple of 512.
    pub(super) const fn len_file(&self) -> u64 {
        self.len_file
    }

    /// Allows the bytes at `at` to be read; an error when all tables together are longer than two files.
    pub(super) fn spend(&mut self, at: HostOffset, len_bytes: u64) -> Result<()> {
        let inside = self.len_file.saturating_sub(at.get()).min(len_bytes);
        let left = self.allowed_bytes.checked_sub(inside);
        self.allowed_bytes = left.ok_or_else(|| Error::new(Kind::TooLarge, "too many tables overlap"))?;
        Ok(())
    }

    /// The bytes at `at`; those behind the end of the file are zeroes.
    pub(super) async fn read(&self, at: HostOffset, len_bytes: usize) -> Result<Vec<u8>> {
        let inside = self.len_readable.saturating_sub(at.get());
        let wanted = usize::try_from(inside).unwrap_or(usize::MAX).min(len_bytes);
        let mut bytes = Vec::new();
        if wanted > 0 {
            bytes = self.source.read_at(at, wanted).await?;
            if bytes.len() != wanted {
                return Err(Error::new(
                    Kind::Io,
                    "a read returned another number of bytes than it was asked for",
                ));
            }
        }
        bytes.resize(len_bytes, 0);
        Ok(bytes)
    }

    /// The entries of a table of `entries` 8-byte numbers from entry `first` on, as many as one read gives. Empty at the
    /// end of the table or of the file, behind which all entries are 0.
    pub(super) async fn read_entries(
        &mut self,
        table: HostOffset,
        entries: u64,
        first: u64,
    ) -> Result<Vec<u64>> {
        let at = table.checked_add(first.saturating_mul(8)).filter(|at| at.get() < self.len_file);
        let len = entries.saturating_sub(first).saturating_mul(8).min(WINDOW_BYTES as u64);
        let (Some(at), Ok(len)) = (at, usize::try_from(len)) else { return Ok(Vec::new()) };
        Ok(entries_of(&self.read(at, len).await?).collect())
    }
}

/// The big-endian numbers of a table.
pub(super) fn entries_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|&entry| u64::from_be_bytes(entry))
}
