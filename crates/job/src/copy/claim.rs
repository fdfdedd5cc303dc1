//! Who copies what: each byte is claimed once.

use drystone_base::GuestRange;

/// What is left.
pub(super) struct Claims {
    /// What has not been claimed yet begins here.
    cursor: u64,
    len_bytes: u64,
    /// Pieces so far.
    count: u64,
}

/// A part of the disk that one worker copies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Its number among the pieces, in the order of the disk.
    pub(super) index: u64,
    /// Where it is on the target.
    pub(super) range: GuestRange,
}

impl Claims {
    pub(super) fn new(len_bytes: u64) -> Self {
        Self { cursor: 0, len_bytes, count: 0 }
    }

    /// The next piece, of at most `len_bytes`.
    pub(super) fn claim(&mut self, len_bytes: u64) -> Option<Piece> {
        let range = GuestRange::checked(self.cursor, len_bytes.min(self.len_bytes - self.cursor))?;
        if range.is_empty() {
            return None;
        }
        let index = self.count;
        self.count += 1;
        self.cursor += range.len();
        Some(Piece { index, range })
    }

    /// As many bytes behind a piece that ends at `end` as nobody has claimed, up to `until`; they are claimed now.
    pub(super) fn extend(&mut self, end: u64, until: u64) -> u64 {
        if self.cursor != end {
            return 0;
        }
        let more = until.min(self.len_bytes).saturating_sub(end);
        self.cursor += more;
        more
    }
}
