//! Requests out, replies in.
//!
//! [`Transmission::begin`] registers a request and writes its header; a `WRITE`'s data follow it. [`Transmission::next`] reads
//! the server's stream from any position between events: feed what is there, drop the bytes that it used, read `len_bytes` of
//! data yourself after a [`What::Data`] (straight into the buffer where they belong), feed again.
//!
//! Each reply is compared with what was asked. Anything that does not fit is a [`ReplyError`]: what the stream means is no
//! longer certain, so the connection has to be closed and its requests are not answered.
//!
//! Tolerated beyond the specification: `BLOCK_STATUS` of 32 bits with extended headers, and a last extent that reaches past
//! the end of the export (it is cut there).

use super::fact::ExportFacts;
use super::pending::Asked;
use crate::error::NbdError;
use crate::export::ContextSet;
use crate::limit;
use crate::request::{Command, Request};
use crate::session::{Refusal, RequestError, Session};
use crate::wire::{self, CommandFlags, Style, chunk};
use drystone_base::{Be, Error, Kind, codec::Truncated};
use std::collections::BTreeMap;

/// The client's side of a connection after the handshake.
#[derive(Debug)]
pub struct Transmission {
    session: Session,
    facts: ExportFacts,
    asked: BTreeMap<u64, Asked>,
    status: Option<StatusRun>,
}

/// A status chunk that is being read.
#[derive(Debug, Clone, Copy)]
struct StatusRun {
    cookie: u64,
    context: u32,
    wide: bool,
    done: bool,
    extents_left: u64,
    offset_bytes: u64,
}

/// What a server said about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'i> {
    /// The request.
    pub cookie: u64,
    /// What it said.
    pub what: What<'i>,
    /// The outcome, if nothing more comes about this request. Bytes of a [`What::Data`] still have to be read.
    pub end: Option<Result<(), NbdError>>,
}

/// One piece of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'i> {
    /// Nothing but the end.
    Nothing,
    /// The next `len_bytes` of the stream are the data at this offset of the export.
    Data {
        /// Where on the export.
        offset_bytes: u64,
        /// How many bytes follow the event.
        len_bytes: u64,
    },
    /// These bytes of the export are zeroes.
    Hole {
        /// Where on the export.
        offset_bytes: u64,
        /// How many bytes.
        len_bytes: u64,
    },
    /// The status of the next extent in a context.
    Extent {
        /// An index into [`ExportFacts::contexts`].
        context: u32,
        /// Where on the export.
        offset_bytes: u64,
        /// How many bytes; never 0.
        len_bytes: u64,
        /// The status, whose meaning is the context's.
        status: u64,
    },
    /// An error, and more may come.
    Error {
        /// Which.
        error: NbdError,
        /// Where, if the server said it.
        offset_bytes: Option<u64>,
        /// The server's words, as they came.
        text: &'i [u8],
    },
}

/// A reply that does not fit what was asked. The connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not a reply of the negotiated style.
    #[error("a reply starts with {0:#010x}")]
    Magic(u32),
    /// No request in flight has this cookie.
    #[error("a reply to {0:#x}, which was not asked")]
    UnknownCookie(u64),
    /// Spec "Extended reply chunk message": the offset has to be the request's.
    #[error("a reply with another offset than its request")]
    Offset,
    /// A kind of chunk that is unknown or is no answer to the request.
    #[error("a reply of a kind that does not answer its request")]
    Kind,
    /// A length that its kind cannot have, or above a limit.
    #[error("a reply of the wrong length")]
    Length,
    /// Content or an error outside the request.
    #[error("a reply about bytes that were not asked for")]
    OutOfRange,
    /// Bytes that came before.
    #[error("a reply with the same bytes twice")]
    Overlap,
    /// More pieces than `DF` or [`limit::READ_ISLANDS_MAX`] permit.
    #[error("a read in too many pieces")]
    Fragmented,
    /// A context that was not selected or came before.
    #[error("a status of a context that was not selected, or twice")]
    Context,
    /// Extents that are empty or more than were asked for.
    #[error("impossible extents")]
    Extent,
    /// The end before everything came.
    #[error("a reply that ends early")]
    Incomplete,
}

impl From<ReplyError> for Error {
    fn from(cause: ReplyError) -> Self {
        Self::new(Kind::Disconnected, "the NBD server broke the protocol").because(cause)
    }
}

/// A request that must not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A request in flight has this cookie.
    #[error("the cookie is in use")]
    CookieInUse,
    /// [`limit::IN_FLIGHT_MAX`] requests are in flight.
    #[error("too many requests in flight")]
    TooMany,
    /// The length does not fit a compact header.
    #[error("the request is too long")]
    TooLong,
    /// The server would refuse it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server would close the connection.
    #[error(transparent)]
    Forbidden(#[from] RequestError),
}

/// The start of a reply: what all styles have in common.
struct Head {
    cookie: u64,
    flags: u16,
    kind: u16,
    len: u64,
}

/// Either more bytes are needed, or it is wrong for good.
enum Stop {
    More,
    Wrong(ReplyError),
}

impl From<Truncated> for Stop {
    fn from(_: Truncated) -> Self {
        Self::More
    }
}

impl From<ReplyError> for Stop {
    fn from(error: ReplyError) -> Self {
        Self::Wrong(error)
    }
}

impl Transmission {
    pub(super) fn new(style: Style, facts: ExportFacts) -> Self {
        let mut contexts = ContextSet::EMPTY;
        for (index, _) in (0..).zip(&facts.contexts) {
            contexts.insert(index);
        }
        let ExportFacts { len_bytes, flags, block, .. } = facts;
        let session = Session { style, flags, len_bytes, block, contexts };
        Self { session, facts, asked: BTreeMap::new(), status: None }
    }

    /// What was negotiated.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// What the server said about the export.
    #[must_use]
    pub const fn facts(&self) -> &ExportFacts {
        &self.facts
    }

    /// The cookies of the requests in flight, ascending.
    pub fn in_flight(&self) -> impl Iterator<Item = u64> {
        self.asked.keys().copied()
    }

    /// Registers a request and writes its header to the start of `out`; the written part has to be sent, then the data of a
    /// `WRITE`. A `BLOCK_STATUS` asks for all selected contexts. A [`Command::Disconnect`] has no reply and is not registered.
    ///
    /// # Errors
    /// [`SendError`] if the server would refuse it, or it cannot be told from another; nothing is registered then.
    pub fn begin<'o>(
        &mut self,
        request: &Request,
        out: &'o mut [u8; wire::REQUEST_EXTENDED_BYTES],
    ) -> Result<&'o [u8], SendError> {
        let request = Request { flags: request.flags.without(CommandFlags::PAYLOAD_LEN), ..*request };
        let header = request.header(self.session.style);
        self.session.admit(&header)?.request?;
        if self.asked.contains_key(&request.cookie) {
            return Err(SendError::CookieInUse);
        }
        if self.asked.len() >= limit::IN_FLIGHT_MAX {
            return Err(SendError::TooMany);
        }
        let bytes = header.encode(self.session.style, out).ok_or(SendError::TooLong)?;
        if request.command != Command::Disconnect {
            self.asked.insert(request.cookie, Asked::new(request));
        }
        Ok(bytes)
    }

    /// The next event at the start of `input` and how many bytes it used; `None` if more bytes are needed, of which
    /// [`limit::LOOKAHEAD_BYTES`] always suffice.
    ///
    /// # Errors
    /// [`ReplyError`] if the connection has to be closed.
    pub fn next<'i>(&mut self, input: &'i [u8]) -> Result<Option<(usize, Event<'i>)>, ReplyError> {
        let mut be = Be(input);
        let result = match self.status {
            Some(run) => self.extent(run, &mut be),
            None => self.reply(&mut be),
        };
        match result {
            Ok(event) => {
                if event.end.is_some() {
                    self.asked.remove(&event.cookie);
                }
                Ok(Some((input.len() - be.len(), event)))
            }
            Err(Stop::More) => Ok(None),
            Err(Stop::Wrong(error)) => Err(error),
        }
    }

    fn reply<'i>(&mut self, be: &mut Be<'i>) -> Result<Event<'i>, Stop> {
        let style = self.session.style;
        let magic = be.u32()?;
        match (magic, style) {
            (wire::MAGIC_REPLY_SIMPLE, Style::Simple | Style::Structured) => self.simple(be),
            (wire::MAGIC_REPLY_STRUCTURED, Style::Structured)
            | (wire::MAGIC_REPLY_EXTENDED, Style::Extended) => {
                let (flags, kind, cookie) = (be.u16()?, be.u16()?, be.u64()?);
                let asked = self.asked.get(&cookie).ok_or(ReplyError::UnknownCookie(cookie))?;
                let len = if style == Style::Extended {
                    if be.u64()? != asked.request.offset_bytes {
                        return Err(ReplyError::Offset.into());
                    }
                    be.u64()?
                } else {
                    u64::from(be.u32()?)
                };
                self.chunk(&Head { cookie, flags, kind, len }, be)
            }
            _ => Err(ReplyError::Magic(magic).into()),
        }
    }

    /// Spec "Simple reply message": with structured replies only where nothing is returned.
    fn simple(&self, be: &mut Be<'_>) -> Result<Event<'static>, Stop> {
        let (error, cookie) = (be.u32()?, be.u64()?);
        let asked = self.asked.get(&cookie).ok_or(ReplyError::UnknownCookie(cookie))?;
        let Request { command, offset_bytes, len_bytes, .. } = asked.request;
        let simple = self.session.style == Style::Simple;
        let what = match command {
            Command::Read if !simple => return Err(ReplyError::Kind.into()),
            Command::BlockStatus if error == 0 => return Err(ReplyError::Kind.into()),
            Command::Read if error == 0 && len_bytes > 0 => What::Data { offset_bytes, len_bytes },
            _ => What::Nothing,
        };
        let said = (error != 0).then(|| NbdError::from_wire(error));
        Ok(Event { cookie, what, end: Some(asked.error.or(said).map_or(Ok(()), Err)) })
    }

    /// Spec "Structured reply types".
    fn chunk<'i>(&mut self, head: &Head, be: &mut Be<'i>) -> Result<Event<'i>, Stop> {
        let done = head.flags & chunk::DONE != 0;
        let what = match head.kind {
            chunk::NONE if head.len != 0 || !done => return Err(ReplyError::Length.into()),
            chunk::NONE => What::Nothing,
            chunk::OFFSET_DATA | chunk::OFFSET_HOLE => self.content(head, be)?,
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => return self.status_head(head, be),
            kind if kind & chunk::ERROR_BIT != 0 => self.error(head, be)?,
            _ => return Err(ReplyError::Kind.into()),
        };
        self.event(head.cookie, what, done)
    }

    fn event<'i>(&self, cookie: u64, what: What<'i>, done: bool) -> Result<Event<'i>, Stop> {
        let asked = self.asked.get(&cookie).ok_or(ReplyError::UnknownCookie(cookie))?;
        let end = if done { Some(asked.outcome(self.session.contexts)?) } else { None };
        Ok(Event { cookie, what, end })
    }

    fn asked(&mut self, cookie: u64) -> Result<&mut Asked, ReplyError> {
        self.asked.get_mut(&cookie).ok_or(ReplyError::UnknownCookie(cookie))
    }

    fn content(&mut self, head: &Head, be: &mut Be<'_>) -> Result<What<'static>, Stop> {
        let data = head.kind == chunk::OFFSET_DATA;
        if if data { head.len < 9 } else { head.len != 12 } {
            return Err(ReplyError::Length.into());
        }
        let offset_bytes = be.u64()?;
        let len_bytes = if data { head.len - 8 } else { u64::from(be.u32()?) };
        self.asked(head.cookie)?.content(offset_bytes, len_bytes)?;
        Ok(if data { What::Data { offset_bytes, len_bytes } } else { What::Hole { offset_bytes, len_bytes } })
    }

    /// Spec "Structured reply types": an unknown kind of error is an error all the same, if its message fits.
    fn error<'i>(&mut self, head: &Head, be: &mut Be<'i>) -> Result<What<'i>, Stop> {
        if head.len > limit::ERROR_CHUNK_BYTES_MAX {
            return Err(ReplyError::Length.into());
        }
        let mut payload = Be(be.take(usize::try_from(head.len).unwrap_or(usize::MAX))?);
        let (error, text, offset_bytes) =
            parse_error(head.kind, &mut payload).map_err(|_| ReplyError::Length)?;
        if error == 0 {
            return Err(ReplyError::Kind.into());
        }
        let error = NbdError::from_wire(error);
        self.asked(head.cookie)?.fail(error, offset_bytes)?;
        Ok(What::Error { error, offset_bytes, text })
    }

    /// The head of a status chunk, and its first extent. Both have to be there: an event is something that was said.
    fn status_head<'i>(&mut self, head: &Head, be: &mut Be<'i>) -> Result<Event<'i>, Stop> {
        let wide = head.kind == chunk::BLOCK_STATUS_EXT;
        let (fixed, each) = if wide { (8, 16) } else { (4, 8) };
        let extents_bytes = head.len.saturating_sub(fixed);
        let extents_left = extents_bytes / each;
        if extents_left == 0 || extents_bytes % each != 0 || extents_left > limit::STATUS_EXTENTS_MAX {
            return Err(ReplyError::Length.into());
        }
        let id = be.u32()?;
        let count = if wide { u64::from(be.u32()?) } else { 0 };
        if count != 0 && count != extents_left {
            return Err(ReplyError::Length.into());
        }
        let extended = self.session.style == Style::Extended;
        let context = (0_u32..).zip(&self.facts.contexts).find(|(_, (known, _))| *known == id);
        let (context, _) = context.ok_or(ReplyError::Context)?;
        let (cookie, done) = (head.cookie, head.flags & chunk::DONE != 0);
        let asked = self.asked(cookie)?;
        let request = asked.request;
        if request.command != Command::BlockStatus || (wide && !extended) {
            return Err(ReplyError::Kind.into());
        }
        if extents_left > 1 && request.flags.has(CommandFlags::REQ_ONE) {
            return Err(ReplyError::Extent.into());
        }
        if be.len() < if wide { 16 } else { 8 } {
            return Err(Stop::More);
        }
        asked.status(context)?;
        let offset_bytes = request.offset_bytes;
        self.extent(StatusRun { cookie, context, wide, done, extents_left, offset_bytes }, be)
    }

    /// Spec "`NBD_REPLY_TYPE_BLOCK_STATUS`": only the last extent may reach past the request.
    fn extent<'i>(&mut self, run: StatusRun, be: &mut Be<'i>) -> Result<Event<'i>, Stop> {
        let (len, status) =
            if run.wide { (be.u64()?, be.u64()?) } else { (u64::from(be.u32()?), u64::from(be.u32()?)) };
        let request = self.asked(run.cookie)?.request;
        let (last, one) = (run.extents_left == 1, request.flags.has(CommandFlags::REQ_ONE));
        let left_request = request.offset_bytes + request.len_bytes - run.offset_bytes; // more than 0, see below
        if len == 0 || (!last && len >= left_request) || (one && len > left_request) {
            return Err(ReplyError::Extent.into());
        }
        let len_bytes = len.min(self.session.len_bytes - run.offset_bytes);
        let StatusRun { cookie, context, offset_bytes, .. } = run;
        self.status = (!last).then_some(StatusRun {
            extents_left: run.extents_left - 1,
            offset_bytes: offset_bytes + len_bytes,
            ..run
        });
        self.event(cookie, What::Extent { context, offset_bytes, len_bytes, status }, last && run.done)
    }
}

fn parse_error<'i>(kind: u16, be: &mut Be<'i>) -> Result<(u32, &'i [u8], Option<u64>), Truncated> {
    let (error, len) = (be.u32()?, be.u16()?);
    if usize::from(len) > limit::STRING_BYTES_MAX {
        return Err(Truncated);
    }
    let text = be.take(usize::from(len))?;
    let offset = if kind == chunk::ERROR_OFFSET { Some(be.u64()?) } else { None };
    Ok((error, text, offset))
}
