//! Which option is answered how. The whole haggling on one screen:
//!
//! | option | unfixed | simple | structured | extended | its data |
//! |---|---|---|---|---|---|
//! | `EXPORT_NAME` | enter | enter | enter | close | a name; too long: close |
//! | `ABORT` | close | end | end | end | ignored |
//! | `LIST` | close | list | list | list | none |
//! | `STARTTLS` | close | unsup | unsup | unsup | none |
//! | `INFO` | close | inform | inform | inform | kept |
//! | `GO` | close | inform, enter | same | same | kept |
//! | `STRUCTURED_REPLY` | close | → structured | invalid | ext-header-reqd | none |
//! | `LIST_META_CONTEXT` | close | list | list | list | kept |
//! | `SET_META_CONTEXT` | close | invalid | select | select | kept |
//! | `EXTENDED_HEADERS` | close | → extended | → extended | invalid | none |
//! | any other | close | unsup | unsup | unsup | ignored |
//!
//! "None" means that data are refused (invalid), "kept" that up to [`limit::OPTION_BYTES_MAX`] bytes are read and more are
//! refused (too big). Data of a refused option are skipped. More than [`limit::OPTION_SKIP_BYTES_MAX`] of any option: close.
//!
//! As release 10.0: `LIST_META_CONTEXT` is answered without structured replies (Spec: may), a second `STRUCTURED_REPLY` is not.

use super::HandshakeError;
use crate::limit;
use crate::wire::{Style, opt, rep};

/// How far the haggling got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The client takes no answers.
    Unfixed,
    /// The client takes answers, and has negotiated these headers.
    Haggling(Style),
}

impl Mode {
    pub(super) const fn style(self) -> Style {
        match self {
            Self::Unfixed => Style::Simple,
            Self::Haggling(style) => style,
        }
    }
}

/// What an option gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Enter,
    End,
    List,
    Inform,
    Go,
    Become(Style),
    ListContexts,
    SetContexts,
    Refuse(u32, &'static str),
}

/// What is done with an option's data before it gets its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Keep(Answer),
    Skip(Answer),
}

/// The answer of the table.
pub(super) const fn answer(mode: Mode, option: u32) -> Result<Answer, HandshakeError> {
    use Answer as A;
    use Style::{Extended, Simple, Structured};
    let style = match (mode, option) {
        (Mode::Unfixed, opt::EXPORT_NAME) => return Ok(A::Enter),
        (Mode::Unfixed, _) => return Err(HandshakeError::NotFixed(option)),
        (Mode::Haggling(style), _) => style,
    };
    Ok(match (option, style) {
        (opt::EXPORT_NAME, Simple | Structured) => A::Enter,
        (opt::EXPORT_NAME, Extended) => return Err(HandshakeError::ExportNameExtended),
        (opt::ABORT, _) => A::End,
        (opt::LIST, _) => A::List,
        (opt::STARTTLS, _) => A::Refuse(rep::ERR_UNSUP, "this server has no TLS"),
        (opt::INFO, _) => A::Inform,
        (opt::GO, _) => A::Go,
        (opt::STRUCTURED_REPLY, Simple) => A::Become(Structured),
        (opt::STRUCTURED_REPLY, Structured) => {
            A::Refuse(rep::ERR_INVALID, "structured replies are in use already")
        }
        (opt::STRUCTURED_REPLY, Extended) => {
            A::Refuse(rep::ERR_EXT_HEADER_REQD, "extended headers are in use")
        }
        (opt::LIST_META_CONTEXT, _) => A::ListContexts,
        (opt::SET_META_CONTEXT, Simple) => A::Refuse(rep::ERR_INVALID, "structured replies come first"),
        (opt::SET_META_CONTEXT, Structured | Extended) => A::SetContexts,
        (opt::EXTENDED_HEADERS, Simple | Structured) => A::Become(Extended),
        (opt::EXTENDED_HEADERS, Extended) => {
            A::Refuse(rep::ERR_INVALID, "extended headers are in use already")
        }
        _ => A::Refuse(rep::ERR_UNSUP, "this server does not know the option"),
    })
}

/// The answer of the table, and whether the data matter to it.
pub(super) fn plan(mode: Mode, option: u32, len: u32) -> Result<Plan, HandshakeError> {
    use Answer as A;
    if len > limit::OPTION_SKIP_BYTES_MAX {
        return Err(HandshakeError::OptionTooLong { option, len });
    }
    let answer = answer(mode, option)?;
    Ok(match answer {
        A::Enter if super::usize_of(len) > limit::STRING_BYTES_MAX => return Err(HandshakeError::BadName),
        A::Enter => Plan::Keep(answer),
        A::Inform | A::Go | A::ListContexts | A::SetContexts if len > limit::OPTION_BYTES_MAX => {
            Plan::Skip(A::Refuse(rep::ERR_TOO_BIG, "the option's data are too long"))
        }
        A::Inform | A::Go | A::ListContexts | A::SetContexts => Plan::Keep(answer),
        A::List | A::Become(_) if len > 0 => {
            Plan::Skip(A::Refuse(rep::ERR_INVALID, "the option takes no data"))
        }
        A::List | A::Become(_) | A::End | A::Refuse(..) => Plan::Skip(answer),
    })
}
