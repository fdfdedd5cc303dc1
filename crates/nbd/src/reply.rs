//! Replies of a server: heads written into arrays of the caller, without allocation.
//!
//! ```text
//! simple      magic 4 │ error 4 │ cookie 8
//! structured  magic 4 │ flags 2 │ type 2 │ cookie 8 │ length 4
//! extended    magic 4 │ flags 2 │ type 2 │ cookie 8 │ offset 8 │ length 8
//!                        then by type:  data    offset 8 │ the data (not written here)
//!                                       hole    offset 8 │ length 4
//!                                       error   error 4  │ length 2 │ text │ (offset 8)
//!                                       status  context 4 │ (count 4) │ extents
//! ```
//! Spec "Simple reply message", "Structured reply chunk message", "Extended reply chunk message", "Structured reply types".
//!
//! Invariant: a structured session never gets a simple reply (Spec allows some; a client that reads chunks only is happy),
//! and an extended one never gets `BLOCK_STATUS` of 32 bits.

use crate::error::NbdError;
use crate::limit;
use crate::request::Request;
use crate::wire::{self, CommandFlags, Style, chunk};

/// The longest head that precedes data or extents.
pub const HEAD_BYTES_MAX: usize = 32 + 12;
/// The longest error reply.
pub const ERROR_BYTES_MAX: usize = 32 + 6 + limit::ERROR_TEXT_BYTES_MAX + 8;
/// Room for a head.
pub type HeadBuf = [u8; HEAD_BYTES_MAX];
/// Room for an error reply.
pub type ErrorBuf = [u8; ERROR_BYTES_MAX];

/// Where a reply belongs: the session's style and what the request said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    style: Style,
    cookie: u64,
    offset_request: u64,
}

impl ReplyTo {
    /// Replies to the request with this cookie at this offset.
    #[must_use]
    pub const fn new(style: Style, cookie: u64, offset_request: u64) -> Self {
        Self { style, cookie, offset_request }
    }

    /// The whole reply to a request that succeeded and returns nothing, or the end of a reply in chunks.
    pub fn done(self, out: &mut HeadBuf) -> &[u8] {
        let mut put = Put::new(out);
        match self.style {
            Style::Simple => self.simple(&mut put, 0),
            Style::Structured | Style::Extended => self.chunk(&mut put, chunk::DONE, chunk::NONE, 0),
        }
        put.finish()
    }

    /// The head of `len_bytes` data at `offset_bytes` of the export; the data have to follow. `done` if it is the last chunk
    /// and no error can follow: once a chunk has started, its data have to be sent to the end.
    ///
    /// # Panics
    /// If it is not done and either empty (a chunk describes at least a byte) or of the simple style (all the data of a
    /// request are one piece). The reply to a read of nothing is done.
    pub fn data(self, out: &mut HeadBuf, offset_bytes: u64, len_bytes: u32, done: bool) -> &[u8] {
        if len_bytes == 0 || self.style == Style::Simple {
            assert!(done, "an empty piece, or a simple reply in pieces");
            return self.done(out);
        }
        let mut put = Put::new(out);
        self.chunk(&mut put, u16::from(done), chunk::OFFSET_DATA, 8 + u64::from(len_bytes));
        put.bytes(offset_bytes.to_be_bytes());
        put.finish()
    }

    /// The chunk that says that `len_bytes` (not 0) at `offset_bytes` read as zeroes; `None` if the style has no holes.
    /// Not in reply to a request with `DF`, unless the hole is all of it.
    pub fn hole(self, out: &mut HeadBuf, offset_bytes: u64, len_bytes: u32, done: bool) -> Option<&[u8]> {
        if self.style == Style::Simple {
            return None;
        }
        let mut put = Put::new(out);
        self.chunk(&mut put, u16::from(done), chunk::OFFSET_HOLE, 12);
        put.bytes(offset_bytes.to_be_bytes());
        put.bytes(len_bytes.to_be_bytes());
        Some(put.finish())
    }

    /// The end of a reply to a request that failed, perhaps `at` a certain offset inside it. The text is cut to
    /// [`limit::ERROR_TEXT_BYTES_MAX`] bytes; a simple reply has no room for it.
    pub fn error<'b>(self, out: &'b mut ErrorBuf, error: NbdError, at: Option<u64>, text: &str) -> &'b [u8] {
        let mut put = Put::new(out);
        if self.style == Style::Simple {
            self.simple(&mut put, error.to_wire());
            return put.finish();
        }
        let text = cut(text);
        let text_bytes = u16::try_from(text.len()).unwrap_or(0); // `cut` made it short
        let (kind, fixed) = if at.is_some() { (chunk::ERROR_OFFSET, 14) } else { (chunk::ERROR, 6) };
        self.chunk(&mut put, chunk::DONE, kind, fixed + u64::from(text_bytes));
        put.bytes(error.to_wire().to_be_bytes());
        put.bytes(text_bytes.to_be_bytes());
        put.slice(text.as_bytes());
        if let Some(offset) = at {
            put.bytes(offset.to_be_bytes());
        }
        put.finish()
    }

    fn simple(self, put: &mut Put<'_>, error: u32) {
        put.bytes(wire::MAGIC_REPLY_SIMPLE.to_be_bytes());
        put.bytes(error.to_be_bytes());
        put.bytes(self.cookie.to_be_bytes());
    }

    fn chunk(self, put: &mut Put<'_>, flags: u16, kind: u16, payload_bytes: u64) {
        let extended = self.style == Style::Extended;
        let magic = if extended { wire::MAGIC_REPLY_EXTENDED } else { wire::MAGIC_REPLY_STRUCTURED };
        put.bytes(magic.to_be_bytes());
        put.bytes(flags.to_be_bytes());
        put.bytes(kind.to_be_bytes());
        put.bytes(self.cookie.to_be_bytes());
        if extended {
            put.bytes(self.offset_request.to_be_bytes());
            put.bytes(payload_bytes.to_be_bytes());
        } else {
            // Data are at most 2^32 - 1 - 8 long (`len_bytes` of a read is limited by the block size), the rest is short.
            put.bytes(u32::try_from(payload_bytes).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

/// One status chunk in the making: the extents of one context, from the request's offset on.
///
/// Keeps the rules of Spec "`NBD_REPLY_TYPE_BLOCK_STATUS`" whatever is pushed: no empty extent, neighbours of one status
/// are one extent, nothing past the request, one extent if the client wants one.
#[derive(Debug)]
pub struct StatusChunk<'b> {
    to: ReplyTo,
    out: &'b mut [u8],
    extents_max: usize,
    extents: usize,
    last: (u64, u32),
    left_bytes: u64,
}

impl<'b> StatusChunk<'b> {
    /// An empty chunk whose extents are written to `out`: 8 bytes each, or 16 with extended headers.
    ///
    /// # Panics
    /// If `out` has no room for an extent.
    #[must_use]
    pub fn new(to: ReplyTo, request: &Request, out: &'b mut [u8]) -> Self {
        let room = out.len() / Self::extent_bytes(to.style);
        assert!(room > 0, "no room for an extent");
        let extents_max = if request.flags.has(CommandFlags::REQ_ONE) { 1 } else { room };
        Self { to, out, extents_max, extents: 0, last: (0, 0), left_bytes: request.len_bytes }
    }

    const fn extent_bytes(style: Style) -> usize {
        match style {
            Style::Simple | Style::Structured => 8,
            Style::Extended => 16,
        }
    }

    /// Adds the next `len_bytes`, which have this status; whether more is wanted.
    pub fn push(&mut self, len_bytes: u64, status: u32) -> bool {
        let len = len_bytes.min(self.left_bytes);
        if len == 0 {
            return self.left_bytes > 0;
        }
        if self.extents > 0 && self.last.1 == status {
            self.last.0 += len;
        } else if self.extents < self.extents_max {
            self.extents += 1;
            self.last = (len, status);
        } else {
            self.left_bytes = 0; // a later extent must not follow the gap
            return false;
        }
        self.left_bytes -= len;
        self.write_last();
        self.left_bytes > 0
    }

    fn write_last(&mut self) {
        let (len, status) = self.last;
        let width = Self::extent_bytes(self.to.style);
        let at = (self.extents - 1) * width;
        let Some(slot) = self.out.get_mut(at..at + width) else { return };
        let mut put = Put::new(slot);
        if self.to.style == Style::Extended {
            put.bytes(len.to_be_bytes());
            put.bytes(u64::from(status).to_be_bytes());
        } else {
            // No longer than the request, whose length has 32 bits in this style.
            put.bytes(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
            put.bytes(status.to_be_bytes());
        }
    }

    /// The head and the extents, to be sent one after the other. `done` if it is the last context.
    ///
    /// # Panics
    /// If nothing was pushed: a status chunk has at least one extent.
    #[must_use]
    pub fn finish<'h>(self, context: u32, done: bool, head: &'h mut HeadBuf) -> (&'h [u8], &'b [u8]) {
        assert!(self.extents > 0, "a status chunk has at least one extent");
        let extents_bytes = self.extents * Self::extent_bytes(self.to.style);
        let mut put = Put::new(head);
        if self.to.style == Style::Extended {
            self.to.chunk(&mut put, u16::from(done), chunk::BLOCK_STATUS_EXT, 8 + extents_bytes as u64);
            put.bytes(context.to_be_bytes());
            put.bytes(u32::try_from(self.extents).unwrap_or(0).to_be_bytes()); // 0: see the length
        } else {
            self.to.chunk(&mut put, u16::from(done), chunk::BLOCK_STATUS, 4 + extents_bytes as u64);
            put.bytes(context.to_be_bytes());
        }
        (put.finish(), self.out.get(..extents_bytes).unwrap_or_default())
    }
}

/// The longest start of `text` that fits an error chunk and ends between two characters.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(limit::ERROR_TEXT_BYTES_MAX)).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Writes fields one after the other. The arrays of this module are sized for the longest message, so that running out of
/// room is a mistake of this module.
struct Put<'b> {
    out: &'b mut [u8],
    used: usize,
}

impl<'b> Put<'b> {
    const fn new(out: &'b mut [u8]) -> Self {
        Self { out, used: 0 }
    }

    #[inline]
    fn bytes<const N: usize>(&mut self, value: [u8; N]) {
        self.slice(&value);
    }

    #[inline]
    fn slice(&mut self, value: &[u8]) {
        let end = self.used + value.len();
        let slot = self.out.get_mut(self.used..end);
        assert!(slot.is_some(), "a message longer than its buffer");
        if let Some(slot) = slot {
            slot.copy_from_slice(value);
        }
        self.used = end;
    }

    fn finish(self) -> &'b [u8] {
        self.out.get(..self.used).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
