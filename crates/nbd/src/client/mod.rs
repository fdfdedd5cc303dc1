//! The client's side: the handshake here, requests and replies in [`Transmission`].
//!
//! ```text
//! Greeting ─► ExtendedHeaders ─► StructuredReply ─► Contexts ─┬─► Export (GO)   ─► Entered
//!    │             │ ack ───────────────────────────►│        │      │ unsup
//!    │             (each only if it is wanted)                │      ▼
//!    ├── a server without fixed newstyle ─────────────────────┼─► ExportName    ─► Entered
//!    ├── a server of the old style: it names its only export ─┼─► Oldstyle      ─► Entered
//!                                                             ├─► Export (INFO) ─► Leaving (ABORT) ─► Inspected
//!                                                             └─► Listing       ─► Leaving (ABORT) ─► Listed
//! ```
//! Exactly one option is under way at any time (Spec "Fixed newstyle negotiation": the next one waits for the final reply).
//! What the server refuses to improve (headers, contexts) is done without; what it refuses to give (the export) is an error.
//!
//! Not here: TLS (refused with an error that says so), connecting, time limits.

mod fact;
mod pending;
mod transmission;

use crate::gather::Gather;
use crate::limit;
use crate::wire::{self, Style, handshake, opt, rep};
use drystone_base::{Be, BeMut, Error, Kind};
use fact::Facts;
use std::mem;

pub use fact::{ExportFacts, ListedExport};
pub use transmission::{Event, ReplyError, SendError, Transmission, What};

/// What a client wants of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// The names of all exports.
    List,
    /// What is known of an export, its metadata contexts included.
    Inspect {
        /// The name; empty for the default export.
        export: String,
    },
    /// The use of an export.
    Enter {
        /// The name; empty for the default export.
        export: String,
        /// The metadata contexts to select, by their full names.
        contexts: Vec<String>,
    },
}

/// A handshake in progress. Keeps one reply and the facts that it collects, within [`limit::REPLIES_BYTES_MAX`].
#[derive(Debug)]
pub struct ClientHandshake {
    goal: Goal,
    wanted: Style,
    stage: Stage,
    reading: Option<ReplyHead>,
    gather: Gather,
    style: Style,
    no_zeroes: bool,
    facts: Facts,
    replies: u32,
    bytes: u64,
}

/// Whose answer is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    ExtendedHeaders,
    StructuredReply,
    Contexts,
    Export,
    ExportName,
    Oldstyle,
    Listing,
    Leaving,
    Over,
}

/// The head of a reply whose data are being read.
#[derive(Debug, Clone, Copy)]
struct ReplyHead {
    kind: u32,
    len: u32,
}

/// Where a handshake stands after some input.
#[derive(Debug)]
pub enum Step {
    /// Send the output and feed more.
    More,
    /// The exports. Send the output and close.
    Listed(Vec<ListedExport>),
    /// The facts. Send the output and close.
    Inspected(ExportFacts),
    /// What is left of the input are replies.
    Entered(Box<Transmission>),
}

/// Why a handshake was given up. The connection has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not an NBD server.
    #[error("the server does not speak NBD")]
    NotNbd,
    /// Spec "Oldstyle negotiation": there is one export, and it has no name.
    #[error("the server speaks the old style only, which can neither name, list nor describe exports")]
    Oldstyle,
    /// The goal needs answers to options.
    #[error("the server speaks the unfixed new style only, which can neither list nor describe exports")]
    NotFixed,
    /// A name or list of contexts that the protocol cannot carry.
    #[error("the export's name or the list of contexts is too long, or has a NUL byte inside")]
    BadGoal,
    /// A reply that does not fit what was asked.
    #[error("the server answered with {0}")]
    Unexpected(&'static str),
    /// Above a limit for replies.
    #[error("the server's replies are too long")]
    TooLong,
    /// The server refused an option that the goal needs.
    #[error("the server refused option {option} with error {code:#x}: '{text}'")]
    Refused {
        /// The option.
        option: u32,
        /// The error reply.
        code: u32,
        /// The server's words, printable characters only.
        text: String,
    },
    /// The server closed the connection. To an `EXPORT_NAME` of an export that it does not have it must not do else.
    #[error("the server closed the connection during the handshake")]
    Closed,
    /// Input after the end of the handshake, or after an error.
    #[error("the handshake is over")]
    Over,
}

impl From<HandshakeError> for Error {
    fn from(cause: HandshakeError) -> Self {
        let kind = match &cause {
            HandshakeError::Oldstyle | HandshakeError::NotFixed => Kind::Unsupported,
            HandshakeError::BadGoal => Kind::InvalidInput,
            HandshakeError::Refused { code, .. } => match *code {
                rep::ERR_UNKNOWN => Kind::NotFound,
                rep::ERR_POLICY | rep::ERR_TLS_REQD => Kind::PermissionDenied,
                rep::ERR_SHUTDOWN => Kind::Disconnected,
                _ => Kind::Unsupported,
            },
            _ => Kind::Disconnected,
        };
        Self::new(kind, "cannot negotiate with the NBD server").because(cause)
    }
}

impl ClientHandshake {
    /// A client that waits for the server's greeting. `style` is the best that it can do.
    ///
    /// # Errors
    /// [`HandshakeError::BadGoal`] if the protocol cannot carry a name.
    pub fn new(goal: Goal, style: Style) -> Result<Self, HandshakeError> {
        let (export, contexts): (&str, &[String]) = match &goal {
            Goal::List => ("", &[]),
            Goal::Inspect { export } => (export, &[]),
            Goal::Enter { export, contexts } => (export, contexts),
        };
        let bad = |text: &str| text.len() > limit::STRING_BYTES_MAX || text.contains('\0');
        if bad(export) || contexts.len() > limit::CONTEXTS_MAX || contexts.iter().any(|name| bad(name)) {
            return Err(HandshakeError::BadGoal);
        }
        Ok(Self {
            goal,
            wanted: style,
            stage: Stage::Greeting,
            reading: None,
            gather: Gather::default(),
            style: Style::Simple,
            no_zeroes: false,
            facts: Facts::default(),
            replies: 0,
            bytes: 0,
        })
    }

    /// Takes bytes from the server and appends what to send to `output`. Returns how many bytes were used: all, unless the
    /// handshake ended; the rest are replies to requests.
    ///
    /// # Errors
    /// [`HandshakeError`] if the goal cannot be reached. Send the output and close.
    pub fn receive(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(usize, Step), HandshakeError> {
        let mut rest = input;
        let result = self.run(&mut rest, output);
        if !matches!(result, Ok(Step::More)) {
            self.stage = Stage::Over;
            self.gather.take();
        }
        Ok((input.len() - rest.len(), result?))
    }

    /// The server closed the connection. Spec "`NBD_OPT_ABORT`": it may do so instead of an answer to a goodbye.
    ///
    /// # Errors
    /// [`HandshakeError::Closed`] if the goal was not reached before.
    pub fn closed(&mut self) -> Result<Step, HandshakeError> {
        match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Leaving => self.left(),
            _ => Err(HandshakeError::Closed),
        }
    }

    fn run(&mut self, rest: &mut &[u8], output: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        loop {
            let want = match (self.stage, self.reading) {
                (Stage::Over, _) => return Err(HandshakeError::Over),
                (Stage::Greeting, _) => wire::GREETING_BYTES,
                (Stage::ExportName, _) => {
                    10 + if self.no_zeroes { 0 } else { wire::EXPORT_NAME_ZEROES_BYTES }
                }
                (Stage::Oldstyle, _) => wire::OLDSTYLE_BYTES,
                (_, None) => wire::OPTION_REPLY_HEAD_BYTES,
                (_, Some(head)) => usize::try_from(head.len).unwrap_or(usize::MAX),
            };
            if !self.gather.fill(want, rest) {
                return Ok(Step::More);
            }
            let data = self.gather.take();
            match (self.stage, self.reading.take()) {
                (Stage::Greeting, _) => self.greeted(&data, output)?,
                (Stage::ExportName, _) => {
                    self.facts.export(&data)?;
                    return self.entered();
                }
                (Stage::Oldstyle, _) => {
                    self.facts.oldstyle(&data)?;
                    return self.entered();
                }
                (_, None) => self.reading = Some(self.reply_head(&data)?),
                (_, Some(head)) => {
                    if let Some(step) = self.reply(head, &data, output)? {
                        return Ok(step);
                    }
                }
            }
        }
    }

    fn greeted(&mut self, data: &[u8], output: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let mut be = Be(data);
        match (be.u64(), be.u64()) {
            (Ok(wire::MAGIC_INIT), Ok(wire::MAGIC_OPTION)) => {}
            (Ok(wire::MAGIC_INIT), Ok(wire::MAGIC_OLDSTYLE)) => return self.greeted_of_old(be.0),
            _ => return Err(HandshakeError::NotNbd),
        }
        let flags = be.u16().unwrap_or(0) & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES); // Spec: ignore others
        let fixed = flags & handshake::FIXED_NEWSTYLE != 0;
        if !fixed && !matches!(self.goal, Goal::Enter { .. }) {
            return Err(HandshakeError::NotFixed);
        }
        self.no_zeroes = flags & handshake::NO_ZEROES != 0;
        BeMut(output).u32(u32::from(flags));
        self.go_to(if fixed { self.first_stage() } else { Stage::ExportName }, output);
        Ok(())
    }

    /// Spec "Oldstyle negotiation": the length follows, of which the greeting has the first two bytes. The server has only
    /// one export, which has no name.
    fn greeted_of_old(&mut self, rest: &[u8]) -> Result<(), HandshakeError> {
        if !matches!(&self.goal, Goal::Enter { export, .. } if export.is_empty()) {
            return Err(HandshakeError::Oldstyle);
        }
        self.stage = Stage::Oldstyle;
        let mut begun = rest;
        self.gather.fill(rest.len(), &mut begun);
        Ok(())
    }

    /// Sends the option of a stage and awaits its answer.
    fn go_to(&mut self, stage: Stage, output: &mut Vec<u8>) {
        self.stage = stage;
        let mut data = Vec::new();
        if let Some(option) = self.option() {
            match (stage, &self.goal) {
                (Stage::Contexts, Goal::Enter { export, contexts }) => {
                    fact::ask_contexts(&mut data, export, contexts)
                }
                (Stage::Contexts, Goal::Inspect { export }) => fact::ask_contexts(&mut data, export, &[]),
                (Stage::Export, Goal::Inspect { export } | Goal::Enter { export, .. }) => {
                    fact::ask_facts(&mut data, export);
                }
                (Stage::ExportName, Goal::Enter { export, .. }) => data.extend_from_slice(export.as_bytes()),
                _ => {}
            }
            let len = u32::try_from(data.len()).unwrap_or(u32::MAX); // names and contexts are limited
            BeMut(output).u64(wire::MAGIC_OPTION).u32(option).u32(len).bytes(&data);
        }
    }

    /// The option of the present stage.
    const fn option(&self) -> Option<u32> {
        let enters = matches!(self.goal, Goal::Enter { .. });
        Some(match self.stage {
            Stage::Greeting | Stage::Oldstyle | Stage::Over => return None,
            Stage::ExtendedHeaders => opt::EXTENDED_HEADERS,
            Stage::StructuredReply => opt::STRUCTURED_REPLY,
            Stage::Contexts if enters => opt::SET_META_CONTEXT,
            Stage::Contexts => opt::LIST_META_CONTEXT,
            Stage::Export if enters => opt::GO,
            Stage::Export => opt::INFO,
            Stage::ExportName => opt::EXPORT_NAME,
            Stage::Listing => opt::LIST,
            Stage::Leaving => opt::ABORT,
        })
    }

    const fn first_stage(&self) -> Stage {
        match (&self.goal, self.wanted) {
            (Goal::List, _) => Stage::Listing,
            (_, Style::Extended) => Stage::ExtendedHeaders,
            (_, Style::Structured) => Stage::StructuredReply,
            (_, Style::Simple) => Stage::Export,
        }
    }

    /// The stage after the headers were settled.
    fn after_headers(&self) -> Stage {
        let wants_contexts = match &self.goal {
            Goal::List => false,
            Goal::Inspect { .. } => true,
            Goal::Enter { contexts, .. } => !contexts.is_empty(),
        };
        if wants_contexts && self.style != Style::Simple { Stage::Contexts } else { Stage::Export }
    }

    fn reply_head(&mut self, data: &[u8]) -> Result<ReplyHead, HandshakeError> {
        let mut be = Be(data);
        let (magic, option) = (be.u64().unwrap_or(0), be.u32().unwrap_or(0));
        let head = ReplyHead { kind: be.u32().unwrap_or(0), len: be.u32().unwrap_or(u32::MAX) };
        if magic != wire::MAGIC_OPTION_REPLY {
            return Err(HandshakeError::Unexpected("something else than a reply"));
        }
        if self.option() != Some(option) {
            return Err(HandshakeError::Unexpected("a reply to another option"));
        }
        self.replies += 1;
        self.bytes += u64::from(head.len);
        let short = head.len <= limit::OPTION_REPLY_BYTES_MAX;
        if short && self.replies <= limit::REPLIES_MAX && self.bytes <= limit::REPLIES_BYTES_MAX {
            Ok(head)
        } else {
            Err(HandshakeError::TooLong)
        }
    }

    fn reply(
        &mut self,
        head: ReplyHead,
        data: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Step>, HandshakeError> {
        match (head.kind, self.stage) {
            (rep::ACK, _) => self.accepted(output),
            (kind, _) if kind & rep::ERROR_BIT != 0 => self.refused(kind, data, output),
            (rep::META_CONTEXT, Stage::Contexts) => self.context(data).map(|()| None),
            (rep::INFO, Stage::Export) => self.facts.info(data).map(|()| None),
            (rep::SERVER, Stage::Listing) => self.facts.listed(data).map(|()| None),
            _ => Err(HandshakeError::Unexpected("a reply of another kind")),
        }
    }

    /// Spec "`NBD_OPT_SET_META_CONTEXT`": each number is unique. Contexts that were not asked for have no reader.
    fn context(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        self.facts.context(data)?;
        let (Goal::Enter { contexts, .. }, Some(((id, name), before))) =
            (&self.goal, self.facts.contexts.split_last())
        else {
            return Ok(());
        };
        if contexts.contains(name) && before.iter().all(|(other, twin)| other != id && twin != name) {
            Ok(())
        } else {
            Err(HandshakeError::Unexpected("a context that was not asked for, or twice"))
        }
    }

    fn accepted(&mut self, output: &mut Vec<u8>) -> Result<Option<Step>, HandshakeError> {
        match self.stage {
            Stage::ExtendedHeaders => self.style = Style::Extended,
            Stage::StructuredReply => self.style = Style::Structured,
            Stage::Export if matches!(self.goal, Goal::Enter { .. }) => return self.entered().map(Some),
            Stage::Leaving => return self.left().map(Some),
            _ => {}
        }
        self.go_to(
            match self.stage {
                Stage::ExtendedHeaders | Stage::StructuredReply => self.after_headers(),
                Stage::Contexts => Stage::Export,
                _ => Stage::Leaving,
            },
            output,
        );
        Ok(None)
    }

    fn refused(
        &mut self,
        code: u32,
        text: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Step>, HandshakeError> {
        let enters = matches!(self.goal, Goal::Enter { .. });
        let next = match self.stage {
            _ if code == rep::ERR_SHUTDOWN || code == rep::ERR_TLS_REQD => None,
            Stage::ExtendedHeaders => Some(Stage::StructuredReply),
            Stage::StructuredReply => Some(self.after_headers()),
            Stage::Contexts => {
                self.facts.contexts.clear(); // Spec: disregard what was sent before the error
                Some(Stage::Export)
            }
            // Spec "`NBD_OPT_GO`": an old server; extended headers exclude the old way in.
            Stage::Export if code == rep::ERR_UNSUP && enters && self.style != Style::Extended => {
                Some(Stage::ExportName)
            }
            Stage::Leaving => return self.left().map(Some),
            _ => None,
        };
        match (next, self.option()) {
            (Some(stage), _) => {
                self.go_to(stage, output);
                Ok(None)
            }
            (None, option) => {
                self.go_to(Stage::Leaving, output);
                let option = option.unwrap_or(0);
                Err(HandshakeError::Refused { option, code, text: fact::printable(text) })
            }
        }
    }

    fn entered(&mut self) -> Result<Step, HandshakeError> {
        let facts = mem::take(&mut self.facts).finish(self.style)?;
        Ok(Step::Entered(Box::new(Transmission::new(self.style, facts))))
    }

    fn left(&mut self) -> Result<Step, HandshakeError> {
        let facts = mem::take(&mut self.facts);
        Ok(match self.goal {
            Goal::List => Step::Listed(facts.listed),
            Goal::Inspect { .. } | Goal::Enter { .. } => Step::Inspected(facts.finish(self.style)?),
        })
    }
}

#[cfg(test)]
mod tests;
