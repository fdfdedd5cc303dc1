//! Collects a known number of bytes that arrive in pieces of any size.
//!
//! Invariant: holds no more than was asked for, and allocates for bytes that arrived, never for a length that a peer claims.

/// Bytes collected so far.
#[derive(Debug, Default)]
pub(crate) struct Gather(Vec<u8>);

impl Gather {
    /// Moves bytes from the front of `input` until `want` are here; whether they are.
    pub(crate) fn fill(&mut self, want: usize, input: &mut &[u8]) -> bool {
        let missing = want.saturating_sub(self.0.len());
        let (now, later) = input.split_at(missing.min(input.len()));
        self.0.extend_from_slice(now);
        *input = later;
        now.len() == missing
    }

    /// The collected bytes; empty afterwards. The capacity goes with them.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    /// How many bytes of memory are held.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
