//! The server's side of the handshake.
//!
//! ```text
//!                ┌──────────────── answered ────────────────┐
//!                ▼                                          │
//! ClientFlags ─► Option ─┬─ data that matter ─► Data ───────┼─► Transmission, Aborted
//!                        └─ data that do not ─► Skip ───────┘
//! anywhere: garbage, a limit, an EXPORT_NAME that cannot be satisfied ─► error, close
//! ```
//! Which option is answered how, and when, is the table in `rule.rs`. Bytes come in pieces of any size; answers are appended to
//! the caller's vector. After each answered option [`ServerHandshake::receive`] returns, so that the caller can send it before
//! it feeds more: a client that asks and never reads is stopped by its own socket, not by our memory.
//!
//! TLS: the policy is "none". `STARTTLS` is a row of the table; a server that has TLS changes that row, returns a step "start
//! TLS", and begins a new handshake without a greeting inside it (Spec "`NBD_OPT_STARTTLS`": no state is kept).
//!
//! Not here: time limits, exports' lives ([`crate::Exports`] is asked at each option), what follows the handshake.

mod answer;
mod option;
mod rule;

use crate::export::{ContextSet, ExportInfo, Exports};
use crate::gather::Gather;
use crate::limit;
use crate::session::Session;
use crate::wire::{self, Style, handshake, opt, rep};
use drystone_base::{Be, BeMut, Error, Kind};
use option::{InfoRequest, MetaRequest, name_of};
use rule::{Answer, Mode, Plan};
use std::sync::Arc;

use answer::Refused;

/// A handshake in progress. At most [`limit::OPTION_BYTES_MAX`] of input are kept.
#[derive(Debug)]
pub struct ServerHandshake {
    state: State,
    mode: Mode,
    no_zeroes: bool,
    gather: Gather,
    selected: Option<Selection>,
    options: u32,
    bytes: u64,
}

/// What is read next.
#[derive(Debug, Clone, Copy)]
enum State {
    ClientFlags,
    Option,
    Data { option: u32, len: u32, answer: Answer },
    Skip { option: u32, left: u32, answer: Answer },
    Over,
}

/// The contexts that `SET_META_CONTEXT` selected, and of which export.
#[derive(Debug)]
struct Selection {
    info: Arc<ExportInfo>,
    contexts: ContextSet,
}

/// Where a handshake stands after some input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send the output, then feed what is left of the input and more.
    More,
    /// Send the output; what is left of the input are requests.
    Transmission(Negotiated),
    /// Send the output if possible and close: the client said goodbye.
    Aborted,
}

/// What a handshake led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The embedder's number of the export. It existed a moment ago; it may be gone.
    pub export: u64,
    /// Whether the client wanted no zeroes behind the answer to `EXPORT_NAME`.
    pub no_zeroes: bool,
    /// What holds for each request.
    pub session: Session,
}

/// Why a handshake was given up. The connection has to be closed; nothing can be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Spec "Client flags": unknown flags have to end the session.
    #[error("unknown client flags {0:#x}")]
    ClientFlags(u32),
    /// Something else than an option.
    #[error("an option starts with {0:#018x}")]
    OptionMagic(u64),
    /// Data above [`limit::OPTION_SKIP_BYTES_MAX`].
    #[error("option {option} has {len} bytes of data")]
    OptionTooLong {
        /// The option.
        option: u32,
        /// The claimed length of its data.
        len: u32,
    },
    /// Spec "Newstyle negotiation": without `FIXED_NEWSTYLE` there are no answers.
    #[error("option {0} from a client that takes no answers")]
    NotFixed(u32),
    /// Spec "`NBD_OPT_EXPORT_NAME`": has to end the session.
    #[error("there is no export '{0}', and the client's option cannot be refused otherwise")]
    UnknownExport(String),
    /// A name of an `EXPORT_NAME` that no export can have.
    #[error("a name that is not a string of the protocol")]
    BadName,
    /// Spec "`NBD_OPT_EXTENDED_HEADERS`": it must not be followed by `EXPORT_NAME`.
    #[error("EXPORT_NAME after extended headers")]
    ExportNameExtended,
    /// Above [`limit::OPTIONS_MAX`] or [`limit::HANDSHAKE_BYTES_MAX`].
    #[error("the handshake does not end")]
    Endless,
    /// Input after the end of the handshake, or after an error.
    #[error("the handshake is over")]
    Over,
}

impl From<HandshakeError> for Error {
    fn from(cause: HandshakeError) -> Self {
        Self::new(Kind::Disconnected, "the NBD client broke the protocol").because(cause)
    }
}

impl ServerHandshake {
    /// Greets a client: appends the greeting to `output`.
    #[must_use]
    pub fn new(output: &mut Vec<u8>) -> Self {
        let flags = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        BeMut(output).u64(wire::MAGIC_INIT).u64(wire::MAGIC_OPTION).u16(flags);
        Self {
            state: State::ClientFlags,
            mode: Mode::Unfixed,
            no_zeroes: false,
            gather: Gather::default(),
            selected: None,
            options: 0,
            bytes: 0,
        }
    }

    /// Takes bytes from the client and appends answers to `output`. Returns how many bytes were used, which is less than all
    /// if an option was answered; the rest belongs to the next call, or to the transmission.
    ///
    /// # Errors
    /// [`HandshakeError`] if the connection has to be closed. `output` is then worth sending only for what it held before.
    pub fn receive(
        &mut self,
        exports: &dyn Exports,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Step), HandshakeError> {
        let mut rest = input;
        let result = self.run(exports, &mut rest, output);
        let used = input.len() - rest.len();
        self.bytes = self.bytes.saturating_add(used as u64);
        let result = match result {
            Ok(Step::More) if self.bytes > limit::HANDSHAKE_BYTES_MAX => Err(HandshakeError::Endless),
            other => other,
        };
        if result != Ok(Step::More) {
            self.state = State::Over;
            self.gather.take();
        }
        Ok((used, result?))
    }

    fn run(
        &mut self,
        exports: &dyn Exports,
        rest: &mut &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Step, HandshakeError> {
        loop {
            match self.state {
                State::ClientFlags if self.gather.fill(4, rest) => self.client_flags()?,
                State::Option if self.gather.fill(wire::OPTION_HEAD_BYTES, rest) => self.option_head()?,
                State::Data { option, len, answer } if self.gather.fill(usize_of(len), rest) => {
                    self.state = State::Option;
                    let data = self.gather.take();
                    return self.answer(answer, option, &data, exports, output);
                }
                State::Skip { option, left, answer } => {
                    let (skipped, later) = rest.split_at(usize_of(left).min(rest.len()));
                    *rest = later;
                    let left = left - u32::try_from(skipped.len()).unwrap_or(left);
                    if left == 0 {
                        self.state = State::Option;
                        return self.answer(answer, option, &[], exports, output);
                    }
                    self.state = State::Skip { option, left, answer };
                    return Ok(Step::More);
                }
                State::ClientFlags | State::Option | State::Data { .. } => return Ok(Step::More),
                State::Over => return Err(HandshakeError::Over),
            }
        }
    }

    fn client_flags(&mut self) -> Result<(), HandshakeError> {
        let data = self.gather.take();
        let flags = Be(&data).u32().unwrap_or(u32::MAX);
        let (fixed, no_zeroes) = (u32::from(handshake::FIXED_NEWSTYLE), u32::from(handshake::NO_ZEROES));
        if flags & !(fixed | no_zeroes) != 0 {
            return Err(HandshakeError::ClientFlags(flags));
        }
        self.mode = if flags & fixed != 0 { Mode::Haggling(Style::Simple) } else { Mode::Unfixed };
        self.no_zeroes = flags & no_zeroes != 0;
        self.state = State::Option;
        Ok(())
    }

    fn option_head(&mut self) -> Result<(), HandshakeError> {
        let data = self.gather.take();
        let mut be = Be(&data);
        let (magic, option, len) =
            (be.u64().unwrap_or(0), be.u32().unwrap_or(0), be.u32().unwrap_or(u32::MAX));
        if magic != wire::MAGIC_OPTION {
            return Err(HandshakeError::OptionMagic(magic));
        }
        self.options += 1;
        if self.options > limit::OPTIONS_MAX {
            return Err(HandshakeError::Endless);
        }
        self.state = match rule::plan(self.mode, option, len)? {
            Plan::Keep(answer) => State::Data { option, len, answer },
            Plan::Skip(answer) => State::Skip { option, left: len, answer },
        };
        Ok(())
    }

    /// Answers an option whose data are complete (or were skipped because they do not matter).
    fn answer(
        &mut self,
        answer: Answer,
        option: u32,
        data: &[u8],
        exports: &dyn Exports,
        output: &mut Vec<u8>,
    ) -> Result<Step, HandshakeError> {
        let answered = match answer {
            Answer::Enter => return self.enter(data, exports, output).map(Step::Transmission),
            Answer::End => {
                answer::reply(output, option, rep::ACK, &[]);
                return Ok(Step::Aborted);
            }
            Answer::Inform | Answer::Go => self
                .inform(option, data, exports, output)
                .map(|negotiated| (answer == Answer::Go).then_some(negotiated)),
            Answer::List => answer::list(output, option, &exports.list()).map(|()| None),
            Answer::ListContexts => list_contexts(option, data, exports, output).map(|()| None),
            Answer::SetContexts => self.set_contexts(option, data, exports, output).map(|()| None),
            Answer::Become(style) => {
                self.mode = Mode::Haggling(style);
                Ok(None)
            }
            Answer::Refuse(code, text) => Err(Refused::new(code, text)),
        };
        match answered {
            Ok(negotiated) => {
                answer::reply(output, option, rep::ACK, &[]);
                Ok(negotiated.map_or(Step::More, Step::Transmission))
            }
            Err(refused) => {
                answer::refuse(output, option, &refused);
                Ok(Step::More)
            }
        }
    }

    /// `EXPORT_NAME`: there is no way to refuse but to close.
    fn enter(
        &self,
        data: &[u8],
        exports: &dyn Exports,
        output: &mut Vec<u8>,
    ) -> Result<Negotiated, HandshakeError> {
        let name = name_of(data).map_err(|_| HandshakeError::BadName)?;
        let info = exports.find(name).ok_or_else(|| HandshakeError::UnknownExport(name.into()))?;
        let negotiated = self.negotiated(&info);
        BeMut(output).u64(info.len_bytes()).u16(negotiated.session.flags.to_wire());
        if !self.no_zeroes {
            output.extend_from_slice(&[0; wire::EXPORT_NAME_ZEROES_BYTES]);
        }
        Ok(negotiated)
    }

    /// `INFO` and `GO`, up to the acknowledgement.
    fn inform(
        &self,
        option: u32,
        data: &[u8],
        exports: &dyn Exports,
        output: &mut Vec<u8>,
    ) -> Result<Negotiated, Refused> {
        let request = InfoRequest::parse(data)?;
        let info = exports.find(request.name).ok_or_else(|| Refused::unknown(request.name))?;
        let negotiated = self.negotiated(&info);
        // Whoever only asks may still negotiate contexts.
        let flags = match option {
            opt::INFO => info.flags(negotiated.session.style, true),
            _ => negotiated.session.flags,
        };
        answer::inform(output, option, &request, &info, flags);
        Ok(negotiated)
    }

    fn set_contexts(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &dyn Exports,
        output: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        self.selected = None; // Spec: replaced even if this fails
        let request = MetaRequest::parse(data)?;
        let info = exports.find(request.name).ok_or_else(|| Refused::unknown(request.name))?;
        let contexts = request.select(info.contexts());
        answer::contexts(output, option, info.contexts(), contexts, true);
        self.selected = Some(Selection { info, contexts });
        Ok(())
    }

    /// What a client that enters `info` now has negotiated. Spec "`NBD_OPT_SET_META_CONTEXT`": a selection counts for the
    /// export that it named. An export whose contexts changed meanwhile is another export: its numbers mean something else.
    fn negotiated(&self, info: &ExportInfo) -> Negotiated {
        let same = |old: &ExportInfo| old.export() == info.export() && old.contexts() == info.contexts();
        let contexts = match &self.selected {
            Some(selection) if same(&selection.info) => selection.contexts,
            _ => ContextSet::EMPTY,
        };
        let style = self.mode.style();
        let session = Session {
            style,
            flags: info.flags(style, !contexts.is_empty()),
            len_bytes: info.len_bytes(),
            block: info.block(),
            contexts,
        };
        Negotiated { export: info.export(), no_zeroes: self.no_zeroes, session }
    }
}

fn list_contexts(
    option: u32,
    data: &[u8],
    exports: &dyn Exports,
    output: &mut Vec<u8>,
) -> Result<(), Refused> {
    let request = MetaRequest::parse(data)?;
    let info = exports.find(request.name).ok_or_else(|| Refused::unknown(request.name))?;
    answer::contexts(output, option, info.contexts(), request.matches(info.contexts()), false);
    Ok(())
}

/// Lengths on the wire have 32 bits, and so has the smallest `usize` that this is built for.
fn usize_of(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
