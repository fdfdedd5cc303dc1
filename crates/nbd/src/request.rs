//! Requests: parsed from the wire without allocation, encoded onto it.
//!
//! ```text
//! compact   magic 4 │ flags 2 │ command 2 │ cookie 8 │ offset 8 │ length 4
//! extended  magic 4 │ flags 2 │ command 2 │ cookie 8 │ offset 8 │ length 8
//! ```
//! Spec "Request message". A [`RequestHeader`] is what a peer said; [`crate::Session::admit`] makes a [`Request`] of it, or a
//! refusal, or ends the connection.

use crate::session::RequestError;
use crate::wire::{self, CommandFlags, Style, cmd};
use drystone_base::{Be, codec::Truncated};

/// A command that is understood (Spec "Request types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Read.
    Read = cmd::READ,
    /// Write; the data follow the header.
    Write = cmd::WRITE,
    /// Goodbye; there is no reply.
    Disconnect = cmd::DISC,
    /// Make acknowledged writes durable. Offset and length mean nothing.
    Flush = cmd::FLUSH,
    /// The contents are no longer needed.
    Trim = cmd::TRIM,
    /// The contents will be needed soon.
    Cache = cmd::CACHE,
    /// Write zeroes.
    WriteZeroes = cmd::WRITE_ZEROES,
    /// Ask for the status in the selected metadata contexts.
    BlockStatus = cmd::BLOCK_STATUS,
}

impl Command {
    /// The command of a number, if it is understood.
    #[must_use]
    pub const fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            cmd::READ => Self::Read,
            cmd::WRITE => Self::Write,
            cmd::DISC => Self::Disconnect,
            cmd::FLUSH => Self::Flush,
            cmd::TRIM => Self::Trim,
            cmd::CACHE => Self::Cache,
            cmd::WRITE_ZEROES => Self::WriteZeroes,
            cmd::BLOCK_STATUS => Self::BlockStatus,
            _ => return None,
        })
    }
}

/// A request that may be run, or one that a client wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The client's name for it; comes back in each reply.
    pub cookie: u64,
    /// Where on the export.
    pub offset_bytes: u64,
    /// How much of the export (of a `BLOCK_STATUS` with a payload: how long the payload is, until it was read).
    pub len_bytes: u64,
    /// What to do.
    pub command: Command,
    /// How.
    pub flags: CommandFlags,
}

impl Request {
    /// The header that asks for it. Extended headers announce the data of a `WRITE` by a flag.
    #[must_use]
    pub const fn header(&self, style: Style) -> RequestHeader {
        let flags = match (style, self.command) {
            (Style::Extended, Command::Write) => self.flags.with(CommandFlags::PAYLOAD_LEN),
            _ => self.flags,
        };
        RequestHeader {
            cookie: self.cookie,
            offset_bytes: self.offset_bytes,
            len_bytes: self.len_bytes,
            command: self.command as u16,
            flags,
        }
    }
}

/// A request header as it was on the wire: nothing in it is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// The client's name for the request.
    pub cookie: u64,
    /// Where on the export.
    pub offset_bytes: u64,
    /// How much of the export, or how long the payload is.
    pub len_bytes: u64,
    /// The number of the command.
    pub command: u16,
    /// Flags, unknown ones included.
    pub flags: CommandFlags,
}

impl RequestHeader {
    /// The header at the start of `bytes` and how many bytes it takes; `None` if it is not complete yet.
    ///
    /// # Errors
    /// [`RequestError::Magic`] as soon as the first four bytes are not those of the negotiated header: the place of the next
    /// request is unknown, so the connection has to be closed.
    pub fn parse(style: Style, bytes: &[u8]) -> Result<Option<(Self, usize)>, RequestError> {
        let mut be = Be(bytes);
        let Ok(magic) = be.u32() else { return Ok(None) };
        let expected = match style {
            Style::Simple | Style::Structured => wire::MAGIC_REQUEST,
            Style::Extended => wire::MAGIC_REQUEST_EXTENDED,
        };
        if magic != expected {
            return Err(RequestError::Magic(magic));
        }
        Ok(Self::parse_fields(style, be).ok().map(|header| (header, style.request_bytes())))
    }

    fn parse_fields(style: Style, mut be: Be<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            flags: CommandFlags::from_wire(be.u16()?),
            command: be.u16()?,
            cookie: be.u64()?,
            offset_bytes: be.u64()?,
            len_bytes: match style {
                Style::Simple | Style::Structured => u64::from(be.u32()?),
                Style::Extended => be.u64()?,
            },
        })
    }

    /// Writes the header to the start of `out`; the written part, or `None` if the length does not fit a compact header.
    pub fn encode(self, style: Style, out: &mut [u8; wire::REQUEST_EXTENDED_BYTES]) -> Option<&[u8]> {
        let (start, len) = out.split_first_chunk_mut::<24>()?;
        let magic = match style {
            Style::Simple | Style::Structured => {
                let (len, _) = len.split_first_chunk_mut::<4>()?;
                *len = u32::try_from(self.len_bytes).ok()?.to_be_bytes();
                wire::MAGIC_REQUEST
            }
            Style::Extended => {
                let (len, _) = len.split_first_chunk_mut::<8>()?;
                *len = self.len_bytes.to_be_bytes();
                wire::MAGIC_REQUEST_EXTENDED
            }
        };
        let words = [
            u64::from(magic) << 32 | u64::from(self.flags.to_wire()) << 16 | u64::from(self.command),
            self.cookie,
            self.offset_bytes,
        ];
        for (to, from) in start.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&from.to_be_bytes());
        }
        out.get(..style.request_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request = Request {
        cookie: 0x0102_0304_0506_0708,
        offset_bytes: 0x1112_1314_1516_1718,
        len_bytes: 0x2122_2324,
        command: Command::Write,
        flags: CommandFlags::FUA,
    };
    const COMPACT: [u8; 28] = *b"\x25\x60\x95\x13\x00\x01\x00\x01\x01\x02\x03\x04\x05\x06\x07\x08\
        \x11\x12\x13\x14\x15\x16\x17\x18\x21\x22\x23\x24";
    const EXTENDED: [u8; 32] = *b"\x21\xe4\x1c\x71\x00\x21\x00\x01\x01\x02\x03\x04\x05\x06\x07\x08\
        \x11\x12\x13\x14\x15\x16\x17\x18\x00\x00\x00\x00\x21\x22\x23\x24";

    #[test]
    fn headers_have_the_layout_of_the_specification() {
        for (style, golden) in
            [(Style::Simple, &COMPACT[..]), (Style::Structured, &COMPACT), (Style::Extended, &EXTENDED)]
        {
            let mut out = [0; 32];
            let header = REQUEST.header(style);
            assert_eq!(header.encode(style, &mut out), Some(golden));
            assert_eq!(RequestHeader::parse(style, golden), Ok(Some((header, golden.len()))));
        }
    }

    #[test]
    fn an_incomplete_header_is_awaited_and_a_wrong_one_is_seen_after_four_bytes() {
        for len in 0..EXTENDED.len() {
            assert_eq!(RequestHeader::parse(Style::Extended, &EXTENDED[..len]), Ok(None), "len {len}");
        }
        let error = Err(RequestError::Magic(0x2560_9513));
        assert_eq!(RequestHeader::parse(Style::Extended, &COMPACT[..4]), error);
        assert!(RequestHeader::parse(Style::Simple, &EXTENDED).is_err());
    }

    #[test]
    fn a_length_that_a_compact_header_cannot_hold_is_not_cut() {
        let header = RequestHeader { len_bytes: 1 << 32, ..REQUEST.header(Style::Simple) };
        assert_eq!(header.encode(Style::Simple, &mut [0; 32]), None);
        assert!(header.encode(Style::Extended, &mut [0; 32]).is_some());
    }

    #[test]
    fn hot_structs_stay_small() {
        assert!(size_of::<Request>() <= 32);
        assert!(size_of::<RequestHeader>() <= 32);
    }
}
