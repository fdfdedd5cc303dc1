//! [`Step`]: one thing that an actor does, as data.
//!
//! | line | what |
//! |---|---|
//! | `wait 1500` | lets so many nanoseconds pass |
//! | `read 0..4K`, `write 0..4K`, ... | a request ([`Request`]) |
//! | `abandon 3 write 0..4K` | a request whose caller goes away after three polls |
//! | `snapshot ...`, `drain ...`, ... | a change of the graph ([`Change`]) |

mod change;
mod request;

use std::fmt;

use crate::words::{BadWord, Words};

pub use change::{Change, Target, VisitKind};
pub use request::Request;

/// One step of an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Lets so many nanoseconds pass.
    Wait(u64),
    /// Makes a request and waits for it.
    Request(Request),
    /// Makes a request and forgets it after so many polls.
    Abandon(u64, Request),
    /// Changes the graph.
    Change(Change),
}

impl Step {
    pub(crate) fn parse(line: &str) -> Result<Self, BadWord> {
        let mut words = Words::of(line);
        let verb = words.word("a step")?;
        let step = match verb {
            "wait" => Self::Wait(words.value("a number of nanoseconds")?),
            "abandon" => {
                let polls = words.value("a number of polls")?;
                let verb = words.word("a request")?;
                match Request::parse(verb, &mut words)? {
                    Some(request) => Self::Abandon(polls, request),
                    None => return Err(BadWord(format!("'{verb}' is no request"))),
                }
            }
            _ => Self::parse_verb(verb, &mut words)?,
        };
        words.end().map(|()| step)
    }

    fn parse_verb(verb: &str, words: &mut Words<'_>) -> Result<Self, BadWord> {
        if let Some(request) = Request::parse(verb, words)? {
            return Ok(Self::Request(request));
        }
        match Change::parse(verb, words)? {
            Some(change) => Ok(Self::Change(change)),
            None => Err(BadWord(format!("nobody knows how to '{verb}'"))),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(ns) => write!(f, "wait {ns}"),
            Self::Request(request) => request.fmt(f),
            Self::Abandon(polls, request) => write!(f, "abandon {polls} {request}"),
            Self::Change(change) => change.fmt(f),
        }
    }
}
