//! [`Mismatch`]: bytes that a disk must not hold.

use std::fmt;

use crate::notation::show_len;
use crate::pattern::{Stamp, identify};

/// A read that no order of the writes explains.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mismatch {
    /// The first byte of the first piece that is wrong.
    pub at: u64,
    /// What was found there: at most 32 bytes.
    pub found: Vec<u8>,
    /// Where these bytes come from, if that can be told: the stamp, and the offset it was written for.
    pub origin: Option<(Stamp, u64)>,
    /// How many bytes of the piece, and how many of them from its start on are from there.
    pub lens: (usize, usize),
    /// What could have been there.
    pub allowed: Vec<String>,
}

impl Mismatch {
    pub(super) fn new(at: u64, bytes: &[u8], allowed: Vec<String>) -> Self {
        let found = bytes.iter().take(32).copied().collect();
        let origin = identify(bytes);
        let same = origin.map_or(0, |(stamp, from)| {
            let whole = stamp.bytes(from, bytes.len() as u64);
            bytes.iter().zip(whole).take_while(|(found, stamped)| *found == stamped).count()
        });
        Self { at, found, origin, lens: (bytes.len(), same), allowed }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrong bytes at {} ({:#x}): ", show_len(self.at), self.at)?;
        match self.origin {
            Some((stamp, at)) if at == self.at => write!(f, "{stamp:?}")?,
            Some((stamp, at)) => write!(f, "{stamp:?}, written for {}", show_len(at))?,
            None if self.found.iter().all(|&byte| byte == 0) => f.write_str("zeroes")?,
            None => write!(f, "{:02x?}", self.found)?,
        }
        if let (Some(_), (whole, same)) = (self.origin, self.lens)
            && same < whole
        {
            write!(f, " in the first {same} of {whole} bytes")?;
        }
        write!(f, "; allowed: {}", self.allowed.join(", "))
    }
}

impl fmt::Debug for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
