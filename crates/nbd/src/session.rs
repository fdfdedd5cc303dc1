//! What both sides agreed on, and which requests it permits.
//!
//! ```text
//! RequestHeader ──admit──► Err(RequestError)                 close: where the next request starts is unknown, or an attack
//!                          Ok { payload, Err(Refusal) }      read and drop the payload, reply with the error
//!                          Ok { payload, Ok(Request) }       read the payload, run it
//! ```
//!
//! | what is wrong | answer | source |
//! |---|---|---|
//! | magic | close | framing is lost |
//! | payload above the larger of the maximum and 32 MiB | close | Spec "Block size constraints": may be an attack |
//! | extended `WRITE` without `PAYLOAD_LEN` | runs, data follow | a must of Spec "Request message" that the client of release 10.0 breaks |
//! | payload above the maximum, at most 32 MiB | drop it, `EINVAL` | same section: no attack |
//! | payload that a command does not take | drop it, `EINVAL` | Spec "Request message" |
//! | unknown command or flag, flag of another command, not offered | `EINVAL` | Spec "Error values" |
//! | writing command, read-only export | `EPERM` | Spec "Error values" |
//! | past the end | `ENOSPC` for `WRITE` and `WRITE_ZEROES`, else `EINVAL` | Spec "Error values" |
//! | not a multiple of the minimum block size | `EINVAL` | Spec "Block size constraints" |
//! | `READ` above the maximum | `EINVAL` | same section |
//! | `BLOCK_STATUS` of nothing | `EINVAL` | left open; at least one extent has to be reported |
//! | anything else of length 0 | runs | left open; must not disconnect |
//! | `FLUSH` with an offset or length | runs | reserved; as release 10.0 |
//!
//! Release 10.0 of the C tools differs in one row: it says `EINVAL` to a `WRITE` past the end.

use crate::error::NbdError;
use crate::export::{BlockSizes, ContextSet};
use crate::limit;
use crate::request::{Command, Request, RequestHeader};
use crate::wire::{CommandFlags, Style, TransmissionFlags};
use drystone_base::Be;
use std::ops::RangeInclusive;

/// What was negotiated. Small and `Copy`: each request is checked against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Which headers are used.
    pub style: Style,
    /// What the export offers.
    pub flags: TransmissionFlags,
    /// The length of the export.
    pub len_bytes: u64,
    /// The block sizes of the export.
    pub block: BlockSizes,
    /// The selected metadata contexts: on the server, indexes into [`crate::ExportInfo::contexts`], which are their numbers
    /// on the wire; on the client, indexes into its own list.
    pub contexts: ContextSet,
}

/// A header that does not end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// How many bytes follow the header. They have to be read in either case.
    pub payload_bytes: u32,
    /// The request, or the error to reply with.
    pub request: Result<Request, Refusal>,
}

/// A request that is answered with an error and not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The number to reply with.
    pub error: NbdError,
    /// The text to reply with.
    pub text: &'static str,
}

/// Why the connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The request does not start with the magic of the negotiated header.
    #[error("a request starts with {0:#010x}")]
    Magic(u32),
    /// The payload is so long that it may be an attack.
    #[error("a request with a payload of {0} bytes")]
    PayloadTooLong(u64),
}

/// Spec "`NBD_CMD_BLOCK_STATUS`": the payload is an effect length and at least one number of a context.
const STATUS_PAYLOAD_BYTES: RangeInclusive<u64> = 12..=8 + 4 * limit::CONTEXTS_MAX as u64;

const fn refuse<T>(error: NbdError, text: &'static str) -> Result<T, Refusal> {
    Err(Refusal { error, text })
}

const fn invalid<T>(text: &'static str) -> Result<T, Refusal> {
    refuse(NbdError::Invalid, text)
}

impl Session {
    /// Checks a header. See the table of this module.
    ///
    /// # Errors
    /// [`RequestError`] if the connection has to be closed.
    pub fn admit(&self, header: &RequestHeader) -> Result<Admitted, RequestError> {
        let payload_bytes = self.payload_bytes(header)?;
        Ok(Admitted { payload_bytes, request: self.check(header) })
    }

    /// How many bytes follow a header (Spec "Request message").
    fn payload_bytes(&self, header: &RequestHeader) -> Result<u32, RequestError> {
        let announced = self.style == Style::Extended && header.flags.has(CommandFlags::PAYLOAD_LEN);
        let present = announced || header.command == Command::Write as u16;
        let max = self.block.max_bytes.max(limit::PAYLOAD_BYTES_DEFAULT);
        match u32::try_from(header.len_bytes) {
            _ if !present => Ok(0),
            Ok(len) if len <= max => Ok(len),
            _ => Err(RequestError::PayloadTooLong(header.len_bytes)),
        }
    }

    fn check(&self, header: &RequestHeader) -> Result<Request, Refusal> {
        let RequestHeader { cookie, offset_bytes, len_bytes, flags, .. } = *header;
        let Some(command) = Command::from_wire(header.command) else { return invalid("unknown command") };
        let request = Request { cookie, offset_bytes, len_bytes, command, flags };
        if command == Command::Disconnect {
            return Ok(request);
        }
        if flags.without(self.allowed(command)) != CommandFlags::NONE {
            return invalid("a flag that this command does not take here");
        }
        let writes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes);
        if writes && self.flags.has(TransmissionFlags::READ_ONLY) {
            return refuse(NbdError::NotPermitted, "the export is read-only");
        }
        if !self.offers(command) {
            return invalid("the export does not offer this command");
        }
        let by_payload = flags.has(CommandFlags::PAYLOAD_LEN);
        match command {
            Command::Flush => Ok(request),
            Command::BlockStatus if !by_payload => self.check_range(&request),
            Command::BlockStatus if STATUS_PAYLOAD_BYTES.contains(&len_bytes) => Ok(request), // `status_request` checks it
            Command::BlockStatus => invalid("a payload of an impossible length"),
            _ => self.check_range(&request),
        }
    }

    /// Spec "Command flags": what may be set with a command.
    const fn allowed(&self, command: Command) -> CommandFlags {
        use CommandFlags as F;
        use TransmissionFlags as T;
        let mut flags = match command {
            Command::Read if self.flags.has(T::SEND_DF) => F::DF,
            Command::Write if matches!(self.style, Style::Extended) => F::PAYLOAD_LEN,
            Command::WriteZeroes if self.flags.has(T::SEND_FAST_ZERO) => F::NO_HOLE.with(F::FAST_ZERO),
            Command::WriteZeroes => F::NO_HOLE,
            Command::BlockStatus if self.flags.has(T::BLOCK_STATUS_PAYLOAD) => {
                F::REQ_ONE.with(F::PAYLOAD_LEN)
            }
            Command::BlockStatus => F::REQ_ONE,
            _ => F::NONE,
        };
        if self.flags.has(T::SEND_FUA) {
            flags = flags.with(F::FUA); // valid with every command, writing or not
        }
        flags
    }

    /// Spec "Transmission flags": whether the export offers a command.
    const fn offers(&self, command: Command) -> bool {
        use TransmissionFlags as T;
        match command {
            Command::Read | Command::Write | Command::Disconnect => true,
            Command::Flush => self.flags.has(T::SEND_FLUSH),
            Command::Trim => self.flags.has(T::SEND_TRIM),
            Command::Cache => self.flags.has(T::SEND_CACHE),
            Command::WriteZeroes => self.flags.has(T::SEND_WRITE_ZEROES),
            Command::BlockStatus => !self.contexts.is_empty(),
        }
    }

    fn check_range(&self, request: &Request) -> Result<Request, Refusal> {
        let Request { offset_bytes, len_bytes, command, .. } = *request;
        if offset_bytes.checked_add(len_bytes).is_none_or(|end| end > self.len_bytes) {
            let space = matches!(command, Command::Write | Command::WriteZeroes);
            return refuse(
                if space { NbdError::NoSpace } else { NbdError::Invalid },
                "past the end of the export",
            );
        }
        if (offset_bytes | len_bytes) & u64::from(self.block.min_bytes.saturating_sub(1)) != 0 {
            return invalid("not a multiple of the minimum block size");
        }
        match command {
            Command::Read | Command::Write if len_bytes > u64::from(self.block.max_bytes) => {
                invalid("longer than the maximum block size")
            }
            Command::BlockStatus if len_bytes == 0 => invalid("the status of nothing"),
            _ => Ok(*request),
        }
    }

    /// The request and the contexts that a `BLOCK_STATUS` is about, once its payload is here (empty if it has none).
    ///
    /// # Errors
    /// A [`Refusal`] for a payload of the wrong length, with an unselected or repeated context, or with a range that is
    /// refused. A request that was admitted has a payload of at most 264 bytes.
    pub fn status_request(
        &self,
        request: &Request,
        payload: &[u8],
    ) -> Result<(Request, ContextSet), Refusal> {
        if !request.flags.has(CommandFlags::PAYLOAD_LEN) {
            return Ok((*request, self.contexts));
        }
        let mut be = Be(payload);
        let mut asked = ContextSet::EMPTY;
        let len_bytes = be.u64().or_else(|_| invalid("a payload too short"))?;
        while !be.is_empty() {
            let id = be.u32().or_else(|_| invalid("a payload of a broken length"))?;
            if !self.contexts.contains(id) || !asked.insert(id) {
                return invalid("a context that is not selected or is named twice");
            }
        }
        if asked.is_empty() {
            return invalid("a payload without contexts");
        }
        let request =
            Request { len_bytes, flags: request.flags.without(CommandFlags::PAYLOAD_LEN), ..*request };
        Ok((self.check_range(&request)?, asked))
    }
}

#[cfg(test)]
mod tests;
